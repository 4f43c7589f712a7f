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
# Variables that begin like this are ours. (WAREHOUSE_DIR may belong to another program.)
_MEANT = {
    API: re.compile("SOURCES_+TWILIO_+VERIFY_+", re.IGNORECASE),
    WAREHOUSE: re.compile("WAREHOUSE_(_|PUBLISH|VERIFICATION|FEE|PUMPING)", re.IGNORECASE),
}
# A section that resembles one of these must be ours. Others belong to dlt or other pipelines.
_ALIKE = {API: API, "twilio_verify": API, WAREHOUSE: WAREHOUSE}


def prepare(known: Mapping[str, set[str]]) -> Path:
    """Makes dlt read the same `.dlt` folder as we do; returns the folder for relative paths.

    `known` maps each of our sections to its settings. Raises Misuse for other names in them, and
    for a file that is not TOML.
    """
    project = project_directory()
    os.environ["DLT_PROJECT_DIR"] = str(project)  # dlt then reads the same .dlt
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"  # we connect to Twilio only
    # dlt's own log may quote a row. Failures reach us as exceptions, and those are redacted.
    os.environ.setdefault("RUNTIME__LOG_LEVEL", "CRITICAL")
    try:
        _refuse_misspelt(known)
    except TomlProviderReadException as error:
        raise Misuse(" ".join(str(error).split())) from error
    return project


def project_directory() -> Path:
    """The folder of `.dlt` and of relative paths: DLT_PROJECT_DIR, if set.

    Else the current folder if it has a `.dlt`, else the source checkout if that has one, else the
    current folder. The `.dlt` of the home directory does not count: it belongs to dlt itself, and
    cron starts there.
    """
    if "DLT_PROJECT_DIR" in os.environ:
        return Path(os.environ["DLT_PROJECT_DIR"])
    checkout = Path(__file__).resolve().parents[1]
    is_here = Path(".dlt").is_dir() and not _is_home(Path.cwd())
    elsewhere = not is_here and (checkout / ".dlt").is_dir()
    return checkout if elsewhere else Path.cwd()


def _is_home(folder: Path) -> bool:
    with suppress(OSError, RuntimeError):  # there is no home directory
        return folder.samefile(Path.home())
    return False


def read(section: str, name: str, kind: type[T], default: T | None) -> Any:
    """One setting, by its full name only: a `COUNTRY=US` in the environment is not meant for us."""
    try:
        value = dlt.config.get(f"{section}.{name}", kind)
    except ValueError:
        given: Any = dlt.config.get(f"{section}.{name}")
        what = _KINDS.get(kind, kind.__name__)
        raise Misuse(f"{section}.{name}: '{given}' is not {what}") from None
    if value == "":
        raise Misuse(f"{section}.{name}: empty; remove it to use the default")
    return default if value is None else value


def read_secret(section: str, name: str) -> str | None:
    """One setting that may be in secrets.toml; None if it is not set."""
    found: str | None = dlt.secrets.get(f"{section}.{name}", str)
    return found


def _refuse_misspelt(known: Mapping[str, set[str]]) -> None:
    """Raises Misuse for an unknown setting or section, and for a setting outside its section.

    dlt would ignore these, and a sync without its filter reads everything. Checks the environment
    and dlt's files.
    """
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
            raise Misuse(f"{found[section]}: no such section; use [{_ALIKE[alike]}]")


def _refuse_names(section: str, names: set[str], files: list[dict[str, Any]]) -> None:
    prefix = section.replace(".", "__").upper() + "__"
    variables = {prefix + name.upper() for name in names}
    given = [v for v in os.environ if _MEANT[section].match(v) and v not in variables]
    for file in files:
        given += [f"{section}.{name}" for name in _table(file, section) if name not in names]
    if given:
        there_are = ", ".join(sorted(names - {"status"}))
        raise Misuse(
            f"{given[0]}: no such setting; [{section}] (in the environment: {prefix}…) has "
            f"{there_are}"
        )


def _sections(file: dict[str, Any]) -> Iterator[str]:
    """The names of the tables of a file, and of the tables in these."""
    for name, table in file.items():
        if isinstance(table, dict):
            yield name
            yield from (f"{name}.{inner}" for inner, of in table.items() if isinstance(of, dict))


def _table(file: dict[str, Any], section: str) -> dict[str, Any]:
    table: Any = file
    for name in section.split("."):
        table = table.get(name) if isinstance(table, dict) else None
    return table if isinstance(table, dict) else {}
