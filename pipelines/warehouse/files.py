"""Database files as a whole: copied, replaced, set aside. Asks nothing of what they hold."""

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
    wal_of(target).unlink(missing_ok=True)
    os.replace(fresh, target)
    wal_of(target).unlink(missing_ok=True)


def wal_of(file: Path) -> Path:
    return file.with_name(file.name + ".wal")


def keep_aside(file: Path) -> Path:
    """A second name for a file that is about to be replaced: that one stays."""
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
    """A name that nothing has yet: what was set aside earlier may be the only good copy."""
    numbers = itertools.count(1)
    names = (file.with_name(f"{file.name}.set-aside-{number}") for number in numbers)
    return next(name for name in names if not name.exists())


def _remove(file: Path) -> None:
    for part in (file, wal_of(file)):
        part.unlink(missing_ok=True)
