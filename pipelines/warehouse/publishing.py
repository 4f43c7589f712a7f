"""Makes the published file, if needed. The checks before that: session."""

from __future__ import annotations

import shutil
import time
from datetime import timedelta
from pathlib import Path

from pipelines.errors import Failure
from pipelines.twilio.limits import SECOND
from pipelines.warehouse.connections import OpenElsewhere, quoted
from pipelines.warehouse.database import MIB, Database
from pipelines.warehouse.files import copied_database, put
from pipelines.warehouse.recovery import loads_of, note_published
from pipelines.warehouse.tables import SCHEMA

_READABLE_SINCE = "v1.2.0"  # DuckDB 1.x cannot open the storage format of DuckDB 2.0
_SPARE = 64 * MIB  # bytes left free on the disk after publishing
_OUTGROWN = 1.5  # times the size of a compact copy; merging leaves holes in the file

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


class Publisher:
    """Makes `database.published` from `database`, which this run must have open."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loading, self._published = database.loading, database.published
        self._compact = self._loading.with_name(f"{self._loading.name}.compact")

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

    def publish(self) -> None:
        """Replaces `verify.duckdb` atomically by a compact copy. Readers keep the old file.

        Raises Failure if the disk has no room for the copy.
        """
        connection = self._database.connection
        self._check_disk()
        options = f"(storage_version '{_READABLE_SINCE}')"
        # The name is that of the file. If that is a link, DuckDB takes the name behind it.
        ((name,),) = connection.execute("select current_database()").fetchall()
        with self._database.going_through_all():
            fresh = copied_database(connection, f'"{name}"', self._published, options)
        self._keep_compact(fresh)
        put(fresh, self._published)
        note_published(self._published, connection)

    def shrink(self) -> None:
        """Replaces `loading.duckdb` by its compact copy, unless more was loaded since.

        Call it when the file is closed.
        """
        if self._compact.exists() and loads_of(self._compact) == loads_of(self._loading):
            put(self._compact, self._loading)

    def forget_compact(self) -> None:
        """Deletes the compact copy that a killed run left."""
        self._compact.unlink(missing_ok=True)

    def _keep_compact(self, fresh: Path) -> None:
        """Keeps the copy for `shrink`, if `loading.duckdb` is much larger and the disk has room."""
        size, free = fresh.stat().st_size, shutil.disk_usage(fresh.parent).free
        if self._loading.stat().st_size <= _OUTGROWN * size or free <= size + _SPARE:
            return
        try:
            shutil.copyfile(fresh, self._compact)
        except OSError:  # such as a quota: publishing still works
            self.forget_compact()

    def _check_disk(self) -> None:
        self._database.connection.execute("checkpoint")
        folder = self._published.parent
        needed = self._loading.stat().st_size + _SPARE
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise Failure(
                f"publishing needs {needed >> 20} MB free in {folder}, but only {free >> 20} MB "
                "are free: free some space and run again; all attempts read are kept"
            )
