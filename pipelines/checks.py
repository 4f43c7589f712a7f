"""The checks of `sql/checks`: queries that return the rows that should not exist.

A file's first line is its severity, its second what it means when there are rows:

    -- severity: fail
    -- An attempt is stored twice, and so counted twice.
    select …
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb

from pipelines.errors import Failure, first_line, masked, redact
from pipelines.progress import counted
from pipelines.views import sql_folder

FAIL, WARN = "fail", "warn"
_HEAD = re.compile(rf"-- severity: ({FAIL}|{WARN})\n-- (.+)\n")
# What may be a phone number, even without a +; a SID's digits have letters beside them.
_NUMBER = re.compile(r"(?<![0-9A-Za-z])\+?(?:\d{7,15}|\d(?:[ ()-]{0,2}\d){8,14})(?![0-9A-Za-z])")
_IMPERSONAL = (date, timedelta, float, Decimal)
_COUNTS = 10**9  # a whole number below it is one
_SHOWN = 20  # rows of each check


@dataclass(frozen=True)
class Answer:
    """A check and what it found: how many rows (None: it could not be run), of these the first."""

    name: str
    severity: str
    meaning: str
    count: int | None = 0
    rows: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """`ok`, `warn` or `fail`."""
        return "ok" if self.count == 0 else WARN if self.count is None else self.severity

    def __str__(self) -> str:
        found = "" if self.count is None else f", {counted(self.count, 'row')}"
        return f"{self.name}{found}: {self.meaning}"


def check_files() -> list[Path]:
    """In order of their names."""
    return sorted((sql_folder() / "checks").glob("*.sql"))


def run_checks(execute: Callable[[str], Any], now: datetime) -> list[Answer]:
    """Every check, by `execute`, which takes SQL and returns DuckDB's answer to the last statement.

    Personal data in the rows is blanked out. Raises Failure naming the file whose SQL fails.
    """
    return [_answer(file, execute, now) for file in check_files()]


def _answer(file: Path, execute: Callable[[str], Any], now: datetime) -> Answer:
    text = file.read_text(encoding="utf-8")
    head = _HEAD.match(text)
    if head is None:
        raise Failure(f"{file}: begin it with '-- severity: fail' or warn, then what rows mean")
    try:
        answer = execute(f"set variable now = timestamptz '{now.isoformat()}'; {text}")
        names = [column[0] for column in answer.description]
        rows = answer.fetchmany(_SHOWN)
        count = len(rows) + sum(map(len, iter(lambda: answer.fetchmany(10_000), [])))
    except duckdb.OutOfMemoryException:
        return Answer(file.stem, head[1], "not run, memory does not suffice for it", None)
    except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError) as error:
        why = masked(first_line(error))
        raise Failure(f"{file}: {why}; `make views` may help") from error
    return Answer(file.stem, head[1], head[2], count, tuple(_shown(names, row) for row in rows))


def _shown(names: list[str], row: tuple[object, ...]) -> str:
    pairs = zip(names, map(_impersonal, row), strict=True)
    return redact(", ".join(f"{name} {value}" for name, value in pairs))


def _impersonal(value: object) -> object:
    if isinstance(value, _IMPERSONAL) or (isinstance(value, int) and abs(value) < _COUNTS):
        return value
    return _NUMBER.sub("[redacted]", str(value))
