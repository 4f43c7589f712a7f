"""Makes the published file, if needed. The checks before that: session."""

from __future__ import annotations

import logging
import time
from datetime import datetime, timedelta
from pathlib import Path

from pipelines.errors import Failure
from pipelines.twilio.limits import SECOND
from pipelines.warehouse.connections import Damaged, OpenElsewhere, quoted
from pipelines.warehouse.database import Database
from pipelines.warehouse.files import copied, copied_bytes, put
from pipelines.warehouse.marks import COMPACTED, mark, set_mark
from pipelines.warehouse.recovery import LOADS, loads_of, note_published
from pipelines.warehouse.tables import SCHEMA

_LOOSE = 0.4  # share of free blocks; merging leaves holes in the file
_COMPACT_EVERY = timedelta(days=1)  # at most
_SMALL = 128  # blocks, 32 MB
_LOOSE_IF_SMALL = 4  # blocks, 1 MB
_BLOCKS = """
    select total_blocks, free_blocks from pragma_database_size()
    where database_name = current_database()
"""
_RELATIONS = """
    select schema_name, table_name from duckdb_tables() where database_name = current_database()
    union all
    select schema_name, view_name from duckdb_views()
    where database_name = current_database() and not internal
    order by all
"""

# Load packages that are not published, and hold more than windows without attempts.
_UNPUBLISHED = f"""
    select load_id from {SCHEMA}._dlt_loads
    where
        load_id not in (select load_id from published.{SCHEMA}._dlt_loads)
        and (
            load_id not in (select _dlt_load_id from {SCHEMA}.windows_read)
            or load_id in (select _dlt_load_id from {SCHEMA}.windows_read where attempts > 0)
            or load_id in (select _dlt_load_id from {SCHEMA}.rejected_attempts)
        )
"""

# What a reader sees besides the loaded rows: the stamp of views and settings, the columns of
# `attempts`, the names of the views (a user's view may have been skipped), and how far
# reconciliation is.
_MEANING = f"""
    select comment from duckdb_tables() where schema_name = 'main' and table_name = 'settings'
    union all
    select column_name from duckdb_columns()
    where schema_name = '{SCHEMA}' and table_name = 'attempts'
    union all
    select view_name from duckdb_views() where schema_name = 'main' and not internal
    union all
    select concat_ws(' ', count(*), max(reconciled_at)) from {SCHEMA}.reconciliations
    order by all
"""


log = logging.getLogger("verify_sync")


class Publisher:
    """Makes `database.published` from `database`, which this run must have open."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loading, self._published = database.loading, database.published

    def reason_to_keep(self, every: timedelta = timedelta()) -> str | None:
        """Returns why the published file can stay as it is, or None if it must be replaced.

        It also stays if it is younger than `every`.
        """
        try:
            if loads_of(self._published) is None:
                return None
        except OpenElsewhere:  # another program writes to it; publishing replaces the file
            return None
        as_published = self._database.rows(_MEANING, self._published)
        if not self._has_more() and as_published == self._database.rows(_MEANING):
            return "nothing new to publish"
        age = timedelta(seconds=time.time() - self._published.stat().st_mtime)
        if timedelta() <= age < every:
            return f"not published: the last time was {age // SECOND} s ago (see publish_every)"
        return None

    def _has_more(self) -> bool:
        """Whether there is a load to publish."""
        connection = self._database.connection
        connection.execute(f"attach '{quoted(self._published)}' as published (read_only)")
        try:
            return bool(connection.execute(_UNPUBLISHED).fetchall())
        finally:
            connection.execute("detach published")

    def publish(self, now: datetime) -> None:
        """Replaces `verify.duckdb` atomically by a copy of `loading.duckdb`, and closes that.

        Readers keep the old file. Raises Failure if the disk has no room for the copy.
        """
        connection = self._database.connection
        connection.execute(f"drop schema if exists {SCHEMA}_staging cascade")
        connection.execute("checkpoint")
        is_loose = self._is_loose(now)
        loads, relations = (self._database.rows(query) for query in (LOADS, _RELATIONS))
        with self._database.closed():
            if is_loose:
                self._compact()
            fresh = copied_bytes(self._loading, self._published)
            self._verify(fresh, loads, relations)
            put(fresh, self._published)
            note_published(self._published, loads)

    def _is_loose(self, now: datetime) -> bool:
        """Whether many blocks of the file are free, and it was not compacted in the last day.

        For a small file fewer are many: compacting it takes a moment, and replaced rows take more
        of its other blocks.
        """
        connection = self._database.connection
        ((total, free),) = self._database.rows(_BLOCKS)
        last = mark(connection, COMPACTED)
        age = now - datetime.fromisoformat(last) if last else _COMPACT_EVERY
        bound = _LOOSE * total if total > _SMALL else _LOOSE_IF_SMALL
        # A clock that was set back must not put it off.
        if free <= bound or timedelta() <= age < _COMPACT_EVERY:
            return False
        set_mark(connection, COMPACTED, now.isoformat())
        connection.execute("checkpoint")
        log.info("compacting %s: %s of %s blocks are free", self._loading, free, total)
        return True

    def _compact(self) -> None:
        """Rewrites the closed file. A disk that has no room for that is no reason to fail."""
        try:
            put(copied(self._loading, self._loading), self._loading)
        except Damaged:
            raise
        except Failure as failure:
            log.warning("not compacted: %s", failure)

    def _verify(self, fresh: Path, *expected: list[tuple[object, ...]]) -> None:
        """Raises Failure unless the copy opens, with the same loads, tables and views."""
        kept = f"{self._published} stays as it was, because its new copy"
        try:
            if [self._database.rows(query, fresh) for query in (LOADS, _RELATIONS)] == [*expected]:
                return
            why = f"{kept} lacks loads, tables or views"
        except Failure as error:
            why = f"{kept} cannot be read: {error}"
        fresh.unlink()
        raise Failure(f"{why}; all attempts read are kept, run again")
