"""Runs the checks of `sql/checks` and the user's own. Acting on their results: session.

A check file has the severity on line 1, the meaning of its rows on line 2, and then one query:

    -- severity: fail
    -- An attempt is stored twice (and counted twice), or has no SID.
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

from pipelines.errors import Failure, advised, cut, first_line, masked, printable, redact
from pipelines.text import counted, text_of, typed
from pipelines.warehouse.connections import Connection, is_damage
from pipelines.warehouse.database import MIB, Database
from pipelines.warehouse.own_sql import CHECKS, own_files, sql_files
from pipelines.warehouse.views import sql_folder

FAIL, WARN = "fail", "warn"
_HEAD = re.compile(rf"-- severity: ({FAIL}|{WARN})\n-- (.+)\n", re.IGNORECASE)
# Matches possible phone numbers, even without a +, and possible e-mail addresses. It does not
# match SIDs: their digits have letters beside them.
_PERSONAL = re.compile(
    r"(?<![0-9A-Za-z])\+?(?:\d{7,15}|\d(?:[ ().-]{0,2}\d){8,14})(?![0-9A-Za-z])"
    r"|[^\s,\"\[\]{}]+@[^\s,\"\[\]{}]+"
)
_COUNTS = 10**9  # whole numbers below it are counts, not phone numbers
_SHOWN = 20  # rows shown of each check
_SHOWN_OF_A_VALUE = 100  # characters


@dataclass(frozen=True)
class CheckResult:
    """A check and its result: the verdict `ok`, `warn` or `fail`, the row count, the first rows.

    If the check could not run, `count` is None and `meaning` says why.
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
    """Returns verify-sync's own check files, sorted by name."""
    return sql_files(sql_folder() / CHECKS)


def check(database: Database, now: datetime, own: Path | None = None) -> list[CheckResult]:
    """Runs our checks, and those in the user's folder `own`, on the data to be published."""
    if not database.is_open:
        checked = lambda answer: run_checks(answer, now, own)  # noqa: E731
        return database.ask("select 1", checked, [], is_large=True)
    # Less memory is not enough for two threads. More makes large warehouses faster, but takes more.
    memory = min(max(database.loading.stat().st_size // 2, 192 * MIB), 1024 * MIB)
    with database.going_through_all(memory // MIB), database.connection.cursor() as connection:
        return run_checks(connection, now, own)


def run_checks(connection: Connection, now: datetime, own: Path | None = None) -> list[CheckResult]:
    """Runs every check. The SQL variable `now` is set to `now`. No check can write.

    Personal data in the rows is redacted. A check that cannot run counts as if it had found rows.
    But a check that runs out of memory is only a warning.
    """
    connection.execute(f"set variable now = timestamptz '{now.isoformat()}'")
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
            raise Failure("verify-sync has a check of this name: rename your file")
        severity, meaning, query = _read(file)
        count, rows = _found(query, connection)
        return CheckResult(masked(file.stem), severity if count else "ok", meaning, count, rows)
    except duckdb.OutOfMemoryException:
        severity, why = WARN, "not enough memory"
    except Failure as error:
        why = str(error)
    except duckdb.Error as error:
        if is_damage(error) or isinstance(error, duckdb.InterruptException):
            raise
        why = _why(error)
    return CheckResult(masked(file.stem), severity, f"not run: {why} ({masked(str(file))})", None)


def _read(file: Path) -> tuple[str, str, str]:
    """Returns the check's severity, meaning and query. Raises Failure if the file is no check."""
    text = text_of(file)
    head = _HEAD.match(text)
    if head is None:
        raise Failure(
            "the first line must be '-- severity: fail' or '-- severity: warn', the second line "
            "'-- ' and what the rows mean"
        )
    return head[1].lower(), masked(head[2]), text


def _found(query: str, connection: Connection) -> tuple[int, tuple[str, ...]]:
    """Returns the row count and the first rows. Raises Failure unless there is exactly one query.

    Two threads take half the time, but more memory. If that runs out, one thread tries again.
    """
    kinds = [statement.type for statement in connection.extract_statements(query)]
    if kinds != [duckdb.StatementType.SELECT]:
        raise Failure("after the first two lines there must be exactly one query")
    try:
        return _counted(query, connection)
    except duckdb.OutOfMemoryException:
        connection.execute("set threads = 1")
        return _counted(query, connection)


def _counted(query: str, connection: Connection) -> tuple[int, tuple[str, ...]]:
    """Returns the row count and the first rows as text, from a read-only transaction."""
    connection.execute("begin transaction read only")
    try:
        answer = connection.execute(query)
        names = [column[0] for column in answer.description]
        rows = answer.fetchmany(_SHOWN)
        count = len(rows) + sum(map(len, iter(lambda: answer.fetchmany(10_000), [])))
    finally:
        with suppress(duckdb.Error):  # the query's own error matters more
            connection.rollback()
    return count, tuple(_shown(names, row) for row in rows)


def _why(error: duckdb.Error) -> str:
    missing = isinstance(error, (duckdb.CatalogException, duckdb.BinderException))
    hint = f"; if a view is older than the check, run `{typed('views')}`" if missing else ""
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
    return _PERSONAL.sub("[redacted]", cut(printable(str(value)), _SHOWN_OF_A_VALUE))
