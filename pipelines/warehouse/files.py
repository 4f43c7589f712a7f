"""Copies, replaces and sets aside whole database files. Queries on their contents: contents."""

from __future__ import annotations

import fcntl
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb

from pipelines.errors import Failure
from pipelines.warehouse.connections import connect, quoted, unusable
from pipelines.warehouse.tables import SCHEMA

_FICLONE = 0x40049409  # Linux, ioctl_ficlone(2): btrfs, XFS and others
_SPARE = 64 * 2**20  # bytes left free on the disk after a copy


def copied(source: Path, target: Path) -> Path:
    """Copies `source` to a new file beside `target`, and returns that file. Reads every block.

    The copy is compact, in the storage format of this release. `put` then replaces `target` by it.
    Raises Damaged, OpenElsewhere or another Failure.
    """
    fresh = _beside(target)
    options: dict[str, Any] = {
        "threads": 2,
        "preserve_insertion_order": False,  # else a second thread would not make it faster
        "memory_limit": "512MB",
        "temp_directory": f"{fresh}.tmp",
    }
    try:
        with _removed_if_partial(fresh), connect(**options) as connection:
            connection.execute(f"attach '{quoted(source)}' as source (read_only)")
            connection.execute(f"attach '{quoted(fresh)}' as fresh")
            connection.execute("copy from database source to fresh")
            connection.execute(f"drop schema if exists fresh.{SCHEMA}_staging cascade")
            connection.execute("detach fresh")
    except duckdb.Error as error:
        raise unusable(source, error) from error
    return fresh


def copied_bytes(source: Path, target: Path) -> Path:
    """Copies the bytes of `source` to a new file beside `target`, and returns that file.

    `source` must be closed: closing a handle here would drop this process's locks on it. Raises
    Failure if the disk has no room.
    """
    fresh = _beside(target)
    with _removed_if_partial(fresh):
        if not _cloned(source, fresh):
            _require_room(fresh.parent, source.stat().st_size)
            shutil.copyfile(source, fresh)
        with fresh.open("rb") as copy:
            os.fsync(copy)  # the file that it replaces survives a power cut; so must this one
    return fresh


def _cloned(source: Path, target: Path) -> bool:
    """Lets the new file share the blocks of the old one. Returns False if the disk cannot."""
    with source.open("rb") as old, target.open("wb") as new:
        try:
            fcntl.ioctl(new, _FICLONE, old.fileno())
        except OSError:
            return False
    return True


def _require_room(folder: Path, size: int) -> None:
    """Raises Failure if the disk cannot take `size` bytes more, and some spare."""
    free = shutil.disk_usage(folder).free
    if free < size + _SPARE:
        raise Failure(
            f"publishing needs {size + _SPARE >> 20} MB free in {folder}, but only {free >> 20} MB "
            "are free: free some space and run again; all attempts read are kept"
        )


def _beside(target: Path) -> Path:
    """Returns the name of the new file, on the same file system: a link is followed."""
    real = target.resolve()
    return real.with_name(real.name + ".new")


@contextmanager
def _removed_if_partial(fresh: Path) -> Iterator[None]:
    """Removes `fresh` first, and again if what makes it fails: a partial copy fills the disk."""
    _remove(fresh)
    try:
        yield
    except BaseException:
        _remove(fresh)
        raise


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
