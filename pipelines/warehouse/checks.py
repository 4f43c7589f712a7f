"""Runs the checks of `sql/checks` and the user's own. Acting on their results: session.

A check file has the severity on line 1, the meaning of its rows on line 2, and then one query:

    -- severity: fail
    -- An attempt is stored twice (and counted twice), or has no SID.
    select …
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import duckdb

from pipelines.errors import Failure, advised, cut, first_line, masked, printable, redact
from pipelines.text import counted, text_of, typed
from pipelines.warehouse.connections import Connection, is_damage
from pipelines.warehouse.database import Database
from pipelines.warehouse.kept import differing, kept_tables
from pipelines.warehouse.own_sql import CHECKS, own_files, sql_files
from pipelines.warehouse.recovery import Loads
from pipelines.warehouse.scope import Scope
from pipelines.warehouse.tables import SCHEMA
from pipelines.warehouse.views import sql_folder, view_files

FAIL, WARN = "fail", "warn"
KEPT_TABLES = "kept_tables_agree"
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

    If the check could not run, `count` is None and `meaning` says why. `is_partial`: it looked at
    what changed, not at all rows.
    """

    name: str
    verdict: str
    meaning: str
    count: int | None = 0
    rows: tuple[str, ...] = ()
    is_partial: bool = False

    def __str__(self) -> str:
        found = "" if self.count is None else f", {counted(self.count, 'row')}"
        return f"{self.name}{found}: {self.meaning}"


def check_files() -> list[Path]:
    """Returns verify-sync's own check files, sorted by name."""
    return sql_files(sql_folder() / CHECKS)


def check(
    database: Database,
    now: datetime,
    own: Path | None = None,
    seen: Callable[[Connection], Loads | None] = lambda _: None,
) -> tuple[Scope, list[CheckResult]]:
    """Runs our checks, and those in the user's folder `own`, on the data to be published.

    They look at what has changed since the loads that `seen` returns; if it is None, at all rows.
    """

    def checked(connection: Connection) -> tuple[Scope, list[CheckResult]]:
        scope = Scope.since(connection, seen(connection))
        scope = replace(scope, is_made_anew=database.is_made_anew)
        return scope, run_checks(connection, now, own, scope)

    if not database.is_open:
        nothing: tuple[Scope, list[CheckResult]] = (Scope(0), [])
        return database.ask("select 1", checked, nothing, is_large=True)
    with database.going_through_all():
        return checked(database.working)


def run_checks(
    connection: Connection, now: datetime, own: Path | None = None, scope: Scope | None = None
) -> list[CheckResult]:
    """Runs every check. The SQL variable `now` is set to `now`. No check can write.

    Personal data in the rows is redacted. A check that cannot run counts as if it had found rows.
    But a check that runs out of memory is only a warning.
    """
    scope = scope or Scope.since(connection, None)
    if scope.changes is None:
        _read_all(connection)
    connection.execute(f"set variable now = timestamptz '{now.isoformat()}'")
    ours = check_files()
    taken = {KEPT_TABLES, *(file.stem for file in ours)}
    return [
        *(_answer(file, connection, scope) for file in ours),
        _compare_kept_tables(connection, scope),
        *(_answer(file, connection, scope, taken) for file in own_files(own, CHECKS)),
    ]


def _read_all(connection: Connection) -> None:
    """Reads every column of the raw tables. The bytes of the file are published as they are, and
    most checks read few columns: damage would stay unknown. Raises it."""
    tables = f"select table_name from duckdb_tables() where schema_name = '{SCHEMA}'"
    for (table,) in connection.execute(tables).fetchall():
        connection.execute(f"select max(hash(row)) from {SCHEMA}.{table} as row").fetchall()


def _compare_kept_tables(connection: Connection, scope: Scope) -> CheckResult:
    """The one check that is no file: it needs the queries of the kept tables."""
    meaning = f"A kept table differs from its query: run `{typed('views')}` to make it again."

    def found() -> CheckResult:
        if scope.is_made_anew:  # the same queries would run twice on the same rows
            return CheckResult(KEPT_TABLES, "ok", meaning)
        differ = differing(connection, kept_tables(view_files()), scope.touched)
        rows = tuple(f"table {name}, rows {kept:,}, expected {new:,}" for name, kept, new in differ)
        verdict, part = FAIL if rows else "ok", scope.changes is not None
        return CheckResult(KEPT_TABLES, verdict, meaning, len(rows), rows, part)

    return _guarded(KEPT_TABLES, "pipelines", FAIL, found)


def _answer(
    file: Path, connection: Connection, scope: Scope, taken: Collection[str] = ()
) -> CheckResult:
    name, where = masked(file.stem), masked(str(file))
    try:
        if file.stem in taken:
            raise Failure("verify-sync has a check of this name: rename your file")
        severity, meaning, query = _read(file)
    except Failure as error:
        return _not_run(name, FAIL, str(error), where)

    def found() -> CheckResult:
        _require_one_query(query, connection)
        found = [_found(query, connection) for _ in scope.passes(query, connection)]
        count, rows = sum(count for count, _ in found), [row for _, rows in found for row in rows]
        verdict, part = severity if count else "ok", scope.is_partial(query)
        return CheckResult(name, verdict, meaning, count, tuple(rows[:_SHOWN]), part)

    return _guarded(name, where, severity, found)


def _guarded(name: str, where: str, severity: str, found: Callable[[], CheckResult]) -> CheckResult:
    """Returns what was found, or that the check could not run. Only damage is raised."""
    try:
        return found()
    except duckdb.OutOfMemoryException:
        return _not_run(name, WARN, "not enough memory", where)
    except Failure as error:
        return _not_run(name, severity, str(error), where)
    except duckdb.Error as error:
        if is_damage(error) or isinstance(error, duckdb.InterruptException):
            raise
        return _not_run(name, severity, _why(error), where)


def _not_run(name: str, severity: str, why: str, where: str) -> CheckResult:
    return CheckResult(name, severity, f"not run: {why} ({where})", None)


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


def _require_one_query(query: str, connection: Connection) -> None:
    kinds = [statement.type for statement in connection.extract_statements(query)]
    if kinds != [duckdb.StatementType.SELECT]:
        raise Failure("after the first two lines there must be exactly one query")


def _found(query: str, connection: Connection) -> tuple[int, tuple[str, ...]]:
    """Returns the row count and the first rows.

    Two threads take half the time, but more memory. If that runs out, one thread tries again.
    """
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
