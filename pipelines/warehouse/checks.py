"""Runs the checks of `sql/checks` and the user's own. What follows from their answers: session.

A file's first line is its severity, its second what it means when there are rows, and then there is
one query:

    -- severity: fail
    -- An attempt is stored twice, and so counted twice.
    select …
"""

from __future__ import annotations

import re
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb

from pipelines.errors import Failure, advised, first_line, masked, redact
from pipelines.text import counted, typed
from pipelines.warehouse.connections import Connection, is_damage
from pipelines.warehouse.database import MIB, Database
from pipelines.warehouse.own_sql import CHECKS, own_files, text_of
from pipelines.warehouse.views import sql_folder

FAIL, WARN = "fail", "warn"
_HEAD = re.compile(rf"-- severity: ({FAIL}|{WARN})\n-- (.+)\n", re.IGNORECASE)
# What may be a phone number, even without a +; a SID's digits have letters beside them. And what
# may be an address.
_PERSONAL = re.compile(
    r"(?<![0-9A-Za-z])\+?(?:\d{7,15}|\d(?:[ ().-]{0,2}\d){8,14})(?![0-9A-Za-z])"
    r"|[^\s,\"\[\]{}]+@[^\s,\"\[\]{}]+"
)
_COUNTS = 10**9  # a whole number below it is one
_SHOWN = 20  # rows of each check


@dataclass(frozen=True)
class CheckResult:
    """A check and what it found: `ok`, `warn` or `fail`, how many rows, of these the first.

    Where it could not be run, `count` is None and `meaning` says why.
    """

    name: str
    verdict: str
    meaning: str
    count: int | None = 0
    rows: tuple[str, ...] = ()

    def __str__(self) -> str:
        found = "" if self.count is None else f", {counted(self.count, 'row')}"
        return f"{self.name}{found}: {self.meaning}"


def check_files() -> list[Path]:
    """Ours, in order of their names."""
    return sorted((sql_folder() / CHECKS).glob("*.sql"))


def check(database: Database, now: datetime, own: Path | None = None) -> list[CheckResult]:
    """What our checks, and those in the user's folder `own`, find in what is to be published."""
    if not database.is_open:
        checked = lambda answer: run_checks(answer, now, own)  # noqa: E731
        return database.ask("select 1", checked, [], is_large=True)
    # With less, two threads do not get through; with more, large ones were faster, and larger.
    memory = min(max(database.loading.stat().st_size // 2, 192 * MIB), 1024 * MIB)
    with database.going_through_all(memory // MIB), database.connection.cursor() as connection:
        return run_checks(connection, now, own)


def run_checks(connection: Connection, now: datetime, own: Path | None = None) -> list[CheckResult]:
    """What every check finds at `now`, their variable of that name; none of them can write.

    Personal data in the rows is blanked out. One that cannot be run counts as if it had found
    something, but for lack of memory, which is a warning.
    """
    connection.execute(f"set timezone = 'UTC'; set variable now = timestamptz '{now.isoformat()}'")
    ours = check_files()
    taken = {file.stem for file in ours}
    return [
        *(_answer(file, connection) for file in ours),
        *(_answer(file, connection, taken) for file in own_files(own, CHECKS)),
    ]


def _answer(file: Path, connection: Connection, taken: Collection[str] = ()) -> CheckResult:
    severity = FAIL
    try:
        if file.stem in taken:
            raise Failure("verify-sync has a check of this name: give yours another one")
        severity, meaning, query = _read(file)
        count, rows = _found(query, connection)
        return CheckResult(masked(file.stem), severity if count else "ok", meaning, count, rows)
    except duckdb.OutOfMemoryException:
        severity, why = WARN, "memory does not suffice for it"
    except Failure as error:
        why = str(error)
    except duckdb.Error as error:
        if is_damage(error) or isinstance(error, duckdb.InterruptException):
            raise
        why = _why(error)
    return CheckResult(masked(file.stem), severity, f"not run: {why} ({masked(str(file))})", None)


def _read(file: Path) -> tuple[str, str, str]:
    """A check's severity, meaning and query. Raises Failure if the file is none."""
    text = text_of(file)
    head = _HEAD.match(text)
    if head is None:
        raise Failure(
            "its first line must be '-- severity: fail' or '-- severity: warn', its second '-- ' "
            "and what rows mean"
        )
    return head[1].lower(), head[2], text


def _found(query: str, connection: Connection) -> tuple[int, tuple[str, ...]]:
    """Threads halve the time, and need memory each: what it does not suffice for is done by one."""
    kinds = [statement.type for statement in connection.extract_statements(query)]
    if kinds != [duckdb.StatementType.SELECT]:
        raise Failure("below its two first lines there must be one query, no more")
    try:
        return _counted(query, connection)
    except duckdb.OutOfMemoryException:
        connection.execute("set threads = 1")
        return _counted(query, connection)


def _counted(query: str, connection: Connection) -> tuple[int, tuple[str, ...]]:
    """How many rows, and the first of them."""
    connection.execute("begin transaction read only")
    try:
        answer = connection.execute(query)
        names = [column[0] for column in answer.description]
        rows = answer.fetchmany(_SHOWN)
        count = len(rows) + sum(map(len, iter(lambda: answer.fetchmany(10_000), [])))
    finally:
        with suppress(duckdb.Error):  # where it fails, what went before says why
            connection.rollback()
    return count, tuple(_shown(names, row) for row in rows)


def _why(error: duckdb.Error) -> str:
    missing = isinstance(error, (duckdb.CatalogException, duckdb.BinderException))
    hint = f"; if a view is older than the check, `{typed('views')}` helps" if missing else ""
    return advised(masked(first_line(error))) + hint


def _shown(names: list[str], row: tuple[object, ...]) -> str:
    pairs = zip(names, map(_impersonal, row), strict=True)
    return redact(", ".join(f"{name} {value}" for name, value in pairs))


def _impersonal(value: object) -> object:
    if isinstance(value, (date, timedelta)):
        return value
    if isinstance(value, (int, float)) and (abs(value) < _COUNTS or value % 1):
        return value
    if isinstance(value, Decimal) and (abs(value) < _COUNTS or value % 1):
        return value
    return _PERSONAL.sub("[redacted]", str(value))
