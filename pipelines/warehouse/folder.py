"""`Warehouse`: the folder of a run, its locks and its parts. What a run does there: session."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

import duckdb

from pipelines.errors import Failure, advised
from pipelines.settings import Settings
from pipelines.warehouse.connections import Connection, Damaged, OpenElsewhere, is_damage, unusable
from pipelines.warehouse.contents import Contents
from pipelines.warehouse.database import Database
from pipelines.warehouse.files import set_aside
from pipelines.warehouse.lock import Lock
from pipelines.warehouse.publishing import Publisher
from pipelines.warehouse.recovery import newest_load, recover
from pipelines.warehouse.runs import Run, newest_sync
from pipelines.warehouse.upgrade import bring_along, refuse_newer

if TYPE_CHECKING:
    from pipelines.warehouse.loading import Loader

_FOR_READERS = 600.0  # seconds at most for `check`, which reads all of the file, to have done so


class Warehouse:
    """The folder `settings.directory`.

    Inside `opened` it is `run`'s, which loads and publishes; outside it only reads what the last
    run left, and changes nothing. Who only reads needs no run.
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
        """Imported only where something is loaded: dlt's pipelines and Arrow take 0.3 CPU s."""
        from pipelines.warehouse.loading import Loader

        return Loader(self.database, self.working_folder)

    @contextmanager
    def opened(self, wait: float | None = None) -> Iterator[None]:
        """Waits so many seconds for another run; if none are given, for as long as this one may.

        Raises Failure for a folder that is in use or cannot be used.
        """
        wait = self.run.wait if wait is None else wait
        with self.locked(self.lock, wait):
            self.refuse_newer()
            recover(self.loading, self.published)
            self.publisher.forget_compact()
            try:
                with self.connected(min(wait, _FOR_READERS)):
                    yield
                self.publisher.shrink()
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

    @contextmanager
    def connected(self, wait: float = 0.0) -> Iterator[None]:
        """Opens the run's own database, whose lock it has, and what loads into it."""
        with self.database.opened(wait):
            bring_along(self.connection)
            # For `status`, which cannot ask the database meanwhile.
            success = newest_sync(self.connection)
            noted = success.isoformat() if success else None
            self.lock.note(replace(self.run.holder(), last_success=noted))
            with self.loader.opened():
                yield

    @property
    def connection(self) -> Connection:
        """The run's own."""
        return self.database.connection

    def refuse_newer(self) -> None:
        """Raises Misuse for files that only a later release knows how to work with."""
        for file in (self.loading, self.published):
            with suppress(Damaged, OpenElsewhere):  # which is for others to say
                refuse_newer(file)
