"""`Run`: what a command has done so far, its row in `sync_runs`. The work: session, ingest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

from pipelines.errors import Failure, first_line, printable, redact
from pipelines.interrupt import was_interrupted
from pipelines.twilio.transport import Counts
from pipelines.warehouse.connections import Connection
from pipelines.warehouse.lock import LockHolder
from pipelines.warehouse.tables import SCHEMA, insert

if TYPE_CHECKING:
    from pipelines.reading.package import SliceRead

DONE, FAILED, INTERRUPTED, KILLED = "done", "failed", "interrupted", "killed"
NEWEST_SYNC = f"""
    select max(finished_at) from {SCHEMA}.sync_runs where command = 'sync' and outcome = '{DONE}'
"""


@dataclass
class Run:
    """What a command has done so far. `pages` counts pages of slices, `counts` all requests.

    `seconds` is how long it took, `publishing` the seconds of that spent on publishing. If the
    published file was kept, `unpublished` says why. `wait` is how many seconds it may wait for
    another run, `waited` how many it did. `is_brief`: it holds the lock only for seconds.
    """

    command: str
    started_at: datetime
    wait: float = 0.0
    is_brief: bool = False
    run_id: str = field(default_factory=lambda: uuid4().hex)
    counts: Counts = field(default_factory=Counts)
    slices: int = 0
    attempts: int = 0
    attempts_new: int = 0
    rejected: int = 0
    pages: int = 0
    packages: int = 0
    publishing: float = 0.0
    unpublished: str | None = None
    outcome: str | None = None
    error: str | None = None
    finished_at: datetime | None = None
    is_recorded: bool = False
    waited: float = 0.0
    _began: float = field(default_factory=lambda: time.monotonic(), repr=False)

    @property
    def now(self) -> datetime:
        """The time it plans by: its start plus the time it waited for other runs, if over 1 s."""
        return self.started_at + timedelta(seconds=self.waited if self.waited > 1 else 0)

    @property
    def seconds(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._began

    def add(self, reads: Iterable[SliceRead], new: int) -> None:
        """Counts a load package of `reads`; `new` of its attempts were not stored before."""
        for read in reads:
            self.slices += 1
            self.attempts += read.attempts.num_rows
            self.rejected += read.rejected.num_rows
            self.pages += read.pages
        self.attempts_new += new
        self.packages += 1

    def end(self, outcome: str, error: str | None = None) -> None:
        self.outcome, self.error = outcome, error
        self.finished_at = self.started_at + timedelta(seconds=self.seconds)

    def fail(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt) or was_interrupted():
            self.end(INTERRUPTED)
        else:
            kind = "" if isinstance(error, Failure) else f"{type(error).__name__}: "
            self.end(FAILED, redact(printable(kind + first_line(error))))

    def holder(self) -> LockHolder:
        """Returns what the lock file says of this run to others that want the warehouse."""
        since = f"{self.started_at:%F %T}"
        return LockHolder(self.command, os.getpid(), since, self.is_brief, run_id=self.run_id)

    def told(self) -> dict[str, object]:
        """Returns the JSON output: its row without dlt's columns, `seconds` and `unpublished`."""
        row = {name: value for name, value in self.row().items() if not name.startswith("_")}
        times = {name: f"{row[name]:%FT%TZ}" for name in ("started_at", "finished_at")}
        return {**row, **times, "seconds": round(self.seconds, 3), "unpublished": self.unpublished}

    def row(self) -> dict[str, object]:
        return {
            "run_id": self.run_id,
            "command": self.command,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "outcome": self.outcome,
            "error": self.error,
            "windows": self.slices,
            "requests": self.counts.requests,
            "retries": self.counts.retries,
            "throttled": self.counts.throttled,
            "attempts_read": self.attempts,
            "attempts_new": self.attempts_new,
            "rejected": self.rejected,
            "_dlt_load_id": self.run_id,  # no load package: the row stays even if one is dropped
            "_dlt_id": self.run_id,
        }


def record(connection: Connection, run: Run, others_go_on: bool) -> None:
    """Stores in `sync_runs` what the run has done so far.

    The first call marks earlier runs without an outcome as killed. If `others_go_on`, it skips
    backfills: one of them is alive, and unlocks the warehouse between its packages.
    """
    if not run.is_recorded:
        alive = " and command != 'backfill'" if others_go_on else ""
        connection.execute(
            f"update {SCHEMA}.sync_runs set outcome = '{KILLED}' where outcome is null{alive}"
        )
    connection.begin()
    connection.execute(f"delete from {SCHEMA}.sync_runs where run_id = '{run.run_id}'")
    insert(connection, "sync_runs", run.row())
    connection.commit()
    run.is_recorded = True


def newest_sync(connection: Connection) -> datetime | None:
    """Returns when the last successful sync ended, or None."""
    found = connection.execute(NEWEST_SYNC).fetchone()
    return found[0] if found else None
