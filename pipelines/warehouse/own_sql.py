"""The user's own views and checks: the folder `[warehouse] sql`. Ours: views, checks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb

from pipelines.errors import Failure, first_line, masked
from pipelines.text import text_of
from pipelines.warehouse.connections import Connection, is_damage

REPORTS, CHECKS = "reports", "checks"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# Spaces and -- comments may come before a statement. /* */ may not: DuckDB allows nested ones,
# which a regular expression cannot match.
_BEFORE = r"(?:\s|--[^\n]*\n)*"
_ALLOWED = re.compile(
    _BEFORE + r"(?:create\s+(?:or\s+replace\s+)?view\s+|comment\s+on\s+(?:view|column)\s+)"
    r"(?:main\.)?(\w+)\b",
    re.IGNORECASE,
)

log = logging.getLogger("verify_sync")


def own_files(folder: Path | None, kind: str) -> list[Path]:
    """Returns the user's files of `kind` (`reports` or `checks`), sorted by name. May be empty."""
    return sql_files(folder / kind) if folder else []


def sql_files(folder: Path) -> list[Path]:
    """Returns the SQL files of a folder, sorted by name. Editors and macOS leave hidden ones."""
    return sorted(file for file in folder.glob("*.sql") if not file.name.startswith("."))


def apply_own_views(connection: Connection, files: list[Path], taken: set[str]) -> None:
    """Creates each view in a transaction of its own, in any order that works.

    A view that fails is skipped with one warning, which names file and line. A view cannot have
    one of the names `taken`.
    """
    left, reasons = files, dict[Path, str]()
    while left:
        tried, left = left, []
        for file in tried:
            try:
                _create(connection, file, taken)
            except Failure as failure:
                left.append(file)
                reasons[file] = str(failure)
        if left == tried:  # no progress: none of them waits for another view
            break
    for file in left:
        log.warning("your view is skipped: %s, %s", masked(str(file)), reasons[file])


def _create(connection: Connection, file: Path, taken: set[str]) -> None:
    """Creates the view of `file`. On an error, applies nothing: Failure with line and reason."""
    name = file.stem
    if not _NAME.fullmatch(name):
        raise Failure("line 1: the file name must use a-z, 0-9 and _, and not begin with a digit")
    if name in taken:
        raise Failure(f"line 1: verify-sync has its own {name}: rename your file")
    try:
        text = text_of(file)
    except Failure as failure:
        raise Failure(f"line 1: {failure}") from None
    connection.begin()
    try:
        for line, statement in _statements(connection, text, name):
            _execute(connection, statement, line)
        if not _is_view(connection, name):
            raise Failure(f"line 1: the file does not create the view {name}")
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _statements(connection: Connection, text: str, name: str) -> Iterator[tuple[int, str]]:
    """Yields each statement with the line where it begins. Raises Failure for a forbidden one."""
    try:
        statements = [statement.query for statement in connection.extract_statements(text)]
    except duckdb.Error as error:
        raise Failure(_described(error, 1)) from None
    at = 0
    for statement in statements:
        at = max(at, text.find(statement, at))  # DuckDB rewrites some, which are forbidden anyway
        begins = at + _length_before(statement)
        line = text.count("\n", 0, begins) + 1
        allowed = _ALLOWED.match(statement)
        if allowed is None or allowed[1].lower() != name:
            raise Failure(
                f"line {line}: only `create or replace view {name} as` and comments on it and its "
                "columns are allowed"
            )
        yield line, text[begins : at + len(statement)]
        at += len(statement)


def _length_before(statement: str) -> int:
    """Some releases of DuckDB count the comments above a statement as part of it."""
    before = re.match(_BEFORE, statement)
    return before.end() if before else 0


def _execute(connection: Connection, statement: str, line: int) -> None:
    try:
        connection.execute(statement)
    except duckdb.Error as error:
        if is_damage(error) or isinstance(error, duckdb.InterruptException):
            raise
        raise Failure(_described(error, line)) from None


def _described(error: duckdb.Error, first: int) -> str:
    """Returns line and reason. `first` is the line of the file where DuckDB's text begins."""
    within = re.search(r"^LINE (\d+):", str(error), re.MULTILINE)
    line = first + (int(within[1]) - 1 if within else 0)
    return f"line {line}: {masked(first_line(error))}"


def _is_view(connection: Connection, name: str) -> bool:
    return bool(
        connection.execute(
            "select 1 from duckdb_views() where database_name = current_database()"
            " and schema_name = 'main' and view_name = ?",
            [name],
        ).fetchall()
    )
