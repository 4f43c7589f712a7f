"""Settings that are meant for us and would be ignored: a filter among them reads everything."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

import dlt
import tomlkit
from dlt.common.configuration.providers.doc import BaseDocProvider

from pipelines.errors import Misuse

API, WAREHOUSE = "sources.twilio_verify", "warehouse"
# How variables begin that are meant for us. (WAREHOUSE_DIR may well be somebody else's.)
_MEANT = {
    API: re.compile("SOURCES_+TWILIO_+VERIFY_+", re.IGNORECASE),
    WAREHOUSE: re.compile("WAREHOUSE_(_|PUBLISH|VERIFICATION|FEE|PUMPING)", re.IGNORECASE),
}
# What a section that is meant for us may be written like. Others are dlt's, or other pipelines'.
_ALIKE = {API: API, "twilio_verify": API, WAREHOUSE: WAREHOUSE}


def refuse_misspelt(known: Mapping[str, set[str]]) -> None:
    """Raises Misuse for a name that is none of `known`, the settings of each section, and for one
    of them in another place. Looks at the environment and dlt's files."""
    files = [
        tomlkit.parse(provider.to_toml()).unwrap()
        for provider in dlt.config.config_providers
        if isinstance(provider, BaseDocProvider)
    ]
    for section, names in known.items():
        _refuse_names(section, names, files)
        outside = {name for file in files for name in (*file, *_table(file, "sources"))}
        for name in sorted(names & outside):
            raise Misuse(f"{name}: outside of its section; put it below [{section}]")
    found = {v.lower().rpartition("__")[0].replace("__", "."): v for v in os.environ}
    found |= {section: f"[{section}]" for file in files for section in _sections(file)}
    for section in sorted(found.keys() - known.keys()):
        for alike in get_close_matches(section, _ALIKE, 1, 0.85):
            raise Misuse(f"{found[section]}: no such section; [{_ALIKE[alike]}] must be meant")


def _refuse_names(section: str, names: set[str], files: list[dict[str, Any]]) -> None:
    prefix = section.replace(".", "__").upper() + "__"
    variables = {prefix + name.upper() for name in names}
    given = [v for v in os.environ if _MEANT[section].match(v) and v not in variables]
    for file in files:
        given += [f"{section}.{name}" for name in _table(file, section) if name not in names]
    if given:
        there_are = ", ".join(sorted(names - {"status"}))
        raise Misuse(
            f"{given[0]}: no such setting; in [{section}], or in the environment after {prefix}, "
            f"there are {there_are}"
        )


def _sections(file: dict[str, Any]) -> Iterator[str]:
    """The names of its tables and of those in them."""
    for name, table in file.items():
        if isinstance(table, dict):
            yield name
            yield from (f"{name}.{inner}" for inner, of in table.items() if isinstance(of, dict))


def _table(file: dict[str, Any], section: str) -> dict[str, Any]:
    table: Any = file
    for name in section.split("."):
        table = table.get(name) if isinstance(table, dict) else None
    return table if isinstance(table, dict) else {}
