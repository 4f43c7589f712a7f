"""Reads dlt's configuration (.dlt/*.toml, environment). What the settings mean: settings."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import tomlkit

from pipelines.errors import Failure, Misuse, masked
from pipelines.text import text_of

API, WAREHOUSE = "sources.twilio_verify", "warehouse"
_KINDS = {int: "a whole number", float: "a number", list: "a list such as ['15m', '26h', '3d']"}
# A section that resembles one of these must be ours. Others belong to dlt or other pipelines.
_ALIKE = {API: API, "twilio_verify": API, WAREHOUSE: WAREHOUSE}


class Config:
    """The settings that were given: in the environment, else in `.dlt` of the `project` folder,
    else in dlt's folder for all projects. These are dlt's own names and places. It is not dlt that
    reads them: it would also connect to what others have configured there, such as Sentry.

    `known` maps each of our sections to its settings. Raises Misuse for other names in these
    sections, and for a file that cannot be read or is not TOML.
    """

    def __init__(self, known: Mapping[str, set[str]]) -> None:
        self.project = project_directory()
        folders = (self.project / ".dlt", _of_all_projects())
        names = ("secrets.toml", "config.toml")
        self._files = [_parsed(folder / name) for name in names for folder in folders]
        _refuse_misspelt(known, self._files)

    def read(self, section: str, name: str, kind: type, default: Any) -> Any:
        """One setting, by its full name only: a `COUNTRY=US` in the environment is not for us.

        Raises Misuse if it is not of this `kind`: str, int, float or list.
        """
        found = [os.environ.get(_variable(section, name))]
        found += [_table(file, section).get(name) for file in self._files]
        value = next((value for value in found if value is not None), None)
        if isinstance(value, str) and not value.strip():
            raise Misuse(f"{section}.{name}: empty; remove it to use the default")
        if value is None:
            return default
        try:
            return _converted(value, kind)
        except (ValueError, OverflowError, RecursionError):
            if kind not in _KINDS:  # it may be a secret
                raise Misuse(f"{section}.{name}: not a text") from None
            told = f"'{masked(str(value))}' is not {_KINDS[kind]}"
            raise Misuse(f"{section}.{name}: {told}") from None


def _converted(value: Any, kind: type) -> Any:
    """The value as `kind`. In the environment everything is text, and a list is JSON."""
    if kind is list and isinstance(value, str):
        value = json.loads(value)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is list:
        fits = isinstance(value, list)
    elif kind is int:
        fits = isinstance(value, str) or (is_number and value == int(value))
    else:
        fits = isinstance(value, str) or is_number
    if not fits:
        raise ValueError
    return kind(value)


def _parsed(file: Path) -> dict[str, Any]:
    """The content of a TOML file; {} if there is none. Raises Misuse that names the file."""
    if not os.path.exists(file):  # also if its folder may not be searched
        return {}
    try:
        return tomlkit.parse(text_of(file)).unwrap()
    except Failure as failure:
        raise Misuse(f"{file}: {failure}") from None
    except tomlkit.exceptions.ParseError as error:
        raise Misuse(f"{file} is not TOML: {masked(str(error))}") from None


def _of_all_projects() -> Path:
    """dlt's folder for all projects of this user. dlt chooses it in the same way."""
    if os.geteuid() == 0:
        return Path("/var/dlt")
    home, data = Path(os.path.expanduser("~")) / ".dlt", os.environ.get("XDG_DATA_HOME")
    return Path(data) / "dlt" if data and not home.is_dir() else home


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


def _refuse_misspelt(known: Mapping[str, set[str]], files: list[dict[str, Any]]) -> None:
    """Raises Misuse for an unknown setting or section, and for a setting outside its section.

    They would have no effect, and a sync without its filter reads everything. Checks the
    environment and the files.
    """
    for section, names in known.items():
        _refuse_names(section, names, files)
        outside = {name for file in files for name in (*file, *_table(file, "sources"))}
        for name in sorted(names & outside):
            raise Misuse(f"{name}: outside of its section; put it below [{section}]")
    found = {v.lower().rpartition("__")[0].replace("__", "."): v for v in os.environ}
    found |= {section: f"[{section}]" for file in files for section in _sections(file)}
    for section in sorted(found.keys() - known.keys()):
        ours = [name for name, meant in _ALIKE.items() if meant in known]
        for alike in get_close_matches(section, ours, 1, 0.85):
            raise Misuse(f"{found[section]}: no such section; use [{_ALIKE[alike]}]")


def _refuse_names(section: str, names: set[str], files: list[dict[str, Any]]) -> None:
    variables, meant = {_variable(section, name) for name in names}, _meant(section, names)
    given = [v for v in os.environ if meant.match(v) and v not in variables]
    for file in files:
        given += [f"{section}.{name}" for name in _table(file, section) if name not in names]
    if given:
        there_are = ", ".join(sorted(names - {"status"}))
        raise Misuse(
            f"{given[0]}: no such setting; [{section}] (in the environment: "
            f"{_variable(section, '')}…) has {there_are}"
        )


def _variable(section: str, name: str) -> str:
    return f"{section}.{name}".replace(".", "__").upper()


def _meant(section: str, names: set[str]) -> re.Pattern[str]:
    """Matches variables that are meant for this section, whether spelled right or not.

    A variable with one underscore, such as WAREHOUSE_DIR, may belong to another program. It is
    ours if the setting's own name has two words or more.
    """
    begin = "_+".join(re.split(r"[._]", section)) + "_"
    if "." in section:
        return re.compile(f"{begin}+", re.IGNORECASE)
    words = sorted({name.partition("_")[0] for name in names if "_" in name})
    return re.compile(f"{begin}(_|{'|'.join(words)})", re.IGNORECASE)


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
