"""Copies, replaces and sets aside whole database files. Queries on their contents: contents."""

from __future__ import annotations

import itertools
import os
import shutil
from contextlib import suppress
from pathlib import Path

import duckdb

from pipelines.warehouse.connections import OFFLINE, Connection, quoted, unusable
from pipelines.warehouse.tables import SCHEMA


def copied(source: Path, target: Path) -> Path:
    """Copies `source` to a new file beside `target`, and returns that file. Reads every block.

    `put` then replaces `target` by it. Raises Damaged, OpenElsewhere or another Failure.
    """
    try:
        with duckdb.connect(config=OFFLINE) as connection:
            connection.execute(f"attach '{quoted(source)}' as source (read_only)")
            return copied_database(connection, "source", target)
    except duckdb.Error as error:
        raise unusable(source, error) from error


def copied_database(connection: Connection, name: str, target: Path, options: str = "") -> Path:
    """Copies the attached database `name`, compacted and with its views. Otherwise as `copied`."""
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
    """Replaces `target` atomically. Readers that have the old file open keep it.

    Another program that wrote to the old file may have left a log (.wal) beside it. With that log
    the new file cannot be opened. The log is deleted before the replacement, in case this run is
    killed in between, and once more after it, in case the other program still writes.
    """
    wal_of(target).unlink(missing_ok=True)
    os.replace(fresh, target)
    wal_of(target).unlink(missing_ok=True)


def wal_of(file: Path) -> Path:
    return file.with_name(file.name + ".wal")


def keep_aside(file: Path) -> Path:
    """Keeps a file that is about to be replaced under a second name. Returns that name."""
    kept = _aside(file)
    try:
        os.link(file, kept)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, kept)
    return kept


def set_aside(file: Path) -> Path:
    aside = _aside(file)
    if wal_of(file).exists():
        os.replace(wal_of(file), wal_of(aside))
    os.replace(file, aside)
    return aside


def _aside(file: Path) -> Path:
    """Returns an unused name: a file that was set aside earlier may be the only good copy."""
    numbers = itertools.count(1)
    names = (file.with_name(f"{file.name}.set-aside-{number}") for number in numbers)
    return next(name for name in names if not name.exists())


def _remove(file: Path) -> None:
    for part in (file, wal_of(file)):
        part.unlink(missing_ok=True)
