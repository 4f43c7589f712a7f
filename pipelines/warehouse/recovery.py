"""Checks that both database files are intact, rebuilds `loading.duckdb`. Copying: files."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from pipelines.errors import Failure
from pipelines.text import typed
from pipelines.warehouse.connections import Connection, Damaged, OpenElsewhere, ask
from pipelines.warehouse.files import copied, put, set_aside, wal_of
from pipelines.warehouse.tables import SCHEMA

NEWEST = f"select load_id from {SCHEMA}._dlt_loads where status = 0 order by rowid desc limit 1"
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
        kept = newest_load(published)
        if kept is not None and wal_of(published).exists():  # drop changes by other programs
            wal_of(published).unlink()
            kept = newest_load(published)
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
        behind = newest_load(loading) != kept and kept is not None and not _has(loading, kept)
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


def _is_intact(loading: Path) -> bool:
    try:
        return newest_load(loading) is not None
    except Damaged:
        return False


def newest_load(file: Path) -> str | None:
    """Returns the id of the newest complete load package; None if there is none, or no file.

    Raises Damaged, OpenElsewhere or Foreign.
    """
    found = ask(file, NEWEST, Connection.fetchone, None)
    if found is None:
        counted = ask(file, _OBJECTS, Connection.fetchone, None)
        if counted and any(counted) and not counted[0]:
            raise Foreign(f"{file} is a database of another program: move it elsewhere")
        return None
    return str(found[0])


def note_published(published: Path, connection: Connection) -> None:
    """Stores the id of the published load, for when the file itself cannot be queried."""
    found = connection.execute(NEWEST).fetchone()
    _note(published).write_text(str(found[0]) if found else "", encoding="utf-8")


def _noted(published: Path) -> str | None:
    note = _note(published)
    return note.read_text(encoding="utf-8").strip() or None if note.exists() else None


def _note(published: Path) -> Path:
    return published.with_name(published.name + ".load")


def _has(file: Path, load_id: str) -> bool:
    """Whether the file has that load package, and so all earlier ones."""
    query = f"select 1 from {SCHEMA}._dlt_loads where status = 0 and load_id = '{load_id}'"
    return ask(file, query, Connection.fetchone, None) is not None


def _account(file: Path) -> str | None:
    query = f"select lower(account_sid) from {SCHEMA}.windows_read limit 1"
    found = ask(file, query, Connection.fetchone, None)
    return found[0] if found else None


def _beyond_recovery(error: Failure) -> Failure:
    return Failure(
        f"{error} and there is no other copy here: move it away to start over, or restore a backup "
        f"with `{typed('restore', 'FILE')}`"
    )
