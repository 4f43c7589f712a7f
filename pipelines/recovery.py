"""The two database files: which of them holds everything, and one made anew from the other."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import duckdb

from pipelines.errors import Failure, advised, first_line

SCHEMA = "twilio_verify"
Connection = duckdb.DuckDBPyConnection
T = TypeVar("T")
_DAMAGED = ("Corrupt database", "Corrupt WAL", "not a valid DuckDB", "Could not read enough bytes")

log = logging.getLogger("verify_sync")


class Locked(Failure):
    """Another process has the file open."""


class Damaged(Failure):
    """The file is no database, or no longer."""


def recover(loading: Path, published: Path) -> None:
    """Before a run: rebuilds `loading` from `published` where that holds loads which it lacks.

    So it does when `loading` was deleted, is damaged, or is an older copy. What was loaded but
    not yet published is then due again. A damaged file is set aside, never deleted. Raises
    Failure, with nothing changed, when no file is intact, or one is a database but not ours.
    """
    try:
        kept = loads(published)
    except Damaged as error:
        if not loads(loading):
            raise _beyond_recovery(error) from error
        log.warning("%s; it is now %s and will be published anew", error, set_aside(published))
        return
    except Locked:
        if not loads(loading):
            raise
        return  # whoever has it open for writing; they keep what they opened
    try:
        lacking = kept - loads(loading)
        reason = f"{loading} is an older copy" if loading.exists() else f"{loading} is not there"
    except Damaged as error:
        if not kept:
            raise _beyond_recovery(error) from error
        lacking, reason = kept, str(error)
    if lacking:
        aside = rebuild(published, loading)
        old = f"; the old one is {aside}" if aside else ""
        log.warning("%s: rebuilt from %s%s", reason, published.name, old)


def loads(file: Path) -> set[str]:
    """The complete load packages of a database; none if it is empty or not there.

    Raises Damaged, Locked, or Failure if it is somebody else's database.
    """
    query = f"select load_id from {SCHEMA}._dlt_loads where status = 0"
    found: set[str] = ask(
        file, query, lambda answer: {load_id for (load_id,) in answer.fetchall()}, set()
    )
    tables = "select distinct schema_name from duckdb_tables()"
    schemas: list[Any] = [] if found else ask(file, tables, lambda answer: answer.fetchall(), [])
    if schemas and (SCHEMA,) not in schemas:
        raise Failure(f"{file} is a database, but not one of verify-sync: move it elsewhere")
    return found


def ask(file: Path, query: str, take: Callable[[Connection], T], nothing: T) -> T:
    """The answer of a database that is opened for it; `nothing` if it or its tables are not there.

    Raises Damaged, Locked or another Failure if it cannot be opened or read.
    """
    if not file.exists():
        return nothing
    try:
        with duckdb.connect(str(file), read_only=True) as connection:
            return take(connection.execute(query))
    except duckdb.CatalogException:
        return nothing
    except duckdb.Error as error:
        raise unusable(file, error) from error


def unusable(file: Path, error: duckdb.Error) -> Failure:
    """What DuckDB's error means for who runs this."""
    if "lock on file" in str(error):
        return Locked(f"{file} is open in another process; try again later")
    if is_damage(error):
        return Damaged(f"{file} is damaged or no database ({first_line(error)})")
    return Failure(f"{file} cannot be used: {advised(first_line(error))}")


def rebuild(source: Path, target: Path) -> Path | None:
    """Makes `target` a copy of `source`, all of it or not at all; returns where the old one is."""
    fresh = target.with_name(target.name + ".new")
    try:
        with duckdb.connect() as connection:
            connection.execute(f"attach '{quoted(source)}' as source (read_only)")
            copy_database(connection, "source", fresh)
    except duckdb.Error as error:
        raise unusable(source, error) from error
    aside = set_aside(target) if target.exists() else None
    wal(target).unlink(missing_ok=True)
    os.replace(fresh, target)
    return aside


def copy_database(
    connection: duckdb.DuckDBPyConnection, name: str, target: Path, options: str = ""
) -> None:
    """Writes the attached database `name` to the new file `target`: compact, with its views."""
    for file in (target, wal(target)):
        file.unlink(missing_ok=True)
    connection.execute(f"attach '{quoted(target)}' as fresh {options}")
    try:
        connection.execute(f"copy from database {name} to fresh")
        connection.execute(f"drop schema if exists fresh.{SCHEMA}_staging cascade")
    finally:
        connection.execute("detach fresh")


def wal(file: Path) -> Path:
    return file.with_name(file.name + ".wal")


def quoted(file: Path) -> str:
    return str(file).replace("'", "''")


def _beyond_recovery(error: Failure) -> Failure:
    return Failure(
        f"{error} and there is no other copy here: move it away, or start again from a backup "
        "with `verify-sync restore FILE`"
    )


def is_damage(error: BaseException) -> bool:
    """Whether DuckDB says, somewhere in a message, that a file is not what it wrote."""
    return any(words in str(error) for words in _DAMAGED)


def keep(file: Path) -> Path:
    """A second name for a file that is about to be replaced, where it is kept."""
    kept = _aside(file)
    kept.unlink(missing_ok=True)
    try:
        os.link(file, kept)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, kept)
    return kept


def set_aside(file: Path) -> Path:
    aside = _aside(file)
    if wal(file).exists():
        os.replace(wal(file), wal(aside))
    os.replace(file, aside)
    return aside


def _aside(file: Path) -> Path:
    return file.with_name(file.name + ".set-aside")
