"""Queries a database: its account, the windows read, the rate. Writes nothing. Files: database."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import numpy as np

from pipelines.errors import Failure, Misuse
from pipelines.reading.raw_tables import rate_sql, windows_read_sql
from pipelines.reading.windows import WindowsRead
from pipelines.settings import Settings
from pipelines.text import typed
from pipelines.twilio.credentials import other_account
from pipelines.twilio.limits import RETENTION
from pipelines.warehouse.connections import Connection
from pipelines.warehouse.database import Database
from pipelines.warehouse.tables import SCHEMA


class Contents:
    """Queries `database`, or another `file` if given. Progress is that of the configured filters.

    Answers are empty while there is no file or no table. Raises Damaged or OpenElsewhere if a
    given `file` cannot be read.
    """

    def __init__(self, database: Database, settings: Settings) -> None:
        self._database = database
        self._directory, self._filters_hash = settings.directory, settings.filters.hash

    def is_begun(self) -> bool:
        """Whether the first load is done."""
        return "attempts" in self._database.tables()

    def require(self) -> None:
        """Raises Failure before the first sync."""
        if not self.is_begun():  # without loading.duckdb, this checks the published file
            raise Failure(
                f"{self._directory} holds no attempts: run `{typed('sync')}` first (if it held "
                f"some before, run `{typed('restore', 'FILE')}` with a backup)"
            )

    def check_account(self, account_sid: str, file: Path | None = None) -> None:
        """Raises Misuse if the warehouse, or `file`, holds another account than `account_sid`."""
        rows = self._database.rows(
            f"select account_sid from {SCHEMA}.windows_read"
            f" union (select account_sid from {SCHEMA}.attempts limit 1)",  # `fetch` adds no window
            file,
        )
        other = other_account((row[0] for row in rows), account_sid)
        if other:
            raise Misuse(
                f"{file or self._directory} holds account {other}, but the credentials are for "
                f"{account_sid}: give each account its own folder with WAREHOUSE__DIR"
            )

    def windows_read(
        self, account_sid: str, now: datetime, file: Path | None = None
    ) -> WindowsRead:
        """Returns what the planner needs: windows that were within retention at the newest read."""
        newest = self._database.rows(
            f"select max(read_at) from {SCHEMA}.windows_read"
            f" where filters_hash = '{self._filters_hash}'",
            file,
        )
        since = min([now, *(read_at for (read_at,) in newest if read_at)]) - RETENTION
        query = windows_read_sql(account_sid, self._filters_hash, since, f"{SCHEMA}.")
        return self._database.ask(query, _as_windows_read, WindowsRead.of(()), file)

    def rate(self, now: datetime) -> float | None:
        """Returns the highest rate of a window in the last 30 days, in attempts per second.

        Returns None if there is no such window.
        """
        query = rate_sql(self._filters_hash, now - RETENTION, f"{SCHEMA}.")
        return next((rate for (rate,) in self._database.rows(query)), None)


def _as_windows_read(answer: Connection) -> WindowsRead:
    columns = answer.fetchnumpy().values()  # instants in UTC
    return WindowsRead.by_column([c.astype("datetime64[s]").astype(np.int64) for c in columns])
