"""The user's own views and checks: the folder `[warehouse] sql`. Ours: views, checks."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

import duckdb

from pipelines.errors import Failure, first_line, masked
from pipelines.warehouse.connections import Connection, is_damage

REPORTS, CHECKS = "reports", "checks"
_MOST_BYTES = 2**20  # of a file
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# What stands before a statement. Nothing else may: DuckDB nests /* */, a regular expression cannot.
_BEFORE = r"(?:\s|--[^\n]*\n)*"
_ALLOWED = re.compile(
    _BEFORE + r"(?:create\s+(?:or\s+replace\s+)?view\s+|comment\s+on\s+(?:view|column)\s+)"
    r"(?:main\.)?(\w+)\b",
    re.IGNORECASE,
)

log = logging.getLogger("verify_sync")


def own_files(folder: Path | None, kind: str) -> list[Path]:
    """The files of the user's `reports` or `checks`, by name. There may be none."""
    return sorted((folder / kind).glob("*.sql")) if folder else []


def text_of(file: Path) -> str:
    """Raises Failure, with the reason alone, for a file that is no UTF-8 text of at most 1 MB."""
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise Failure("it is larger than 1 MB")
        return file.read_text(encoding="utf-8-sig")  # some editors put a mark before the text
    except OSError as error:
        raise Failure(str(error.strerror)) from None
    except UnicodeDecodeError:
        raise Failure("it is not UTF-8") from None


def apply_own_views(connection: Connection, files: list[Path], taken: set[str]) -> None:
    """Creates each view in a transaction of its own, in any order that works.

    One that fails is left out with one warning, which names file and line. `taken` are names that
    a view cannot have.
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
        if left == tried:  # none of them waited for another one
            break
    for file in left:
        log.warning("a view of yours is left out: %s, %s", masked(str(file)), reasons[file])


def _create(connection: Connection, file: Path, taken: set[str]) -> None:
    """Raises Failure with line and reason; nothing of the file is applied then."""
    name = file.stem
    if not _NAME.fullmatch(name):
        raise Failure("line 1: its name must be of a-z, 0-9 and _, and not begin with a digit")
    if name in taken:
        raise Failure(f"line 1: there is a {name} of verify-sync: give yours another name")
    try:
        text = text_of(file)
    except Failure as failure:
        raise Failure(f"line 1: {failure}") from None
    connection.begin()
    try:
        for line, statement in _statements(connection, text, name):
            _execute(connection, statement, line)
        if not _is_view(connection, name):
            raise Failure(f"line 1: it does not create a view {name}")
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _statements(connection: Connection, text: str, name: str) -> Iterator[tuple[int, str]]:
    """Each statement with the line on which it begins. Raises Failure for one that may not be."""
    try:
        statements = [statement.query for statement in connection.extract_statements(text)]
    except duckdb.Error as error:
        raise Failure(_described(error, 1)) from None
    at = 0
    for statement in statements:
        at = text.index(statement, at)
        before = re.match(_BEFORE, statement)
        begins = at + (before.end() if before else 0)
        line = text.count("\n", 0, begins) + 1
        allowed = _ALLOWED.match(statement)
        if allowed is None or allowed[1].lower() != name:
            raise Failure(
                f"line {line}: only `create or replace view {name} as` and comments on it and its "
                "columns may stand there"
            )
        yield line, statement
        at += len(statement)


def _execute(connection: Connection, statement: str, line: int) -> None:
    try:
        connection.execute(statement)
    except duckdb.Error as error:
        if is_damage(error) or isinstance(error, duckdb.InterruptException):
            raise
        before = re.match(_BEFORE, statement)
        above = statement.count("\n", 0, before.end() if before else 0)
        raise Failure(_described(error, line - above)) from None


def _described(error: duckdb.Error, first: int) -> str:
    """The line, and why; `first` is the line of the file on which DuckDB's text began."""
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
