"""Loads packages with dlt, each completely or not at all. What a package is: reading.package."""

from __future__ import annotations

import atexit
import gc
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import dlt
import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.configuration.container import Container
from dlt.common.configuration.providers.doc import CustomLoaderDocProvider
from dlt.common.configuration.providers.provider import ConfigProvider
from dlt.common.configuration.specs import PluggableRunContext
from dlt.common.configuration.utils import get_resolved_traces
from dlt.common.exceptions import DltException
from dlt.common.runtime.run_context import RunContext
from dlt.pipeline.exceptions import PipelineStepFailed

from pipelines.errors import Failure, advised, first_line, masked
from pipelines.interrupt import held
from pipelines.reading.package import Package
from pipelines.reading.raw_tables import CHANGED_IN, TABLES
from pipelines.source import package_source
from pipelines.twilio.columns import ATTEMPTS
from pipelines.warehouse.changes import have_odd, spans_of, within
from pipelines.warehouse.connections import Connection, LostRows, causes
from pipelines.warehouse.database import Database
from pipelines.warehouse.recovery import LOADS
from pipelines.warehouse.tables import SCHEMA

# All that dlt's configuration holds for our pipeline; anything else has dlt's default.
_OPTIONS = {
    "pipelines": {
        "dev_mode": False,  # true: a new schema for every run
        "enable_runtime_trace": False,  # it has tokens and phone numbers in it
    },
    "load": {
        "delete_completed_jobs": True,  # loaded packages hold phone numbers
        "truncate_staging_dataset": True,  # its rows are in the tables now
    },
    "runtime": {
        "dlthub_telemetry": False,  # we connect to Twilio only
        "intercept_signals": False,  # dlt can lose a late signal; see `held`
        "log_level": "CRITICAL",  # it may quote a row; failures reach us as exceptions
    },
    "providers": {"enable_airflow_secrets": False},
}
# Raised when a power cut left dlt's files empty or missing.
_OF_A_DAMAGED_FOLDER = (ValueError, KeyError, FileNotFoundError, DltException)

log = logging.getLogger("verify_sync")


class Loader:
    """Loads packages into `database`. dlt keeps its own files in `working_folder`."""

    def __init__(self, database: Database, working_folder: Path) -> None:
        self._database = database
        self._working_folder = working_folder
        self._cursor: Connection | None = None
        self._known: list[tuple[Any, ...]] | None = None  # the loads known so far

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Prepares for loading. The database must be open."""
        _freeze_modules()
        if self._known is None:
            self._known = self._loads()
        try:
            with _alone(self._working_folder):
                self._cursor = self._database.cursor()
                yield
        finally:
            self._cursor = None
            self.__dict__.pop("pipeline", None)  # it holds the connection that is closed now

    @cached_property
    def pipeline(self) -> dlt.Pipeline:
        """dlt's pipeline into `loading.duckdb`; its working folder is part of the warehouse."""
        return dlt.pipeline(
            "verify_sync",
            pipelines_dir=str(self._working_folder),
            # Use the run's connection: dlt's own would open and checkpoint the file at every step.
            # Use a separate cursor, because dlt changes its search path.
            destination=dlt.destinations.duckdb(self._cursor or self._database.connection),
            dataset_name=SCHEMA,
        )

    def finish_pending(self) -> None:
        """Loads the package that an interrupted run left. If dropped, its windows are due again."""
        try:
            if not self.pipeline.has_pending_data:
                return
            log.info("finishing the load package that an interrupted run left behind")
            if self._has_begun() or self._appends():
                self._give_up("dropping the package, to read it again: part of it may be loaded")
                return
            with held(), self._keeping_all():
                self.pipeline.normalize()
                self.pipeline.load()
            _forget_loaded(Path(self.pipeline.working_dir))
        except PipelineStepFailed as error:
            self._give_up(f"dropping the package, to read it again: {_why(error)}")
        except _OF_A_DAMAGED_FOLDER as error:
            self._give_up(f"{self._working_folder} is damaged, recreating it: {first_line(error)}")

    def _has_begun(self) -> bool:
        """Whether dlt has loaded part of the package.

        dlt would skip that part. But the database may have been replaced since and lack it.
        """
        ids = self.pipeline.list_normalized_load_packages()
        packages = map(self.pipeline.get_load_package_info, ids)
        return any(package.jobs["completed_jobs"] for package in packages)

    def _appends(self) -> bool:
        """Whether the package appends. If it is already loaded, that would store attempts twice."""
        return self.pipeline.default_schema.get_table("attempts")["write_disposition"] == "append"

    def _give_up(self, message: str) -> None:
        log.warning("%s", message)
        self.__dict__.pop("pipeline", None)
        shutil.rmtree(self._working_folder)

    def load(self, package: Package) -> int:
        """Loads rows and the record of their windows together, or neither. Raises Failure.

        Returns how many of the attempts were not stored before. If another run has loaded in the
        meantime, attempts for which it stored a later reading are left out.
        """
        before, loads = self._attempts(), self._loads()
        complete = self._database.tables() >= {"attempts", *TABLES}
        if complete and self.has_changed():
            package = self._not_older(package)
        is_new = self._is_new(package)
        if complete and not is_new:
            package = self._compared(package)
        try:
            with held(), self._keeping_all():
                self.pipeline.run(package_source(package, not complete, is_new))
        except PipelineStepFailed as error:
            raise Failure(f"loading failed: {advised(_why(error))}") from error
        _forget_loaded(Path(self.pipeline.working_dir))
        self._known = self._loads()
        if self._known == loads:
            raise Failure(f"loading failed: the rows did not arrive in {self._database.loading}")
        # Errors that dlt has caught keep frames alive, and with them the package. It notes each
        # option that it looked up, with such an error, and forgets them only if it keeps a trace.
        get_resolved_traces().clear()
        gc.collect()
        return self._attempts() - before

    @contextmanager
    def _keeping_all(self) -> Iterator[None]:
        """Raises LostRows if fewer attempts are stored at the end than at the beginning."""
        before = self._attempts()
        yield
        if self._attempts() < before:
            raise LostRows(f"a load has deleted attempts from {self._database.loading}")

    def has_changed(self) -> bool:
        """Whether another run has loaded since this loader was first opened or last loaded."""
        return self._known != self._loads()

    def _attempts(self) -> int:
        """Returns the number of stored attempts."""
        rows = self._database.rows(f"select count(*) from {SCHEMA}.attempts")
        return int(rows[0][0]) if rows else 0

    def _loads(self) -> list[tuple[Any, ...]]:
        return self._database.rows(LOADS)

    def _is_new(self, package: Package) -> bool:
        """Whether none of the package's attempts is stored yet.

        Looking up sids in a large table is slow. Finding any row in a window is fast, so that
        comes first.
        """
        stored = f"select 1 from {SCHEMA}.attempts where"
        for read in package.windows_read:
            within = "date_created > '{created_after}' and date_created <= '{created_before}'"
            if self._database.rows(f"{stored} {within.format(**read)} limit 1"):
                return False
        return bool(package.windows_read) and not self._beside(
            package, f"{stored} sid in (select sid from package) limit 1"
        )

    def _compared(self, package: Package) -> Package:
        """Finds the attempts of which no value but `read_at` differs from what is stored.

        Must come before the load, which deletes the stored values.
        """
        same = " and ".join(
            f"package.{name} is not distinct from stored.{name}{'::varchar' * (name == 'extra')}"
            for name in ATTEMPTS.names
            if name != "read_at"
        )
        days = sorted(pc.unique(package.attempts["date_created"].cast(pa.date32())).to_pylist())
        # With its creation time, an attempt is found without a search through all that is stored.
        near = "true" if have_odd(days) else within(spans_of(days), "stored.date_created")
        unchanged = self._beside(
            package,
            f"select sid, coalesce(stored.{CHANGED_IN}, '') from package"
            f" join {SCHEMA}.attempts as stored using (sid, date_created) where {near} and {same}",
        )
        if not unchanged:
            return package
        sids, loads = (pa.array(values, pa.string()) for values in zip(*unchanged, strict=True))
        found = pc.index_in(package.attempts["sid"], sids)
        return replace(package, changed_in=pc.take(loads, found))

    def _not_older(self, package: Package) -> Package:
        older = self._beside(
            package,
            f"select sid from package join {SCHEMA}.attempts as stored using (sid)"
            " where stored.read_at > package.read_at",
        )
        return package.without([sid for (sid,) in older])

    def _beside(self, package: Package, query: str) -> list[tuple[Any, ...]]:
        self._database.connection.register("package", package.attempts)
        try:
            return self._database.rows(query)
        finally:
            self._database.connection.unregister("package")


@cache
def _freeze_modules() -> None:
    """Once per process, excludes all present objects from the garbage collection after a load."""
    gc.freeze()
    atexit.register(gc.unfreeze)  # else DuckDB's binding library reports them as leaks


class _Alone(RunContext):
    """Where our pipeline finds its configuration: in `_OPTIONS` only.

    dlt looks up every argument that is not given, such as `refresh`, in the environment and in
    files, where it may be meant for another pipeline. `refresh = "drop_data"` deletes all rows.
    """

    module = None  # else dlt imports a module that is named like the current folder

    def initial_providers(self) -> list[ConfigProvider]:
        return [CustomLoaderDocProvider("verify-sync", lambda: _OPTIONS)]


@contextmanager
def _alone(working_folder: Path) -> Iterator[None]:
    """In here, dlt has no configuration but ours, and writes to `working_folder` only."""
    usual, context = tempfile.tempdir, PluggableRunContext(_Alone(None))
    working_folder.mkdir(exist_ok=True)
    # dlt writes SQL files to the system's temporary folder, which may not be writable.
    tempfile.tempdir = str(working_folder)
    try:
        with Container().injectable_context(context):
            yield
    finally:
        tempfile.tempdir = usual


def _why(error: PipelineStepFailed) -> str:
    """Returns the cause's own message, without dlt's traceback before and advice after it."""
    cause = list(causes(error))[-1]
    if isinstance(cause, (duckdb.Error, OSError)):
        return masked(first_line(cause))
    lines = re.findall(r"^[\w.]+(?:Error|Exception): (.+)", str(cause), re.MULTILINE)
    return masked(lines[-1] if lines else first_line(cause))


def _forget_loaded(working_folder: Path) -> None:
    """Deletes dlt's record of every loaded package. The warehouse has a table of them."""
    (working_folder / "trace.pickle").unlink(missing_ok=True)  # written by our first release
    shutil.rmtree(working_folder / "load" / "loaded", ignore_errors=True)
    (working_folder / "load" / "loaded").mkdir(exist_ok=True)
