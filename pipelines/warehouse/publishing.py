"""Makes the published file, where that is needed. The checks before it: session."""

from __future__ import annotations

import shutil
import time
from datetime import timedelta
from pathlib import Path

from pipelines.errors import Failure
from pipelines.twilio.limits import SECOND
from pipelines.warehouse.connections import OpenElsewhere
from pipelines.warehouse.database import MIB, Database
from pipelines.warehouse.files import copied_database, put
from pipelines.warehouse.recovery import newest_load, note_published
from pipelines.warehouse.tables import SCHEMA

_READABLE_SINCE = "v1.2.0"  # DuckDB 2.0's own storage format cannot be opened by 1.x
_SPARE = 64 * MIB  # bytes left free on the disk after publishing
_OUTGROWN = 1.5  # times the size of a compact copy: rows that are merged leave holes

# A load package that brought more than windows in which there was nothing.
_UNPUBLISHED = f"""
    select load_id from {SCHEMA}._dlt_loads
    where
        rowid > coalesce(
            (select max(rowid) from {SCHEMA}._dlt_loads where load_id = '{{newest}}'), -1
        )
        and (
            load_id not in (select _dlt_load_id from {SCHEMA}.windows_read)
            or load_id in (select _dlt_load_id from {SCHEMA}.windows_read where attempts > 0)
            or load_id in (select _dlt_load_id from {SCHEMA}.rejected_attempts)
        )
"""

# What a reader gets of the same rows: views and settings, by the fingerprint of all that they are
# made of, and which of the user's own were left out.
_MEANING = f"""
    select views from {SCHEMA}._verify_sync
    union all
    select view_name from duckdb_views() where schema_name = 'main' and not internal
    union all
    select concat_ws(' ', count(*), max(reconciled_at)) from {SCHEMA}.reconciliations
    order by all
"""


class Publisher:
    """Makes `database.published` from `database`, which is open for this run."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loading, self._published = database.loading, database.published
        self._compact = self._loading.with_name(f"{self._loading.name}.compact")

    def reason_to_keep(self, every: timedelta = timedelta()) -> str | None:
        """Why the published file can stay as it is; None if it is to be made anew."""
        try:
            newest = newest_load(self._published)
        except OpenElsewhere:  # by someone who writes into it, for nothing
            return None
        if newest is None:
            return None
        as_published = self._database.rows(_MEANING, self._published)
        has_more = bool(self._database.rows(_UNPUBLISHED.format(newest=newest)))
        if not has_more and as_published == self._database.rows(_MEANING):
            return "nothing new to publish"
        age = timedelta(seconds=time.time() - self._published.stat().st_mtime)
        if timedelta() <= age < every:
            return f"not published again: that was {age // SECOND} s ago, see publish_every"
        return None

    def publish(self) -> None:
        """Replaces `verify.duckdb` by a compact copy at once; who has it open keeps the old one.

        Raises Failure where the disk has no room for it.
        """
        connection = self._database.connection
        self._check_disk()
        options = f"(storage_version '{_READABLE_SINCE}')"
        with self._database.going_through_all():
            fresh = copied_database(connection, "loading", self._published, options)
        self._keep_compact(fresh)
        put(fresh, self._published)
        note_published(self._published, connection)

    def shrink(self) -> None:
        """When the run's own file is closed: by the compact one, unless more was loaded since."""
        if self._compact.exists() and newest_load(self._compact) == newest_load(self._loading):
            put(self._compact, self._loading)

    def forget_compact(self) -> None:
        """What a run that was killed has left of it."""
        self._compact.unlink(missing_ok=True)

    def _keep_compact(self, fresh: Path) -> None:
        """Where the run's own file has outgrown a copy of it, for that to take its place."""
        size, free = fresh.stat().st_size, shutil.disk_usage(fresh.parent).free
        if self._loading.stat().st_size <= _OUTGROWN * size or free <= size + _SPARE:
            return
        try:
            shutil.copyfile(fresh, self._compact)
        except OSError:  # a quota, say: no reason not to publish
            self.forget_compact()

    def _check_disk(self) -> None:
        self._database.connection.execute("checkpoint")
        folder = self._published.parent
        needed = self._loading.stat().st_size + _SPARE
        free = shutil.disk_usage(folder).free
        if free < needed:
            raise Failure(
                f"publishing needs {needed >> 20} MB free in {folder}, there are {free >> 20}; "
                "what was read is kept, free some space and run again"
            )
