"""The folder a run works in: one run at a time, what it holds, views, the published read copy."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import duckdb
import numpy as np

from pipelines.checks import Answer, run_checks
from pipelines.credentials import other_account
from pipelines.database import MIB, Database
from pipelines.errors import Failure, Misuse, advised
from pipelines.layout import bring_along, refuse_newer, stamp_views, stamped_views
from pipelines.loader import Loader
from pipelines.lock import Lock
from pipelines.recovery import (
    SCHEMA,
    Connection,
    Damaged,
    Foreign,
    Locked,
    copied,
    copied_database,
    is_damage,
    keep,
    newest_load,
    note_published,
    put,
    recover,
    set_aside,
    unusable,
)
from pipelines.runs import Run, newest_sync, record
from pipelines.settings import Settings
from pipelines.source import rate_sql, windows_read_sql
from pipelines.views import create_views, fingerprint, view_files
from pipelines.windows import RETENTION, SECOND, WindowsRead

_READABLE_SINCE = "v1.2.0"  # DuckDB 2.0's own storage format cannot be opened by 1.x
_SPARE = 64 * MIB  # bytes left free on the disk after publishing
_FOR_THE_RECORD = 10.0  # seconds that a run which failed waits for another to write that down
_FOR_READERS = 600.0  # … and at most for `check`, which reads all of the file, to have done so
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

_VIEWS = "select view_name from duckdb_views() where schema_name = 'main' and not internal"

# What a reader gets of the same rows; not the views' own texts, which DuckDB rewrites on storing.
_MEANING = """
    select concat_ws(' ', table_name, column_name, data_type, comment)
    from duckdb_columns() where schema_name = 'main' and not internal
    union all
    select settings::varchar from main.settings
    union all
    select concat_ws(' ', count(*), max(reconciled_at)) from twilio_verify.reconciliations
    order by all
"""


class Warehouse:
    """The folder `settings.directory`.

    Inside `opened` it is `run`'s, which loads and publishes; outside it only reads what the last
    run left, and changes nothing.
    """

    def __init__(self, settings: Settings, run: Run | None = None) -> None:
        self.settings = settings
        self.run = run or Run("run", datetime.now(timezone.utc))
        self.directory = settings.directory
        self.loading = settings.directory / "loading.duckdb"
        self.published = settings.published
        self.working_folder = settings.directory / "dlt"
        self.lock = Lock(settings.directory / "lock")
        self.backfill_lock = Lock(settings.directory / "backfill.lock")
        self.database = Database(self.loading, self.published)
        self.loader = Loader(self.database, self.working_folder)
        self._compact = self.loading.with_name(f"{self.loading.name}.compact")

    @contextmanager
    def opened(self, wait: float | None = None) -> Iterator[None]:
        """One run at a time, on files that hold everything or are rebuilt.

        Waits so many seconds for another run; if none are given, for as long as this one may.
        """
        wait = self.run.wait if wait is None else wait
        with self.locked(self.lock, wait):
            self.refuse_newer()
            recover(self.loading, self.published)
            self._compact.unlink(missing_ok=True)
            try:
                with self._connected(min(wait, _FOR_READERS)):
                    yield
                self._shrink()
            except (Failure, duckdb.Error) as error:
                if not is_damage(error) or newest_load(self.published) is None:
                    raise
                raise Failure(
                    f"{self.loading} is damaged and now {set_aside(self.loading)}; run again, "
                    f"it is rebuilt from {self.published.name}"
                ) from error

    @contextmanager
    def locked(self, lock: Lock, wait: float, is_brief: bool | None = None) -> Iterator[None]:
        """Failures of the folder, whatever happens in it, are one line."""
        holder = self.run.holder()
        if is_brief is not None:
            holder = replace(holder, is_brief=is_brief)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with lock.held(holder, wait) as waited:
                self.run.waited += waited
                yield
        except OSError as error:
            why = advised(error.strerror or str(error))
            raise Failure(f"{self.directory} cannot be used: {why}") from error
        except duckdb.Error as error:
            raise unusable(self.loading, error) from error

    def refuse_newer(self) -> None:
        """Raises Misuse for files that only a later release knows how to work with."""
        for file in (self.loading, self.published):
            with suppress(Damaged, Locked):  # which is for others to say
                refuse_newer(file)

    @contextmanager
    def _connected(self, wait: float = 0.0) -> Iterator[None]:
        with self.database.opened(wait):
            bring_along(self.connection)
            # For `status`, which cannot ask the database meanwhile.
            success = _text(newest_sync(self.connection))
            self.lock.note(replace(self.run.holder(), last_success=success))
            with self.loader.opened():
                yield

    def record(self) -> None:
        """Writes down what the run did by now, in `sync_runs`."""
        backfill = self.backfill_lock.holder()
        goes_on = backfill is not None and backfill.pid != os.getpid()
        record(self.connection, self.run, goes_on)

    def record_failure(self, error: BaseException) -> None:
        """The same of a run that failed, if it had been written down and that is possible."""
        self.run.fail(error)
        if not self.run.is_recorded:
            return
        with suppress(Failure, OSError, duckdb.Error):
            if self.database.is_open:
                with suppress(duckdb.Error):
                    self.connection.rollback()  # what failed may have been a transaction
                self.record()
            else:
                with self.opened(_FOR_THE_RECORD):
                    self.record()

    def restore(self, backup: Path) -> list[Path]:
        """Starts again from a published copy: what was read since is due again.

        Returns where the files that it replaced are kept. Raises Misuse if `backup` is no
        warehouse or another account's. Interrupted, it is undone by the next run.
        """
        _check_backup(backup)
        refuse_newer(backup)
        with self.locked(self.lock, self.run.wait):
            if self.settings.credentials:
                self.check_account(self.settings.credentials.account_sid, backup)
            there = [file for file in (self.published, self.loading) if file.exists()]
            for file in there:
                with suppress(Damaged):  # all the more reason; but not open, nor somebody else's
                    newest_load(file)
            fresh = copied(backup, self.loading)
            kept = [keep(file) for file in there]
            if self.working_folder.exists():  # a package in it belongs to what is replaced
                shutil.rmtree(self.working_folder)
            put(fresh, self.loading)
            with self._connected():
                self.apply_views()
                self.publish()
        return kept

    @property
    def connection(self) -> Connection:
        """The run's own."""
        return self.database.connection

    def is_begun(self) -> bool:
        """Whether there has been a first load."""
        return "attempts" in self.database.tables()

    def require(self) -> None:
        """Raises Failure before the first sync."""
        if not self.is_begun():  # of the published file, if that is what there is
            raise Failure(
                f"{self.directory} holds no attempts; run `make sync` first (or, if it held some, "
                "`make restore` with a backup)"
            )

    def check_account(self, account_sid: str, file: Path | None = None) -> None:
        """Refuses credentials of another account than the warehouse's, or than that of `file`."""
        rows = self.database.rows(
            f"select account_sid from {SCHEMA}.windows_read"
            f" union (select account_sid from {SCHEMA}.attempts limit 1)",  # perhaps only fetched
            file,
        )
        other = other_account((row[0] for row in rows), account_sid)
        if other:
            raise Misuse(
                f"{file or self.directory} holds account {other}, the credentials are for "
                f"{account_sid}; give each account its own folder with WAREHOUSE__DIR"
            )

    def windows_read(
        self, account_sid: str, now: datetime, file: Path | None = None
    ) -> WindowsRead:
        """What the planner needs to know: windows that reached into retention at the last read."""
        filters_hash = self.settings.filters.hash
        newest = self.database.rows(
            f"select max(read_at) from {SCHEMA}.windows_read where filters_hash = '{filters_hash}'",
            file,
        )
        since = min([now, *(read_at for (read_at,) in newest if read_at)]) - RETENTION
        query = windows_read_sql(account_sid, filters_hash, since, f"{SCHEMA}.")
        return self.database.ask(query, _as_windows_read, WindowsRead.of(()), file)

    def rate(self, now: datetime) -> float | None:
        """The most attempts a second that a window of the last 30 days has; None before any."""
        query = rate_sql(self.settings.filters.hash, now - RETENTION, f"{SCHEMA}.")
        return next((rate for (rate,) in self.database.rows(query)), None)

    def apply_views(self, again: bool = False) -> None:
        """Creates `settings` and every view of `sql/` anew, in one transaction, unless they are as
        they would be made; `again`: even then."""
        current = fingerprint(self.settings)
        there = {row[0] for row in self.database.rows(_VIEWS)}
        as_they_were = there == {file.stem for file in view_files()}
        if as_they_were and stamped_views(self.connection) == current and not again:
            return
        self.connection.begin()
        create_views(self.connection, self.settings)
        stamp_views(self.connection, current)
        self.connection.commit()

    def why_not_publish(self, every: timedelta = timedelta()) -> str | None:
        """Why the published file can stay as it is; None if it is to be made anew."""
        try:
            newest = newest_load(self.published)
        except Locked:  # by someone who writes into it, for nothing
            return None
        if newest is None:
            return None
        as_published = self.database.rows(_MEANING, self.published)
        has_more = bool(self.database.rows(_UNPUBLISHED.format(newest=newest)))
        if not has_more and as_published == self.database.rows(_MEANING):
            return "nothing new to publish"
        age = timedelta(seconds=time.time() - self.published.stat().st_mtime)
        if timedelta() <= age < every:
            return f"not published again: that was {age // SECOND} s ago, see publish_every"
        return None

    def check(self, now: datetime) -> list[Answer]:
        """What the checks of `sql/` find in what would be published next."""
        if not self.database.is_open:
            checked = lambda answer: run_checks(answer, now)  # noqa: E731
            return self.database.ask("select 1", checked, [], is_large=True)
        # With less, two threads do not get through; with more, large ones were faster, and larger.
        memory = min(max(self.loading.stat().st_size // 2, 192 * MIB), 1024 * MIB)
        with (
            self.database.going_through_all(memory // MIB),
            self.connection.cursor() as connection,
        ):
            return run_checks(connection, now)

    def publish(self) -> None:
        """Replaces `verify.duckdb` by a compact copy at once; who has it open keeps the old one."""
        self._check_disk()
        options = f"(storage_version '{_READABLE_SINCE}')"
        with self.database.going_through_all():
            fresh = copied_database(self.connection, "loading", self.published, options)
        self._keep_compact(fresh)
        put(fresh, self.published)
        note_published(self.published, self.connection)

    def _keep_compact(self, fresh: Path) -> None:
        """Where the run's own file has outgrown a copy of it, for that to take its place."""
        size, free = fresh.stat().st_size, shutil.disk_usage(self.directory).free
        if self.loading.stat().st_size <= _OUTGROWN * size or free <= size + _SPARE:
            return
        try:
            shutil.copyfile(fresh, self._compact)
        except OSError:  # a quota, say: no reason not to publish
            self._compact.unlink(missing_ok=True)

    def _shrink(self) -> None:
        """When the run's own file is closed: by the compact one, unless more was loaded since."""
        if self._compact.exists() and newest_load(self._compact) == newest_load(self.loading):
            put(self._compact, self.loading)

    def _check_disk(self) -> None:
        self.connection.execute("checkpoint")
        needed = self.loading.stat().st_size + _SPARE
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise Failure(
                f"publishing needs {needed >> 20} MB free in {self.directory}, there are "
                f"{free >> 20}; what was read is kept, free some space and run again"
            )


def _text(instant: datetime | None) -> str | None:
    return instant.isoformat() if instant else None


def _as_windows_read(answer: Connection) -> WindowsRead:
    columns = answer.fetchnumpy().values()  # instants in UTC
    return WindowsRead.by_column([c.astype("datetime64[s]").astype(np.int64) for c in columns])


def _check_backup(file: Path) -> None:
    try:
        found = newest_load(file) if file.is_file() else None
    except (Damaged, Foreign):
        found = None
    if found is None:
        what = "is no warehouse" if file.exists() else "is not there"
        raise Misuse(f"{file} {what}: give a copy of a published verify.duckdb")
