"""Checks that both database files are intact, rebuilds `loading.duckdb`. Copying: files."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import Failure
from pipelines.text import typed
from pipelines.warehouse.connections import Connection, Damaged, OpenElsewhere, ask, escaped
from pipelines.warehouse.files import copied, put, set_aside, wal_of
from pipelines.warehouse.tables import SCHEMA

# Not by rowid: publishing copies the rows with two threads, in any order. The number tells two
# files apart even if a clock was set back.
LOADS = f"""
    select arg_max(load_id, struct_pack(at := inserted_at, id := load_id)), count(*)
    from {SCHEMA}._dlt_loads where status = 0 having count(*) > 0
"""
# Our schema first, then everything that another program may have created.
_OBJECTS = f"""
    select
        (select count(*) from duckdb_schemas() where schema_name = '{SCHEMA}'),
        (select count(*) from duckdb_tables()),
        (select count(*) from duckdb_views() where not internal),
        (select count(*) from duckdb_functions() where not internal),
        (select count(*) from duckdb_sequences())
"""
log = logging.getLogger("verify_sync")


class Loads(NamedTuple):
    """The complete load packages of a file: the id of the newest, and how many there are."""

    newest: str
    number: int


class Foreign(Failure):
    """The file is a database of another program."""


def recover(loading: Path, published: Path) -> None:
    """Before a run, rebuilds `loading` from `published` if it lacks loads that `published` has.

    That is so when `loading` was deleted, is damaged, or is an older copy. Windows that were
    loaded but not published are then due again. A damaged file is set aside, never deleted.
    Raises Failure and changes nothing if no file is intact, or one of them is not ours.
    """
    if not loading.exists() and not published.exists() and (loading.parent / "dlt").exists():
        log.warning(
            "%s and %s are missing: starting over with what Twilio still has; if you have a "
            "backup, run `%s`", loading, published.name, typed("restore", "FILE"),
        )  # fmt: skip
    try:
        kept = _without_log(published)
    except Damaged as error:
        if not _is_intact(loading):
            raise _beyond_recovery(error) from error
        log.warning("%s; renamed to %s, it will be published again", error, set_aside(published))
        return
    except OpenElsewhere:  # another program writes to it, and keeps the file that it opened
        kept = _noted(published)
        if not _is_intact(loading) or (kept and not _has(loading, kept)):
            raise Failure(
                f"{loading} has to be rebuilt from {published}, which is open for writing in "
                "another process: end that process and run again"
            ) from None
        return
    try:
        found = loads_of(loading)
        behind = kept is not None and found != kept and not _has(loading, kept)
        reason = f"{loading} is an older copy" if loading.exists() else f"{loading} is missing"
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
    except Damaged as error:  # the damage is deeper inside than the list of loads
        raise _beyond_recovery(error) from error
    old = f"; the old file is now {set_aside(loading)}" if loading.exists() else ""
    put(fresh, loading)
    log.warning("%s: rebuilt from %s%s", reason, published.name, old)


def _without_log(published: Path) -> Loads | None:
    """Returns its loads, after dropping what other programs have written beside the file."""
    log_of_others = wal_of(published)
    try:
        kept = loads_of(published)
        if kept is None or not log_of_others.exists():
            return kept
    except Damaged:  # perhaps only because the log was written for the file before this one
        if not log_of_others.exists():
            raise
    log_of_others.unlink()
    return loads_of(published)


def _is_intact(loading: Path) -> bool:
    try:
        return loads_of(loading) is not None
    except Damaged:
        return False


def loads_of(file: Path) -> Loads | None:
    """Returns the complete load packages of a file; None if there are none, or no file.

    Raises Damaged, OpenElsewhere or Foreign.
    """
    found = ask(file, LOADS, _loads, None)
    if found is None:
        counted = ask(file, _OBJECTS, Connection.fetchone, None)
        if counted and any(counted) and not counted[0]:
            raise Foreign(f"{file} is a database of another program: move it elsewhere")
    return found


def loads_in(connection: Connection) -> Loads | None:
    """Returns the complete load packages of the open database; None if there are none."""
    return _loads(connection.execute(LOADS))


def _loads(answer: Connection) -> Loads | None:
    found = answer.fetchall()  # a result that is not read to its end keeps a transaction open
    return Loads(*found[0]) if found else None


def note_published(published: Path, found: list[tuple[object, ...]]) -> None:
    """Stores which loads are published, for when the file itself cannot be queried. `found` is the
    answer to LOADS."""
    text = " ".join(str(value) for row in found for value in row)
    _note(published).write_text(text, encoding="utf-8")


def _noted(published: Path) -> Loads | None:
    note = _note(published)
    text = note.read_text(encoding="utf-8", errors="replace") if note.exists() else ""
    found = re.fullmatch(r"([\d.]+)(?: (\d{1,18}))?\s*", text)  # earlier releases gave no number
    return Loads(found[1], int(found[2] or 0)) if found else None


def _note(published: Path) -> Path:
    return published.with_name(published.name + ".load")


def _has(file: Path, loads: Loads) -> bool:
    """Whether the file has all these load packages."""
    query = f"""
        select count(*) filter (load_id = '{escaped(loads.newest)}') from {SCHEMA}._dlt_loads
        where status = 0 having count(*) >= {loads.number}
    """
    return ask(file, query, Connection.fetchone, None) == (1,)


def _account(file: Path) -> str | None:
    query = f"select lower(account_sid) from {SCHEMA}.windows_read limit 1"
    found = ask(file, query, Connection.fetchone, None)
    return found[0] if found else None


def _beyond_recovery(error: Failure) -> Failure:
    return Failure(
        f"{error} and there is no other copy here: move it away to start over, or restore a backup "
        f"with `{typed('restore', 'FILE')}`"
    )
