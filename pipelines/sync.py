"""One run: finish what is pending, plan, read, load in packages, apply views, publish."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import datetime
from math import ceil

import pyarrow as pa

from pipelines.client import Client
from pipelines.settings import Settings, require_credentials
from pipelines.source import SliceRead, fetch, packages
from pipelines.warehouse import Warehouse
from pipelines.windows import Window, plan, slices

log = logging.getLogger("verify_sync")


@dataclass
class Outcome:
    """What a run did. `pages` are the list requests that were answered."""

    slices: int = 0
    attempts: int = 0
    pages: int = 0
    packages: int = 0
    seconds: float = 0.0

    def add(self, reads: list[SliceRead]) -> None:
        self.slices += len(reads)
        self.attempts += sum(read.attempts.num_rows for read in reads)
        self.pages += sum(read.pages for read in reads)
        self.packages += 1


@dataclass(frozen=True)
class Due:
    """A slice that is due, and what reading it costs by Twilio's own count."""

    window: Window
    attempts: int
    requests: int


def sync(settings: Settings, now: datetime) -> Outcome:
    """Reads what is due at `now` (aware) and publishes it. Raises Failure or Misuse."""
    started = time.monotonic()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what pages no longer need
    credentials = require_credentials(settings)
    warehouse, outcome = Warehouse(settings), Outcome()
    client = connect(settings, now)
    with warehouse.opened():
        warehouse.finish_pending()
        warehouse.check_account(credentials.account_sid)
        for reads in packages(fetch(client, due_slices(warehouse, settings, now))):
            warehouse.load(reads)
            outcome.add(reads)
            newest = f"{reads[-1].window.before:%F %T} UTC"
            log.info("loaded %s attempts so far, created up to %s", f"{outcome.attempts:,}", newest)
            del reads  # or a package's rows stay in memory while the next ones are read
        warehouse.apply_views()
        warehouse.publish()
    outcome.seconds = time.monotonic() - started
    return outcome


def due(settings: Settings, now: datetime) -> list[Due]:
    """What a sync at `now` would read. Asks the Summary once a slice; writes nothing."""
    credentials = require_credentials(settings)
    warehouse, client = Warehouse(settings), connect(settings, now)
    warehouse.check_account(credentials.account_sid)
    found = []
    for piece in due_slices(warehouse, settings, now):
        attempts = client.summary(piece.after, piece.before).attempts
        found.append(Due(piece, attempts, max(1, ceil(attempts / settings.page_size))))
    return found


def limit_seconds(requests: int, per_minute: int) -> int:
    """The least time the API's rate limit leaves for so many requests: bursts, a minute apart."""
    return 60 * max(0, ceil(requests / per_minute) - 1)


def connect(settings: Settings, now: datetime) -> Client:
    return Client(
        require_credentials(settings),
        settings.base_url,
        settings.page_size,
        settings.timeout,
        now,
    )


def due_slices(warehouse: Warehouse, settings: Settings, now: datetime) -> list[Window]:
    read = warehouse.windows_read(require_credentials(settings).account_sid, now)
    return list(slices(plan(read, settings.revisit_after, now)))
