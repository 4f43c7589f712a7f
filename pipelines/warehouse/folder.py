"""`Warehouse`: the folder of the database files, its locks and parts. Steps of a run: session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import duckdb

from pipelines.errors import Failure, advised
from pipelines.settings import Settings
from pipelines.warehouse.connections import (
    Connection,
    Damaged,
    LostRows,
    OpenElsewhere,
    is_damage,
    unusable,
)
from pipelines.warehouse.contents import Contents
from pipelines.warehouse.database import Database
from pipelines.warehouse.files import set_aside
from pipelines.warehouse.lock import Lock
from pipelines.warehouse.publishing import Publisher
from pipelines.warehouse.recovery import loads_of, recover
from pipelines.warehouse.runs import Run, newest_sync
from pipelines.warehouse.upgrade import bring_along, bring_to_format, refuse_newer

if TYPE_CHECKING:
    from pipelines.warehouse.loading import Loader

_FOR_READERS = 600.0  # seconds to wait at most for `check`, which reads the whole file


class Warehouse:
    """The folder `settings.directory`.

    Inside `opened` only `run` can use the folder, to load and to publish. Outside it this class
    only reads what the last run left, and changes nothing. Reading needs no run.
    """

    def __init__(self, settings: Settings, run: Run | None = None) -> None:
        self.settings = settings
        self._run = run
        self.directory = settings.directory
        self.loading = settings.directory / "loading.duckdb"
        self.published = settings.published
        self.working_folder = settings.directory / "dlt"
        self.lock = Lock(settings.directory / "lock")
        self.backfill_lock = Lock(settings.directory / "backfill.lock")
        self.database = Database(self.loading, self.published)
        self.contents = Contents(self.database, settings)
        self.publisher = Publisher(self.database)

    @property
    def run(self) -> Run:
        assert self._run is not None, "only a run opens a warehouse"
        return self._run

    @cached_property
    def loader(self) -> Loader:
        """Loads packages. Imported only here, because dlt and Arrow take 0.3 s of CPU time."""
        from pipelines.warehouse.loading import Loader

        return Loader(self.database, self.working_folder)

    @contextmanager
    def opened(self, wait: float | None = None) -> Iterator[None]:
        """Locks the folder, recovers its files and opens the run's own database.

        Waits `wait` seconds for another run (default: the run's own `wait`). Raises Failure if the
        folder is in use or cannot be used.
        """
        wait = self.run.wait if wait is None else wait
        with self.locked(self.lock, wait):
            self.refuse_newer()
            recover(self.loading, self.published)
            bring_to_format(self.loading)
            try:
                with self.connected(min(wait, _FOR_READERS)):
                    yield
            except (Failure, duckdb.Error) as error:
                if not is_damage(error):
                    raise
                is_published = loads_of(self.published) is not None
                if not is_published and not isinstance(error, LostRows):
                    raise
                why = error if isinstance(error, LostRows) else f"{self.loading} is damaged"
                how = f"rebuild it from {self.published.name}" if is_published else "start over"
                raise Failure(
                    f"{why}; it was renamed to {set_aside(self.loading)}: run again to {how}"
                ) from error

    @contextmanager
    def locked(self, lock: Lock, wait: float, is_brief: bool | None = None) -> Iterator[None]:
        """Holds `lock`. Errors of the file system or DuckDB in here become a one-line Failure."""
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
            where = error.filename or self.directory
            raise Failure(f"{where} cannot be used: {why}") from error
        except duckdb.Error as error:
            raise unusable(self.loading, error) from error

    @contextmanager
    def connected(self, wait: float = 0.0) -> Iterator[None]:
        """Opens the run's own database and its loader. The run must hold the lock."""
        with self.database.opened(wait):
            bring_along(self.connection)
            # For `status`, which cannot query the database while this run has it open.
            success = newest_sync(self.connection)
            noted = success.isoformat() if success else None
            self.lock.note(replace(self.run.holder(), last_success=noted))
            with self.loader.opened():
                yield

    @property
    def connection(self) -> Connection:
        """The connection to the run's own database."""
        return self.database.connection

    def refuse_newer(self) -> None:
        """Raises Misuse if a newer release made one of the files, and this one cannot use it."""
        for file in (self.loading, self.published):
            with suppress(Damaged, OpenElsewhere):  # reported when the file is used
                refuse_newer(file)
