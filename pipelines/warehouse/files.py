"""Copies, replaces and sets aside whole database files. Queries on their contents: contents."""

from __future__ import annotations

import itertools
import os
import shutil
from contextlib import suppress
from pathlib import Path

import duckdb

from pipelines.warehouse.connections import Connection, connect, quoted, unusable
from pipelines.warehouse.tables import SCHEMA


def copied(source: Path, target: Path) -> Path:
    """Copies `source` to a new file beside `target`, and returns that file. Reads every block.

    `put` then replaces `target` by it. Raises Damaged, OpenElsewhere or another Failure.
    """
    try:
        with connect() as connection:
            connection.execute(f"attach '{quoted(source)}' as source (read_only)")
            return copied_database(connection, "source", target)
    except duckdb.Error as error:
        raise unusable(source, error) from error


def copied_database(connection: Connection, name: str, target: Path, options: str = "") -> Path:
    """Copies the attached database `name`, compacted and with its views. Otherwise as `copied`."""
    target = target.resolve()  # a link is followed: the copy must be on the same file system
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
        _remove(fresh)  # else a partial copy fills the disk
        raise
    return fresh


def put(fresh: Path, target: Path) -> None:
    """Replaces `target` atomically, with its owner, group and mode. Follows a link. Readers that
    have the old file open keep it.

    Another program that wrote to the old file may have left a log (.wal) beside it. With that log
    the new file cannot be opened. The log is deleted before the replacement, in case this run is
    killed in between, and once more after it, in case the other program still writes.
    """
    real = target.resolve()
    logs = {wal_of(target), wal_of(real)}  # DuckDB writes it beside the name that it was given
    keep_owner(fresh, real)
    for log in logs:
        log.unlink(missing_ok=True)
    os.replace(fresh, real)
    for log in logs:
        log.unlink(missing_ok=True)


def keep_owner(fresh: Path, replaced: Path) -> None:
    """Gives the new file the owner, group and mode of the one that it replaces."""
    if not replaced.exists():
        return
    of = replaced.stat()
    mode = of.st_mode & 0o777
    for owner, group in ((-1, of.st_gid), (of.st_uid, -1)):
        with suppress(OSError):  # only root can give a file away
            os.chown(fresh, owner, group)
    if fresh.stat().st_gid != of.st_gid:
        mode &= ~0o070  # nobody of another group may read it
    with suppress(OSError):  # a file system without modes
        fresh.chmod(mode)


def wal_of(file: Path) -> Path:
    return file.with_name(file.name + ".wal")


def keep_aside(file: Path) -> Path:
    """Keeps a database that is about to be replaced under a second name, with its log (.wal): a
    killed run may have left most of its rows there. Returns that name."""
    kept = _aside(file)
    for part, second in ((file.resolve(), kept), (wal_of(file), wal_of(kept))):
        if not part.exists():
            continue
        try:
            os.link(part, second)
        except OSError:  # another file system, or one without hard links
            shutil.copy2(part, second)
    return kept


def set_aside(file: Path) -> Path:
    """Renames a database and its log. Returns the new name."""
    aside = _aside(file)
    if wal_of(file).exists():
        os.replace(wal_of(file), wal_of(aside))
    real = file.resolve()
    if real == file.absolute():
        os.replace(file, aside)
    else:  # keep the link for the next file
        shutil.move(real, aside)
    return aside


def _aside(file: Path) -> Path:
    """Returns an unused name: a file that was set aside earlier may be the only good copy."""
    numbers = itertools.count(1)
    names = (file.with_name(f"{file.name}.set-aside-{number}") for number in numbers)
    return next(name for name in names if not name.exists())


def _remove(file: Path) -> None:
    for part in (file, wal_of(file)):
        part.unlink(missing_ok=True)
