"""Opens and queries the run's own database, `loading.duckdb`. Loading into it: loading."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from pipelines.interrupt import held
from pipelines.warehouse.connections import (
    Connection,
    Damaged,
    OpenElsewhere,
    T,
    ask,
    connect,
    unusable,
)
from pipelines.warehouse.files import wal_of
from pipelines.warehouse.tables import SCHEMA

MIB = 2**20
_MEMORY = "128MB"
_LOADING = {
    "memory_limit": _MEMORY,
    "checkpoint_threshold": "64MB",  # each checkpoint rewrites what the last packages changed
}
_MUCH = 16 * MIB  # size of a log with about 50,000 attempts
_LARGE = 256 * MIB  # size of a file with about 3 million attempts
_PATIENCE = 5.0  # seconds to wait: `status` and a dry run open the file for a moment


class Database:
    """Inside `opened` only this run can use the database. Outside it the database is only read."""

    def __init__(self, loading: Path, published: Path) -> None:
        self.loading, self.published = loading, published
        self._connection: Connection | None = None
        self._cursors: list[Connection] = []
        self._working: Connection | None = None
        self.views = ""  # fingerprint of the views that were made since it was opened
        self.is_made_anew = False  # whether all kept tables were made from all rows just now

    @contextmanager
    def opened(self, wait: float = 0.0) -> Iterator[None]:
        """Opens the database. Waits `wait` seconds, at least 5, while readers have it open."""
        self._connection, self.views = self._connected(max(wait, _PATIENCE)), ""
        try:
            yield
        finally:
            self._close()

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Closes the file, so that its bytes can be copied. Opens it again only after an error.

        The system drops the locks of this process on the file when any handle of it is closed.
        """
        try:
            self._close()
            yield
        except BaseException:
            self._connection = self._connected(_PATIENCE)  # to record the failure
            raise

    def cursor(self) -> Connection:
        """Returns another connection, which is closed together with the first."""
        self._cursors.append(self.connection.cursor())
        return self._cursors[-1]

    @property
    def working(self) -> Connection:
        """The connection whose temporary tables tell what has changed: refreshing fills them, and
        checks use them again."""
        self._working = self._working or self.cursor()
        return self._working

    def _close(self) -> None:
        with held():  # whoever records a failure asks whether the file is open
            for connection in (*self._cursors, self._connection):
                if connection is not None:
                    connection.close()
            self._connection = self._working = None
            self._cursors.clear()

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    @property
    def connection(self) -> Connection:
        assert self._connection is not None, "only inside `opened`"
        return self._connection

    def tables(self) -> set[str]:
        """Returns the names of the tables in the raw schema."""
        rows = self.rows(f"select table_name from duckdb_tables() where schema_name = '{SCHEMA}'")
        return {row[0] for row in rows}

    def rows(self, query: str, file: Path | None = None) -> list[tuple[Any, ...]]:
        return self.ask(query, lambda answer: answer.fetchall(), [], file)

    def ask(
        self,
        query: str,
        take: Callable[[Connection], T],
        nothing: T,
        file: Path | None = None,
        is_large: bool = False,
    ) -> T:
        """Returns the answer from `loading.duckdb`, or `nothing` if it or its tables do not exist.

        If it is missing or damaged, the published file answers: the next run rebuilds it from
        that. With `file`, only that file is queried. Set `is_large` if the query may need more
        memory than there is.
        """
        if self._connection is None or file is not None:
            usual = self.loading if self.loading.exists() else self.published
            try:
                return ask(file or usual, query, take, nothing, is_large)
            except Damaged:
                if file is not None:
                    raise
                return ask(self.published, query, take, nothing, is_large)
        try:
            return take(self._connection.execute(query))
        except duckdb.CatalogException:
            return nothing

    @contextmanager
    def going_through_all(self) -> Iterator[None]:
        """Uses two threads, and enough memory for them, to read all rows.

        More memory makes large warehouses faster, but takes more. If many rows are only in the log
        yet, they are compressed first: DuckDB then computes each distinct value once.
        """
        usual = {"memory_limit": _MEMORY, "threads": self._options()["threads"]}
        size = self.loading.stat().st_size if self.loading.exists() else 0
        memory = min(max(size // 2, 192 * MIB), 1024 * MIB) // MIB
        self._set(memory_limit=f"{memory}MiB", threads=2)
        log = wal_of(self.loading)
        if log.exists() and log.stat().st_size > _MUCH:
            self.connection.execute("checkpoint")
        try:
            yield
        finally:
            self._set(**usual)

    def _connected(self, patience: float) -> Connection:
        until = time.monotonic() + patience
        while True:
            try:
                return connect(self.loading, **self._options())
            except duckdb.IOException as error:
                if not isinstance(unusable(self.loading, error), OpenElsewhere) or (
                    time.monotonic() > until
                ):
                    raise
            time.sleep(0.02)

    def _options(self) -> dict[str, Any]:
        """One thread for a small file, two for a large one.

        In a large file, a load spends most of its time on finding the package's sids. Only then
        a second thread saves more than it costs.
        """
        is_large = self.loading.exists() and self.loading.stat().st_size > _LARGE
        return {**_LOADING, "threads": 2 if is_large else 1}

    def _set(self, **options: object) -> None:
        self.connection.execute(" ".join(f"set {name} = '{options[name]}';" for name in options))
