"""The two database files: which of them holds everything, and one made anew from the other."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import duckdb

from pipelines.errors import Failure, first_line

SCHEMA = "twilio_verify"
_DAMAGED = ("Corrupt", "not a valid DuckDB", "Could not read enough bytes")

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
        log.warning("%s; it is now %s and will be published anew", error, _set_aside(published))
        return
    except Locked:
        if not loads(loading):
            raise
        return  # whoever has it open for writing; they keep what they opened
    try:
        missing = kept - loads(loading)
        reason = f"{loading} lacks what {published.name} has"
    except Damaged as error:
        if not kept:
            raise _beyond_recovery(error) from error
        missing, reason = kept, str(error)
    if missing:
        aside = _set_aside(loading) if loading.exists() else None
        log.warning(
            "%s; it is rebuilt from there%s", reason, f", the old one is {aside}" * bool(aside)
        )
        rebuild(published, loading)


def loads(file: Path) -> set[str]:
    """The complete load packages of a database; none if it is empty or not there.

    Raises Damaged, Locked, or Failure if it is somebody else's database.
    """
    if not file.exists():
        return set()
    try:
        with duckdb.connect(str(file), read_only=True) as connection:
            tables = connection.execute(
                "select schema_name, table_name from duckdb_tables()"
            ).fetchall()
            if (SCHEMA, "_dlt_loads") in tables:
                query = f"select load_id from {SCHEMA}._dlt_loads where status = 0"
                return {load_id for (load_id,) in connection.execute(query).fetchall()}
    except duckdb.Error as error:
        raise unusable(file, error) from error
    if tables:
        raise Failure(f"{file} is a database, but not one of verify-sync: move it elsewhere")
    return set()


def unusable(file: Path, error: duckdb.Error) -> Failure:
    """What DuckDB's error means for who runs this."""
    if "lock on file" in str(error):
        return Locked(f"{file} is open in another process; try again later")
    if any(word in str(error) for word in _DAMAGED):
        return Damaged(f"{file} is damaged or no database ({first_line(error)})")
    return Failure(f"{file} cannot be used: {first_line(error)}")


def rebuild(source: Path, target: Path) -> None:
    """Makes `target` a copy of the database `source`, all of it or not at all."""
    fresh = target.with_name(target.name + ".new")
    try:
        with duckdb.connect() as connection:
            connection.execute(f"attach '{quoted(source)}' as source (read_only)")
            copy_database(connection, "source", fresh)
    except duckdb.Error as error:
        raise unusable(source, error) from error
    os.replace(fresh, target)
    wal(target).unlink(missing_ok=True)


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


def _set_aside(file: Path) -> Path:
    aside = file.with_name(file.name + ".set-aside")
    if wal(file).exists():
        os.replace(wal(file), wal(aside))
    os.replace(file, aside)
    return aside
