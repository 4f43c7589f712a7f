"""The two database files: which of them holds everything, and one made anew from the other."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import duckdb

from pipelines.errors import Failure, advised, first_line

SCHEMA = "twilio_verify"
NEWEST = f"select load_id from {SCHEMA}._dlt_loads where status = 0 order by rowid desc limit 1"
# Ours first; then whatever else somebody may have made.
_OBJECTS = f"""
    select
        (select count(*) from duckdb_schemas() where schema_name = '{SCHEMA}'),
        (select count(*) from duckdb_tables()),
        (select count(*) from duckdb_views() where not internal),
        (select count(*) from duckdb_functions() where not internal),
        (select count(*) from duckdb_sequences())
"""
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

log = logging.getLogger("verify_sync")


class Locked(Failure):
    """Another process has the file open."""


class Damaged(Failure):
    """The file is no database, or no longer."""


class Foreign(Failure):
    """The file is a database of something else."""


def recover(loading: Path, published: Path) -> None:
    """Before a run: rebuilds `loading` from `published` where that holds loads which it lacks.

    So it does when `loading` was deleted, is damaged, or is an older copy. What was loaded but
    not yet published is then due again. A damaged file is set aside, never deleted. Raises
    Failure, with nothing changed, when no file is intact, or one of them is not ours.
    """
    if not loading.exists() and not published.exists() and (loading.parent / "dlt").exists():
        log.warning(
            "%s and %s are gone: this begins anew, with what Twilio still has; a backup comes "
            "back with `verify-sync restore FILE`", loading, published.name,
        )  # fmt: skip
    try:
        kept = newest_load(published)
        if kept is not None and _wal(published).exists():  # what others wrote is not published
            _wal(published).unlink()
            kept = newest_load(published)
    except Damaged as error:
        if not _is_intact(loading):
            raise _beyond_recovery(error) from error
        log.warning("%s; it is now %s and will be published anew", error, set_aside(published))
        return
    except Locked:  # by someone who writes into it: they keep what they opened
        kept = _noted(published)
        if not _is_intact(loading) or (kept and not _has(loading, kept)):
            raise Failure(
                f"{loading} has to be rebuilt from {published}, which is open for writing in "
                "another process: close it and run again"
            ) from None
        return
    try:
        behind = newest_load(loading) != kept and kept is not None and not _has(loading, kept)
        reason = f"{loading} is an older copy" if loading.exists() else f"{loading} is not there"
    except Damaged as error:
        if kept is None:
            raise _beyond_recovery(error) from error
        behind, reason = True, str(error)
    if behind:
        _rebuild(loading, published, reason)


def _rebuild(loading: Path, published: Path, reason: str) -> None:
    with suppress(Damaged):
        accounts = {_account(file) for file in (loading, published)} - {None}
        if len(accounts) > 1:
            raise Failure(
                f"{loading} and {published} hold different accounts: move one of them elsewhere"
            )
    try:
        fresh = copied(published, loading)
    except Damaged as error:  # further inside than its list of loads
        raise _beyond_recovery(error) from error
    old = f"; the old one is {set_aside(loading)}" if loading.exists() else ""
    put(fresh, loading)
    log.warning("%s: rebuilt from %s%s", reason, published.name, old)


def _is_intact(loading: Path) -> bool:
    try:
        return newest_load(loading) is not None
    except Damaged:
        return False


def newest_load(file: Path) -> str | None:
    """The load package that was completed last; None if there is none, or no file.

    Raises Damaged, Locked or Foreign.
    """
    found = ask(file, NEWEST, Connection.fetchone, None)
    if found is None:
        counted = ask(file, _OBJECTS, Connection.fetchone, None)
        if counted and any(counted) and not counted[0]:
            raise Foreign(f"{file} is a database, but not one of verify-sync's; move it elsewhere")
        return None
    return str(found[0])


def note_published(published: Path, connection: Connection) -> None:
    """Writes down what was published, for when the file itself cannot be asked."""
    found = connection.execute(NEWEST).fetchone()
    _note(published).write_text(str(found[0]) if found else "", encoding="utf-8")


def _noted(published: Path) -> str | None:
    note = _note(published)
    return note.read_text(encoding="utf-8").strip() or None if note.exists() else None


def _note(published: Path) -> Path:
    return published.with_name(published.name + ".load")


def _has(file: Path, load_id: str) -> bool:
    """Whether it has that load package, and so those before it."""
    query = f"select 1 from {SCHEMA}._dlt_loads where status = 0 and load_id = '{load_id}'"
    return ask(file, query, Connection.fetchone, None) is not None


def _account(file: Path) -> str | None:
    query = f"select lower(account_sid) from {SCHEMA}.windows_read limit 1"
    found = ask(file, query, Connection.fetchone, None)
    return found[0] if found else None


def ask(
    file: Path, query: str, take: Callable[[Connection], T], nothing: T, is_large: bool = False
) -> T:
    """The answer of a database that is opened for it; `nothing` if it or its tables are not there.

    `is_large`: it may take more memory than there is.

    Raises Damaged, Locked or another Failure if it cannot be opened or read.
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
        return Locked(f"{file} is open in another process, perhaps another run; try again later")
    if is_damage(error):
        return Damaged(f"{file} is damaged or no database ({first_line(error)})")
    return Failure(f"{file} cannot be used: {advised(first_line(error))}")


def copied(source: Path, target: Path) -> Path:
    """A copy of `source`, every block of it read, that is ready to be put in `target`'s place."""
    try:
        with duckdb.connect(config=OFFLINE) as connection:
            connection.execute(f"attach '{quoted(source)}' as source (read_only)")
            return copied_database(connection, "source", target)
    except duckdb.Error as error:
        raise unusable(source, error) from error


def copied_database(connection: Connection, name: str, target: Path, options: str = "") -> Path:
    """The same of a database that is attached: compact, with its views."""
    fresh = target.with_name(target.name + ".new")
    _remove(fresh)
    try:
        connection.execute(f"attach '{quoted(fresh)}' as fresh {options}")
        connection.execute(f"copy from database {name} to fresh")
        connection.execute(f"drop schema if exists fresh.{SCHEMA}_staging cascade")
        connection.execute("detach fresh")
    except BaseException:
        with suppress(duckdb.Error):
            connection.execute("detach fresh")
        _remove(fresh)  # on a full disk it would be in the way
        raise
    return fresh


def put(fresh: Path, target: Path) -> None:
    """Replaces `target` at once; who has it open keeps what they opened.

    A log beside it is of the old file, left by someone who wrote into it, and would make the new
    one unopenable. It goes first, lest a kill come in between, and again if they still write.
    """
    _wal(target).unlink(missing_ok=True)
    os.replace(fresh, target)
    _wal(target).unlink(missing_ok=True)


def _wal(file: Path) -> Path:
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
    """A second name for a file that is about to be replaced: that one stays."""
    kept = _aside(file)
    try:
        os.link(file, kept)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, kept)
    return kept


def set_aside(file: Path) -> Path:
    aside = _aside(file)
    if _wal(file).exists():
        os.replace(_wal(file), _wal(aside))
    os.replace(file, aside)
    return aside


def _aside(file: Path) -> Path:
    """A name that nothing has yet: what was set aside earlier may be the only good copy."""
    numbers = itertools.count(1)
    names = (file.with_name(f"{file.name}.set-aside-{number}") for number in numbers)
    return next(name for name in names if not name.exists())


def _remove(file: Path) -> None:
    for part in (file, _wal(file)):
        part.unlink(missing_ok=True)
