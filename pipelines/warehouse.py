"""The files a run keeps: dlt's pipeline into `loading.duckdb`, views, the published read copy."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import dlt
import duckdb
from dlt.pipeline.exceptions import PipelineStepFailed
from filelock import FileLock, Timeout

from pipelines.errors import Failure, Misuse
from pipelines.settings import Settings
from pipelines.source import (
    NO_FILTERS,
    TABLES,
    SliceRead,
    as_windows_read,
    filters_hash,
    loaded,
    windows_read_sql,
)
from pipelines.windows import RETENTION, SETTLED_AFTER, WindowRead

SCHEMA = "twilio_verify"
CODE_VALIDITY = "10 minutes"  # Twilio's default: an attempt this old is seldom converted later
_LAYERS = ("staging", "marts", "reports")  # apply order; a view reads from no later folder
_READABLE_SINCE = "v1.2.0"  # DuckDB 2.0's own storage format cannot be opened by 1.x
_SPARE = 64 * 2**20  # bytes left free on the disk after publishing

log = logging.getLogger("verify_sync")


class Warehouse:
    """The folder `settings.directory`; created with the first use of `locked`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.loading = settings.directory / "loading.duckdb"
        self.published = settings.published

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One run at a time; a lock left behind by a dead process is no obstacle."""
        self.settings.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.settings.directory / "lock", timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise Failure(
                f"another run is using {self.settings.directory}; try again later"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def pipeline(self) -> dlt.Pipeline:
        """dlt's pipeline into `loading.duckdb`; its working folder is part of the warehouse."""
        dlt.config["load.delete_completed_jobs"] = True  # loaded packages hold phone numbers
        return dlt.pipeline(
            "verify_sync",
            pipelines_dir=str(self.settings.directory / "dlt"),
            destination=dlt.destinations.duckdb(str(self.loading)),
            dataset_name=SCHEMA,
        )

    def finish_pending(self) -> None:
        """Loads what an interrupted run left behind, or gives it up: its windows are then due."""
        pipeline = self.pipeline()
        if not pipeline.has_pending_data:
            return
        log.info("finishing the load package an interrupted run left behind")
        try:
            pipeline.normalize()
            pipeline.load()
        except PipelineStepFailed as error:
            log.warning(
                "it cannot be loaded (%s); given up, its windows are read again", _why(error)
            )
            pipeline.drop_pending_packages()

    def load(self, reads: Sequence[SliceRead]) -> None:
        """Loads complete slices as one package: attempts and their `windows_read` together."""
        try:
            self.pipeline().run(loaded(reads, materialize=not self._tables() >= set(TABLES)))
        except PipelineStepFailed as error:
            raise Failure(f"loading failed: {_why(error)}") from error

    def check_account(self, account_sid: str) -> None:
        """Refuses credentials of another account than the warehouse's."""
        rows = self._rows("select distinct account_sid from windows_read")
        others = {row[0] for row in rows} - {account_sid}
        if others:
            raise Misuse(
                f"{self.settings.directory} holds account {others.pop()}, the credentials are for "
                f"{account_sid}; give each account its own folder with WAREHOUSE__DIR"
            )

    def windows_read(self, account_sid: str, now: datetime) -> list[WindowRead]:
        """What the planner needs to know: windows that reach into retention."""
        query = windows_read_sql(account_sid, filters_hash(NO_FILTERS), now - RETENTION)
        return as_windows_read(self._rows(query))

    def apply_views(self) -> None:
        """Creates `settings` and every view of `sql/` anew, in one transaction."""
        if "attempts" not in self._tables():
            raise Failure(f"{self.settings.directory} holds no attempts yet; run `make sync` first")
        with duckdb.connect(str(self.loading)) as connection:
            connection.begin()
            for (view,) in connection.execute(
                "select view_name from duckdb_views() where schema_name = 'main' and not internal"
            ).fetchall():
                connection.execute(f'drop view main."{view}"')
            _write_settings(connection, self.settings)
            for file in view_files():
                connection.execute(file.read_text(encoding="utf-8"))
            connection.commit()

    def publish(self) -> None:
        """Replaces `verify.duckdb` by a compact copy at once; who has it open keeps the old one."""
        fresh = self.published.with_name("verify.duckdb.new")
        self._check_disk()
        _remove(fresh, _wal(fresh))
        with duckdb.connect() as connection:
            connection.execute(f"attach '{_quoted(self.loading)}' as loading (read_only)")
            connection.execute(
                f"attach '{_quoted(fresh)}' as fresh (storage_version '{_READABLE_SINCE}')"
            )
            connection.execute("copy from database loading to fresh")
            connection.execute(f"drop schema if exists fresh.{SCHEMA}_staging cascade")
        os.replace(fresh, self.published)
        # Left by someone who wrote into the old copy; it would make the new one unopenable.
        _remove(_wal(self.published))

    def _check_disk(self) -> None:
        files = [file for file in (self.loading, _wal(self.loading)) if file.exists()]
        needed = sum(file.stat().st_size for file in files) + _SPARE
        free = shutil.disk_usage(self.settings.directory).free
        if free < needed:
            raise Failure(
                f"publishing needs {needed >> 20} MB free in {self.settings.directory}, there are "
                f"{free >> 20}; what was read is kept, free some space and run again"
            )

    def _tables(self) -> set[str]:
        rows = self._rows(f"select table_name from duckdb_tables() where schema_name = '{SCHEMA}'")
        return {row[0] for row in rows}

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        """Reads from `loading.duckdb`; nothing before the first load."""
        if not self.loading.exists():
            return []
        try:
            with duckdb.connect(str(self.loading), read_only=True) as connection:
                connection.execute(f"use {SCHEMA}")
                return connection.execute(query).fetchall()
        except duckdb.CatalogException:
            return []  # the very first load was interrupted before it made the tables
        except duckdb.Error as error:
            raise Failure(f"{self.loading} cannot be read: {first_line(error)}") from error


def sql_folder() -> Path:
    """`sql/` beside the package in a checkout, inside it when installed from a wheel."""
    package = Path(__file__).parent
    inside = package / "sql"
    return inside if inside.is_dir() else package.parent / "sql"


def view_files() -> list[Path]:
    """The files that make views, in the order they are applied."""
    return [file for layer in _LAYERS for file in sorted((sql_folder() / layer).glob("*.sql"))]


def first_line(error: BaseException) -> str:
    """What went wrong without dlt's and DuckDB's advice below it."""
    return str(error).strip().partition("\n")[0]


def _why(error: PipelineStepFailed) -> str:
    return first_line(error.exception or error)


def _write_settings(connection: duckdb.DuckDBPyConnection, settings: Settings) -> None:
    """Fills the one-row table that views take their thresholds from."""
    connection.execute((sql_folder() / "settings.sql").read_text(encoding="utf-8"))
    connection.execute(
        "insert into main.settings values (?, ?, ?, ?, ?)",
        [
            settings.verification_fee,
            settings.fee_currency,
            settings.timezone,
            CODE_VALIDITY,
            SETTLED_AFTER,
        ],
    )


def _wal(file: Path) -> Path:
    return file.with_name(file.name + ".wal")


def _remove(*files: Path) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _quoted(file: Path) -> str:
    return str(file).replace("'", "''")
