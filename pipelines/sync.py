"""One run: finish what is pending, plan, read, load in packages, apply views, publish."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from math import ceil

import pyarrow as pa

from pipelines.client import Client
from pipelines.clock import Clock
from pipelines.errors import Failure
from pipelines.losses import warn_of_expiry, warn_of_losses
from pipelines.pacing import Pacer
from pipelines.reading import Package, SliceRead, fetch, packages
from pipelines.settings import Settings, require_credentials
from pipelines.transport import ApiError, Counts
from pipelines.warehouse import Warehouse
from pipelines.windows import Window, WindowsRead, plan, slices

log = logging.getLogger("verify_sync")


@dataclass
class Outcome:
    """What a run did. `pages` are those of the slices; `counts` has every request."""

    counts: Counts
    slices: int = 0
    attempts: int = 0
    rejected: int = 0
    pages: int = 0
    packages: int = 0
    seconds: float = 0.0

    def add(self, reads: list[SliceRead]) -> None:
        self.slices += len(reads)
        self.attempts += sum(read.attempts.num_rows for read in reads)
        self.rejected += sum(read.rejected.num_rows for read in reads)
        self.pages += sum(read.pages for read in reads)
        self.packages += 1


@dataclass(frozen=True)
class Due:
    """A slice that is due, and what reading it costs by Twilio's own count, if it has one."""

    window: Window
    attempts: int | None
    requests: int


def sync(settings: Settings, now: datetime) -> Outcome:
    """Reads what is due at `now` (aware) and publishes it. Raises Failure or Misuse."""
    started = time.monotonic()
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what pages no longer need
    with (
        _mindful_of_expiry(settings, now),
        updated(settings) as warehouse,
        connect(settings, Clock(now)) as client,
    ):
        outcome = Outcome(client.counts)
        read = windows_read(warehouse, settings, now)
        warn_of_losses(read, settings.revisit_after, now)
        pieces = slices(plan(read, settings.revisit_after, now))
        for reads in packages(fetch(client, pieces, settings.filters)):
            warehouse.load(Package.of(reads))
            outcome.add(reads)
            if outcome.attempts:
                newest = f"{reads[-1].window.before:%F %T} UTC"
                log.info("attempts loaded: %s, created up to %s", f"{outcome.attempts:,}", newest)
            del reads  # or a package's rows stay in memory while the next ones are read
        _warn_of_rejected(outcome.rejected)
    outcome.seconds = time.monotonic() - started
    return outcome


def fetch_attempts(settings: Settings, sids: Iterable[str], now: datetime) -> tuple[int, list[str]]:
    """Merges single attempts; returns how many, and the SIDs that the API does not have."""
    found, missing, clock = [], [], Clock(now)
    with updated(settings) as warehouse, connect(settings, clock) as client:
        for sid in sids:
            try:
                found.append(client.fetch(sid))
            except ApiError as error:
                if error.status != 404:
                    raise
                missing.append(sid)
        if not found:
            raise Failure(not_there(missing))
        attempts = pa.concat_tables([page.attempts for page in found])
        rejected = pa.concat_tables([page.rejected for page in found])
        warehouse.load(Package(attempts, rejected))
        _warn_of_rejected(rejected.num_rows)
    return attempts.num_rows, missing


@contextmanager
def _mindful_of_expiry(settings: Settings, now: datetime) -> Iterator[None]:
    try:
        yield
    except Failure:
        if settings.credentials:
            with suppress(Failure):  # the one on its way is what matters
                warn_of_expiry(windows_read(Warehouse(settings), settings, now), now)
        raise


def _warn_of_rejected(rows: int) -> None:
    if rows:
        log.warning(
            "%s rows that Twilio listed are no attempts: they have no usable sid or date_created, "
            "see twilio_verify.rejected_attempts",
            f"{rows:,}",
        )


def not_there(sids: Iterable[str]) -> str:
    return (
        f"Twilio has no attempt {', '.join(sids)}: unknown, or older than 30 days; what the "
        "warehouse has of it is as before"
    )


@contextmanager
def updated(settings: Settings) -> Iterator[Warehouse]:
    """A warehouse to load into, rid of what an earlier run left; published afterwards."""
    credentials, warehouse = require_credentials(settings), Warehouse(settings)
    with warehouse.opened():
        warehouse.finish_pending()
        warehouse.check_account(credentials.account_sid)
        yield warehouse
        warehouse.apply_views()
        warehouse.publish()


def due(settings: Settings, now: datetime) -> list[Due]:
    """What a sync at `now` would read. Asks the Summary once a slice; stores no attempt."""
    credentials, warehouse = require_credentials(settings), Warehouse(settings)
    warehouse.check_account(credentials.account_sid)
    found = []
    with connect(settings, Clock(now)) as client:
        read = windows_read(warehouse, settings, now)
        for piece in slices(plan(read, settings.revisit_after, now)):
            attempts = None
            if settings.filters.are_summarised:
                attempts = client.summary(piece.after, piece.before, settings.filters).attempts
            requests = max(1, ceil((attempts or 0) / settings.page_size))
            found.append(Due(piece, attempts, requests))
    return found


def limit_seconds(requests: int, per_minute: int) -> int:
    """The least time the API's rate limit leaves for so many requests: bursts, a minute apart."""
    return 60 * max(0, ceil(requests / per_minute) - 1)


def connect(settings: Settings, clock: Clock) -> Client:
    """A client that knows which requests were sent lately, by this run or an earlier one."""
    return Client(
        require_credentials(settings),
        settings.base_url,
        settings.page_size,
        settings.timeout,
        clock,
        Pacer(settings.requests_per_minute, settings.requests_log),
        settings.give_up_after.total_seconds(),
    )


def windows_read(warehouse: Warehouse, settings: Settings, now: datetime) -> WindowsRead:
    return warehouse.windows_read(require_credentials(settings).account_sid, now)
