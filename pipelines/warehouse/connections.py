"""Connections to database files, and the meaning of DuckDB's errors. Our file names: folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from pipelines.errors import Failure, advised, first_line

Connection = duckdb.DuckDBPyConnection
_OFFLINE = {"autoinstall_known_extensions": False}  # else DuckDB downloads one for a SQLite file
T = TypeVar("T")
# The storage format of both files. A file keeps the format in which it was made, so that its bytes
# can be published. pyproject.toml promises the same: duckdb>=1.3.
STORAGE = "v1.3.0"
_NEWER = "Trying to read a database file with version number"  # of a newer DuckDB
_DAMAGED = (
    "Corrupt database",
    "Failure while replaying WAL",
    "This WAL was created",  # for another file, or an older state of this one
    "Failed to deserialize",
    "not a valid DuckDB",
    "Could not read enough bytes",
    "sqlite_scanner",  # a SQLite file
    _NEWER,
)

# DuckDB's errors that concern a file. Other errors quote values, such as what cannot be converted.
# A damaged block gives a plain duckdb.Error.
_OF_FILES = (
    duckdb.IOException,
    duckdb.SerializationException,
    duckdb.InternalException,
    duckdb.FatalException,
    duckdb.CatalogException,
)
_CAUSES = ("exception", "client_exception", "dbapi_exception", "__cause__")

_idle: list[Connection] = []  # DuckDB instances for reuse, with no file attached


class OpenElsewhere(Failure):
    """Another process has the file open."""


class Damaged(Failure):
    """The file is damaged, is not a DuckDB database, or only a newer DuckDB can read it."""


class LostRows(Damaged):
    """A load has deleted attempts."""


def connect(file: Path | None = None, read_only: bool = False, **options: Any) -> Connection:
    """Opens the database, or one in memory. Its times are in UTC, whatever the machine's zone: some
    zones are known to DuckDB, but not to Python."""
    database = ":memory:" if file is None else str(file)
    config = {**_OFFLINE, "storage_compatibility_version": STORAGE, **options}
    connection = duckdb.connect(database, read_only=read_only, config=config)
    connection.execute("set global timezone = 'UTC'")
    return connection


def ask(
    file: Path, query: str, take: Callable[[Connection], T], nothing: T, is_large: bool = False
) -> T:
    """Opens the database for one query and returns what `take` makes of the answer.

    Returns `nothing` if the file or its tables do not exist. Set `is_large` if the query may need
    more memory than there is. Raises Damaged, OpenElsewhere or another Failure if the file cannot
    be opened or read.
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
    """A read-only connection to `file` from a reused DuckDB instance.

    Creating an instance takes four times as long as a query, and a run sends eight queries.
    """
    # Spill files go beside `file`: an instance in memory uses the current folder by default.
    instance = _idle.pop() if _idle else connect(temp_directory=f"{file}.tmp")
    try:
        with instance.cursor() as connection:
            connection.execute(f"attach '{quoted(file)}' as asked (read_only)")
            connection.execute("use asked")
            yield connection
            connection.execute("use memory")
            connection.execute("detach asked")
    except BaseException:  # the instance may still hold the file, or a damaged file broke it
        instance.close()
        raise
    _idle.append(instance)


@contextmanager
def _opened(file: Path) -> Iterator[Connection]:
    """A read-only connection to `file` from a new instance. Closing it deletes its spill files."""
    with connect(file, read_only=True) as connection:
        yield connection


def unusable(file: Path, error: duckdb.Error) -> Failure:
    """Returns the Failure for DuckDB's error: OpenElsewhere, Damaged or a plain one."""
    if "lock on file" in str(error):
        return OpenElsewhere(
            f"{file} is open in another process, perhaps another run; try again later"
        )
    if is_damage(error):
        what = (
            "was written by a newer DuckDB"
            if _NEWER in str(error)
            else "is damaged or not a database"
        )
        return Damaged(f"{file} {what} ({first_line(error)})")
    return Failure(f"{file} cannot be used: {advised(first_line(error))}")


def is_damage(error: BaseException) -> bool:
    """Whether DuckDB found that a file is damaged, or is not a DuckDB database.

    Only DuckDB's own errors count: Twilio's messages and the user's data may hold the same words.
    """
    return any(
        isinstance(cause, Damaged)
        or (
            (type(cause) is duckdb.Error or isinstance(cause, _OF_FILES))
            and any(words in str(cause) for words in _DAMAGED)
        )
        for cause in causes(error)
    )


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, outermost first. dlt keeps the causes in attributes."""
    seen: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and following not in seen:
        yield following
        seen.append(following)
        inner = (getattr(following, name, None) for name in _CAUSES)
        following = next((one for one in inner if isinstance(one, BaseException)), None)


def quoted(file: Path) -> str:
    return escaped(str(file))


def escaped(text: str) -> str:
    """The inside of a SQL literal."""
    return text.replace("'", "''")
