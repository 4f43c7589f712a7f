"""Connections to database files, and what DuckDB's errors mean. Knows no file by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import duckdb

from pipelines.errors import Failure, advised, first_line

Connection = duckdb.DuckDBPyConnection
OFFLINE: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,  # or a SQLite file makes DuckDB download one
}
T = TypeVar("T")
_DAMAGED = (
    "Corrupt database",
    "Failure while replaying WAL",
    "This WAL was created",  # for another file, or an older state of this one
    "Failed to deserialize",
    "not a valid DuckDB",
    "Could not read enough bytes",
    "sqlite_scanner",  # a SQLite file
)

_idle: list[Connection] = []  # instances that hold no file


class OpenElsewhere(Failure):
    """Another process has the file open."""


class Damaged(Failure):
    """The file is no database, or no longer."""


def ask(
    file: Path, query: str, take: Callable[[Connection], T], nothing: T, is_large: bool = False
) -> T:
    """The answer of a database that is opened for it; `nothing` if it or its tables are not there.

    `is_large`: it may take more memory than there is.

    Raises Damaged, OpenElsewhere or another Failure if it cannot be opened or read.
    """
    if not file.exists():
        return nothing
    try:
        with _opened(file) if is_large else _attached(file) as connection:
            return take(connection.execute(query))
    except duckdb.CatalogException:
        return nothing
    except duckdb.Error as error:
        raise unusable(file, error) from error


@contextmanager
def _attached(file: Path) -> Iterator[Connection]:
    """A connection to `file`, read-only, of an instance that is used again: to make one takes four
    times as long as to ask it, and a run asks eight times."""
    instance = _idle.pop() if _idle else duckdb.connect(config=_spilling_beside(file))
    try:
        with instance.cursor() as connection:
            connection.execute(f"attach '{quoted(file)}' as asked (read_only)")
            connection.execute("use asked")
            yield connection
            connection.execute("use memory")
            connection.execute("detach asked")
    except BaseException:  # it may hold the file yet, or a damaged one has made it unusable
        instance.close()
        raise
    _idle.append(instance)


@contextmanager
def _opened(file: Path) -> Iterator[Connection]:
    """The same of an instance of its own, which leaves nothing behind that it had no memory for."""
    with duckdb.connect(str(file), read_only=True, config=OFFLINE) as connection:
        yield connection


def _spilling_beside(file: Path) -> dict[str, str | bool | int | float | list[str]]:
    """As a database that is opened does by itself; one in memory would where the command runs."""
    return {**OFFLINE, "temp_directory": f"{file}.tmp"}


def unusable(file: Path, error: duckdb.Error) -> Failure:
    """What DuckDB's error means for who runs this."""
    if "lock on file" in str(error):
        return OpenElsewhere(
            f"{file} is open in another process, perhaps another run; try again later"
        )
    if is_damage(error):
        return Damaged(f"{file} is damaged or no database ({first_line(error)})")
    return Failure(f"{file} cannot be used: {advised(first_line(error))}")


def is_damage(error: BaseException) -> bool:
    """Whether DuckDB says, somewhere in a message, that a file is not what it wrote."""
    return any(words in str(error) for words in _DAMAGED)


def quoted(file: Path) -> str:
    return str(file).replace("'", "''")
