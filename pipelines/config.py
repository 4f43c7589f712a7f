"""Reads dlt's configuration (.dlt/*.toml, environment). What the settings mean: settings."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

import dlt
import tomlkit
from dlt.common.configuration.providers.doc import BaseDocProvider
from dlt.common.configuration.providers.toml import TomlProviderReadException

from pipelines.errors import Misuse

API, WAREHOUSE = "sources.twilio_verify", "warehouse"
T = TypeVar("T")
_KINDS = {int: "a whole number", float: "a number", list: "a list such as ['15m', '26h', '3d']"}
# How variables begin that are meant for us. (WAREHOUSE_DIR may well be somebody else's.)
_MEANT = {
    API: re.compile("SOURCES_+TWILIO_+VERIFY_+", re.IGNORECASE),
    WAREHOUSE: re.compile("WAREHOUSE_(_|PUBLISH|VERIFICATION|FEE|PUMPING)", re.IGNORECASE),
}
# What a section that is meant for us may be written like. Others are dlt's, or other pipelines'.
_ALIKE = {API: API, "twilio_verify": API, WAREHOUSE: WAREHOUSE}


def prepare(known: Mapping[str, set[str]]) -> Path:
    """Has dlt look where we do; returns the folder that relative paths begin in.

    `known` are the settings of each of our sections. Raises Misuse for other names in them, and
    for a file that is not TOML.
    """
    project = project_directory()
    os.environ["DLT_PROJECT_DIR"] = str(project)  # dlt looks for .dlt where we do
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"  # Twilio is the only peer, wherever we run
    # dlt's own log may quote a row; whatever fails reaches us as an exception, and is redacted.
    os.environ.setdefault("RUNTIME__LOG_LEVEL", "CRITICAL")
    try:
        _refuse_misspelt(known)
    except TomlProviderReadException as error:
        raise Misuse(" ".join(str(error).split())) from error
    return project


def project_directory() -> Path:
    """Where `.dlt` is looked for and relative paths begin: here, else the source checkout.

    Here is not the home directory, where cron begins: the `.dlt` in that is dlt's, for everyone.
    """
    if "DLT_PROJECT_DIR" in os.environ:
        return Path(os.environ["DLT_PROJECT_DIR"])
    checkout = Path(__file__).resolve().parents[1]
    is_here = Path(".dlt").is_dir() and not _is_home(Path.cwd())
    elsewhere = not is_here and (checkout / ".dlt").is_dir()
    return checkout if elsewhere else Path.cwd()


def _is_home(folder: Path) -> bool:
    with suppress(OSError, RuntimeError):  # there is none
        return folder.samefile(Path.home())
    return False


def read(section: str, name: str, kind: type[T], default: T | None) -> Any:
    """One setting by its full name only: `COUNTRY=US` in the environment is not ours to read."""
    try:
        value = dlt.config.get(f"{section}.{name}", kind)
    except ValueError:
        given: Any = dlt.config.get(f"{section}.{name}")
        what = _KINDS.get(kind, kind.__name__)
        raise Misuse(f"{section}.{name}: '{given}' is not {what}") from None
    if value == "":
        raise Misuse(f"{section}.{name}: empty; leave it out for its default")
    return default if value is None else value


def read_secret(section: str, name: str) -> str | None:
    """One that may stand in secrets.toml; None if it is not given."""
    found: str | None = dlt.secrets.get(f"{section}.{name}", str)
    return found


def _refuse_misspelt(known: Mapping[str, set[str]]) -> None:
    """Raises Misuse for a name that is none of `known`, the settings of each section, and for one
    of them in another place: it would be ignored, and without a filter everything is read. Looks at
    the environment and dlt's files."""
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
