"""The files a run keeps: dlt's pipeline into `loading.duckdb`, views, the published read copy."""

from __future__ import annotations

import gc
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import dlt
import duckdb
import numpy as np
from dlt.common.exceptions import DltException
from dlt.pipeline.exceptions import PipelineStepFailed
from filelock import FileLock, Timeout

from pipelines.checks import Answer, run_checks
from pipelines.credentials import other_account
from pipelines.errors import Failure, Misuse, advised, first_line
from pipelines.interrupt import held
from pipelines.reading import Package
from pipelines.recovery import (
    NEWEST,
    OFFLINE,
    SCHEMA,
    Connection,
    Damaged,
    Foreign,
    Locked,
    T,
    ask,
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
from pipelines.settings import Settings
from pipelines.source import TABLES, loaded, rate_sql, windows_read_sql
from pipelines.views import create_views
from pipelines.windows import RETENTION, SECOND, WindowsRead

_READABLE_SINCE = "v1.2.0"  # DuckDB 2.0's own storage format cannot be opened by 1.x
_SPARE = 64 * 2**20  # bytes left free on the disk after publishing
_MEMORY = "128MB"
_LOADING = {
    **OFFLINE,
    "memory_limit": _MEMORY,
    "checkpoint_threshold": "64MB",  # a checkpoint rewrites what the last packages touched
}
_MIB = 2**20
_LARGE = 256 * _MIB  # of a file, about 3 million attempts

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

# What a reader gets of the same rows; not the views' own texts, which DuckDB rewrites on storing.
_MEANING = """
    select concat_ws(' ', table_name, column_name, data_type, comment)
    from duckdb_columns() where schema_name = 'main' and not internal
    union all
    select settings::varchar from main.settings
    order by all
"""

# As a power cut leaves it: files that are empty, or not there.
_OF_A_DAMAGED_FOLDER = (ValueError, KeyError, FileNotFoundError, DltException)

log = logging.getLogger("verify_sync")


class Warehouse:
    """The folder `settings.directory`.

    Inside `opened` it loads and publishes; outside it only reads what the last run left, and
    changes nothing.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.directory = settings.directory
        self.loading = settings.directory / "loading.duckdb"
        self.published = settings.published
        self.backfill_lock = settings.directory / "backfill.lock"
        self._working_folder = settings.directory / "dlt"
        self._connection: Connection | None = None
        self._dlt_connection: Connection | None = None
        self._known: list[tuple[Any, ...]] | None = None  # the newest load that we know of

    @contextmanager
    def opened(self, patient: bool = False) -> Iterator[None]:
        """One run at a time, on files that hold everything or are rebuilt.

        `patient`, it waits for as long as another run lasts; else that is a Failure.
        """
        with self._locked(patient):
            recover(self.loading, self.published)
            try:
                with self._connected():
                    if self._known is None:
                        self._known = self._loads()
                    yield
            except (Failure, duckdb.Error) as error:
                if not is_damage(error) or newest_load(self.published) is None:
                    raise
                raise Failure(
                    f"{self.loading} is damaged and now {set_aside(self.loading)}; run again, "
                    f"it is rebuilt from {self.published.name}"
                ) from error

    @contextmanager
    def _locked(self, patient: bool = False) -> Iterator[None]:
        """A lock left behind by a dead process is no obstacle."""
        lock = FileLock(self.directory / "lock", timeout=0)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with self._taken(lock, patient):
                yield
        except Timeout:
            raise Failure(f"another run is using {self.directory}; try again later") from None
        except OSError as error:
            why = advised(error.strerror or str(error))
            raise Failure(f"{self.directory} cannot be used: {why}") from error
        except duckdb.Error as error:
            raise unusable(self.loading, error) from error

    def _taken(self, lock: FileLock, patient: bool) -> AbstractContextManager[object]:
        try:
            return lock.acquire()
        except Timeout:
            if not patient and not self._is_backfilled():
                raise
        log.info("waiting until another run has done with %s", self.directory)
        return lock.acquire(timeout=-1)

    def _is_backfilled(self) -> bool:
        """A backfill has the warehouse for seconds only, so others can wait for it."""
        try:
            with FileLock(self.backfill_lock, timeout=0):
                return False
        except Timeout:
            return True

    @contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            with (
                duckdb.connect(str(self.loading), config=self._loading()) as self._connection,
                self._connection.cursor() as self._dlt_connection,
            ):
                yield
        finally:
            self._connection = self._dlt_connection = None
            self.__dict__.pop("pipeline", None)  # it holds the connection that is closed now

    def _loading(self) -> dict[str, Any]:
        """A second thread costs more than it brings, until finding the sids of a package among all
        takes most of a load's time."""
        is_large = self.loading.exists() and self.loading.stat().st_size > _LARGE
        return {**_LOADING, "threads": 2 if is_large else 1}

    def restore(self, backup: Path) -> list[Path]:
        """Starts again from a published copy: what was read since is due again.

        Returns where the files that it replaced are kept. Raises Misuse if `backup` is no
        warehouse or another account's. Interrupted, it is undone by the next run.
        """
        _check_backup(backup)
        with self._locked():
            if self.settings.credentials:
                self.check_account(self.settings.credentials.account_sid, backup)
            there = [file for file in (self.published, self.loading) if file.exists()]
            for file in there:
                with suppress(Damaged):  # all the more reason; but not open, nor somebody else's
                    newest_load(file)
            fresh = copied(backup, self.loading)
            kept = [keep(file) for file in there]
            if self._working_folder.exists():  # a package in it belongs to what is replaced
                shutil.rmtree(self._working_folder)
            put(fresh, self.loading)
            with self._connected():
                self.apply_views()
                self.publish()
        return kept

    @property
    def connection(self) -> Connection:
        assert self._connection is not None, "only inside `opened`"
        return self._connection

    @cached_property
    def pipeline(self) -> dlt.Pipeline:
        """dlt's pipeline into `loading.duckdb`; its working folder is part of the warehouse."""
        dlt.config["load.delete_completed_jobs"] = True  # loaded packages hold phone numbers
        dlt.config["load.truncate_staging_dataset"] = True  # or publishing copies it, to drop it
        dlt.config["runtime.enable_runtime_trace"] = False  # it quotes settings: tokens, a number
        dlt.config["runtime.intercept_signals"] = False  # it forgets one that comes late; see held
        return dlt.pipeline(
            "verify_sync",
            pipelines_dir=str(self._working_folder),
            # On the run's database: dlt by itself would open and checkpoint it at every step. Its
            # own cursor, because it changes the search path of what it is given.
            destination=dlt.destinations.duckdb(self._dlt_connection or self.connection),
            dataset_name=SCHEMA,
        )

    def finish_pending(self) -> None:
        """Loads what an interrupted run left behind, or gives it up: its windows are then due."""
        try:
            if not self.pipeline.has_pending_data:
                return
            log.info("finishing the load package that an interrupted run left behind")
            if self._has_begun() or self._appends():
                self._give_up("it is given up, to be read again: it may be loaded in part")
                return
            with held():
                self.pipeline.normalize()
                self.pipeline.load()
            _forget_loaded(Path(self.pipeline.working_dir))
        except PipelineStepFailed as error:
            self._give_up(f"it is given up, to be read again: {_why(error)}")
        except _OF_A_DAMAGED_FOLDER as error:
            self._give_up(f"{self._working_folder} is damaged and made anew: {first_line(error)}")

    def _has_begun(self) -> bool:
        """Whether dlt would leave parts of it out, as loaded: another file may lack them."""
        ids = self.pipeline.list_normalized_load_packages()
        packages = map(self.pipeline.get_load_package_info, ids)
        return any(package.jobs["completed_jobs"] for package in packages)

    def _appends(self) -> bool:
        """Whether it would add attempts for a second time that its run has loaded already."""
        return self.pipeline.default_schema.get_table("attempts")["write_disposition"] == "append"

    def _give_up(self, message: str) -> None:
        log.warning("%s", message)
        self.__dict__.pop("pipeline", None)
        shutil.rmtree(self._working_folder)

    def load(self, package: Package) -> None:
        """Loads rows and the record of their windows together, or neither.

        Where another run has loaded since the rows were read, it may have later readings of some.
        """
        complete = self._tables() >= {"attempts", *TABLES}
        if complete and self.has_changed():
            package = self._not_older(package)
        try:
            with held():
                self.pipeline.run(loaded(package, not complete, self._is_new(package)))
        except PipelineStepFailed as error:
            raise Failure(f"loading failed: {advised(_why(error))}") from error
        _forget_loaded(Path(self.pipeline.working_dir))
        self._known = self._loads()
        gc.collect()  # dlt's errors that it got over hold on to frames, and so to the package

    def has_changed(self) -> bool:
        """Whether another run has loaded anything since this one was opened or has loaded."""
        return self._known != self._loads()

    def _loads(self) -> list[tuple[Any, ...]]:
        return self._rows(NEWEST)

    def _is_new(self, package: Package) -> bool:
        """Whether none of its attempts is stored. Of a large table that takes long to say, but not
        whether there is anything in its windows."""
        stored = f"select 1 from {SCHEMA}.attempts where"
        for read in package.windows_read:
            within = "date_created > '{created_after}' and date_created <= '{created_before}'"
            if self._rows(f"{stored} {within.format(**read)} limit 1"):
                return False
        return bool(package.windows_read) and not self._beside(
            package, f"{stored} sid in (select sid from package) limit 1"
        )

    def _not_older(self, package: Package) -> Package:
        older = self._beside(
            package,
            f"select sid from package join {SCHEMA}.attempts as stored using (sid)"
            " where stored.read_at > package.read_at",
        )
        return package.without([sid for (sid,) in older])

    def _beside(self, package: Package, query: str) -> list[tuple[Any, ...]]:
        self.connection.register("package", package.attempts)
        try:
            return self._rows(query)
        finally:
            self.connection.unregister("package")

    def is_begun(self) -> bool:
        """Whether there has been a first load."""
        return "attempts" in self._tables()

    def require(self) -> None:
        """Raises Failure before the first sync."""
        if not self.is_begun():  # of the published file, if that is what there is
            raise Failure(
                f"{self.directory} holds no attempts; run `make sync` first (or, if it held some, "
                "`make restore` with a backup)"
            )

    def check_account(self, account_sid: str, file: Path | None = None) -> None:
        """Refuses credentials of another account than the warehouse's, or than that of `file`."""
        rows = self._rows(
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

    def windows_read(self, account_sid: str, now: datetime) -> WindowsRead:
        """What the planner needs to know: windows that reached into retention at the last read."""
        filters_hash = self.settings.filters.hash
        newest = self._rows(
            f"select max(read_at) from {SCHEMA}.windows_read where filters_hash = '{filters_hash}'"
        )
        since = min([now, *(read_at for (read_at,) in newest if read_at)]) - RETENTION
        query = windows_read_sql(account_sid, filters_hash, since, f"{SCHEMA}.")
        return self._ask(query, _as_windows_read, WindowsRead.of(()))

    def rate(self, now: datetime) -> float | None:
        """The most attempts a second that a window of the last 30 days has; None before any."""
        query = rate_sql(self.settings.filters.hash, now - RETENTION, f"{SCHEMA}.")
        return next((rate for (rate,) in self._rows(query)), None)

    def apply_views(self) -> None:
        """Creates `settings` and every view of `sql/` anew, in one transaction."""
        self.connection.begin()
        create_views(self.connection, self.settings)
        self.connection.commit()

    def why_not_publish(self, every: timedelta = timedelta()) -> str | None:
        """Why the published file can stay as it is; None if it is to be made anew."""
        try:
            newest = newest_load(self.published)
        except Locked:  # by someone who writes into it, for nothing
            return None
        if newest is None:
            return None
        as_published = self._rows(_MEANING, self.published)
        if not self._rows(_UNPUBLISHED.format(newest=newest)) and as_published == self._rows(
            _MEANING
        ):
            return "nothing new to publish"
        age = timedelta(seconds=time.time() - self.published.stat().st_mtime)
        if timedelta() <= age < every:
            return f"not published again: that was {age // SECOND} s ago, see publish_every"
        return None

    def check(self, now: datetime) -> list[Answer]:
        """What the checks of `sql/` find in what would be published next."""
        if self._connection is None:
            return self._ask("select 1", lambda answer: run_checks(answer, now), [])
        # With less, two threads do not get through; with more, large ones were faster, and larger.
        memory = min(max(self.loading.stat().st_size // 2, 192 * _MIB), 1024 * _MIB)
        with (
            self._going_through_all(f"{memory // _MIB}MiB"),
            self._connection.cursor() as connection,
        ):
            return run_checks(connection, now)

    def publish(self) -> None:
        """Replaces `verify.duckdb` by a compact copy at once; who has it open keeps the old one."""
        self._check_disk()
        options = f"(storage_version '{_READABLE_SINCE}')"
        with self._going_through_all(_MEMORY):
            fresh = copied_database(self.connection, "loading", self.published, options)
        put(fresh, self.published)
        note_published(self.published, self.connection)

    @contextmanager
    def _going_through_all(self, memory: str) -> Iterator[None]:
        """With a second thread, which is of use to a copy only if rows may change their order."""
        usual = {"memory_limit": _MEMORY, "threads": self._loading()["threads"]}
        self._set(memory_limit=memory, threads=2, preserve_insertion_order=False)
        try:
            yield
        finally:
            self._set(**usual, preserve_insertion_order=True)

    def _set(self, **options: object) -> None:
        self.connection.execute(" ".join(f"set {name} = '{options[name]}';" for name in options))

    def _check_disk(self) -> None:
        self.connection.execute("checkpoint")
        needed = self.loading.stat().st_size + _SPARE
        free = shutil.disk_usage(self.directory).free
        if free < needed:
            raise Failure(
                f"publishing needs {needed >> 20} MB free in {self.directory}, there are "
                f"{free >> 20}; what was read is kept, free some space and run again"
            )

    def _tables(self) -> set[str]:
        rows = self._rows(f"select table_name from duckdb_tables() where schema_name = '{SCHEMA}'")
        return {row[0] for row in rows}

    def _rows(self, query: str, file: Path | None = None) -> list[tuple[Any, ...]]:
        return self._ask(query, lambda answer: answer.fetchall(), [], file)

    def _ask(
        self, query: str, take: Callable[[Connection], T], nothing: T, file: Path | None = None
    ) -> T:
        """The answer from `loading.duckdb`; `nothing` while it or its tables do not exist yet.

        Where it is gone or damaged, from the published file, of which the next run rebuilds it.
        """
        if self._connection is None or file is not None:
            usual = self.loading if self.loading.exists() else self.published
            try:
                return ask(file or usual, query, take, nothing)
            except Damaged:
                if file is not None:
                    raise
                return ask(self.published, query, take, nothing)
        try:
            return take(self._connection.execute(query))
        except duckdb.CatalogException:
            return nothing


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


def _why(error: PipelineStepFailed) -> str:
    """The cause's own words: dlt puts a traceback before them and advice after."""
    cause = error.exception or error
    lines = re.findall(r"^[\w.]+(?:Error|Exception): (.+)", str(cause), re.MULTILINE)
    return lines[-1] if lines else first_line(cause)


def _forget_loaded(working_folder: Path) -> None:
    """dlt keeps a record of every package it has loaded; a table of them is in the warehouse."""
    (working_folder / "trace.pickle").unlink(missing_ok=True)  # of our first release
    shutil.rmtree(working_folder / "load" / "loaded", ignore_errors=True)
    (working_folder / "load" / "loaded").mkdir(exist_ok=True)
