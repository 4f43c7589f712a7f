"""One run: finish what is pending, plan, read, load in packages, apply views, publish."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil

import pyarrow as pa

from pipelines.checks import FAIL
from pipelines.client import Client
from pipelines.clock import Clock
from pipelines.errors import Failure
from pipelines.losses import warn_of_expiry, warn_of_losses
from pipelines.pacing import Pacer
from pipelines.progress import Progress
from pipelines.reading import Package, latest, packages
from pipelines.runs import DONE, FAILED, Run
from pipelines.settings import Settings, require_credentials
from pipelines.sizing import Sizing
from pipelines.transport import ApiError
from pipelines.warehouse import Warehouse
from pipelines.windows import Window, WindowsRead, plan

log = logging.getLogger("verify_sync")


def finish(warehouse: Warehouse, now: datetime, publish_every: timedelta = timedelta()) -> None:
    """The end of a run: views, and the published file unless there is no need for it."""
    run = warehouse.run
    if run.rejected:
        log.warning(
            "%s rows that Twilio listed are no attempts: they have no usable sid or "
            "date_created, see twilio_verify.rejected_attempts",
            f"{run.rejected:,}",
        )
    if run.outcome is None:
        run.end(DONE)
    warehouse.record()  # before it is published, so that readers see it
    if not warehouse.is_begun():
        run.unpublished = "there was nothing to read"
        return
    started = time.monotonic()
    warehouse.apply_views()
    run.unpublished = warehouse.why_not_publish(publish_every)
    if run.unpublished is None:
        publish(warehouse, now)
        run.publishing = time.monotonic() - started


def publish(warehouse: Warehouse, now: datetime) -> None:
    """Publishes what passes the checks. Raises Failure if one with severity fail finds anything."""
    answers = [answer for answer in warehouse.check(now) if answer.verdict != "ok"]
    for answer in answers:
        log.warning("check %s: %s", answer.verdict, answer)
    failed = [answer.name for answer in answers if answer.verdict == FAIL]
    if failed:
        name, why = warehouse.published.name, ", ".join(failed)
        held = "stays as it was" if warehouse.published.exists() else "is not published"
        raise Failure(
            f"{name} {held}, because of {why}; what was read is kept, `make check` shows the rows"
        )
    warehouse.publish()


@dataclass(frozen=True)
class Due:
    """A window that is due, and what reading it costs by Twilio's own count, if it has one."""

    window: Window
    attempts: int | None
    requests: int


def sync(settings: Settings, now: datetime, wait: float = 0.0) -> Run:
    """Reads what is due at `now` (aware) and publishes it. Raises Failure or Misuse."""
    warehouse = Warehouse(settings, Run("sync", now, wait))
    with (
        mindful_of_expiry(settings, now),
        opened(warehouse),
        connect(settings, Clock(warehouse.run.now), warehouse.run) as client,
    ):
        now = warehouse.run.now
        read = windows_read(warehouse, settings, now)
        warn_of_losses(read, settings.revisit_after, now)
        read_windows(warehouse, client, plan(read, settings.revisit_after, now))
        finish(warehouse, now, settings.publish_every)
    return warehouse.run


def read_windows(warehouse: Warehouse, client: Client, windows: Iterable[Window]) -> None:
    """Reads and loads them, package by package."""
    settings, run = warehouse.settings, warehouse.run
    with sizing(client, settings, warehouse.rate(run.now)) as sized:
        pieces = sized.measured(windows)
        slices = sized.cut(pieces)
        with Progress.of(pieces, sized) as progress:
            for reads in packages(client, slices, settings.filters, settings.concurrency, progress):
                run.add(reads, warehouse.loader.load(Package.of(reads)))
                progress.loaded(run.attempts)
                del reads  # or its rows stay in memory while the next ones are read


def fetch_attempts(
    settings: Settings, sids: Iterable[str], now: datetime, wait: float = 0.0
) -> tuple[Run, list[str]]:
    """Merges single attempts; returns the run, and the SIDs that the API does not have."""
    found, missing = [], []
    warehouse = Warehouse(settings, Run("fetch", now, wait))
    with opened(warehouse), connect(settings, Clock(warehouse.run.now), warehouse.run) as client:
        for sid in sids:
            try:
                found.append(client.fetch(sid))
            except ApiError as error:
                if error.status != 404:
                    raise
                missing.append(sid)
        if not found:
            raise Failure(not_there(missing))
        attempts = latest(pa.concat_tables([page.attempts for page in found]))
        rejected = pa.concat_tables([page.rejected for page in found])
        run = warehouse.run
        run.attempts_new = warehouse.loader.load(Package(attempts, rejected))
        run.attempts, run.rejected = attempts.num_rows, rejected.num_rows
        if missing:
            run.end(FAILED, not_there(missing))
        finish(warehouse, run.now)
    return run, missing


@contextmanager
def mindful_of_expiry(settings: Settings, now: datetime) -> Iterator[None]:
    """A run that fails in here says so if it must not go on like that for long."""
    try:
        yield
    except Failure:
        if settings.credentials:
            with suppress(Failure):  # the one on its way is what matters
                warn_of_expiry(windows_read(Warehouse(settings), settings, now), now)
        raise


def not_there(sids: Iterable[str]) -> str:
    return (
        f"Twilio has no attempt {', '.join(sids)}: unknown, or older than 30 days; what the "
        "warehouse has of it is as before"
    )


@contextmanager
def opened(warehouse: Warehouse, patient: bool = False) -> Iterator[None]:
    """The warehouse to load into: of this account, rid of what an interrupted run left; what its
    run does is written down."""
    credentials = require_credentials(warehouse.settings)
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what pages no longer need
    with warehouse.opened(float("inf") if patient else None):
        warehouse.loader.finish_pending()
        warehouse.check_account(credentials.account_sid)
        warehouse.record()
        with recorded(warehouse):
            yield


@contextmanager
def recorded(warehouse: Warehouse) -> Iterator[None]:
    """A run that fails in here is written down as one that did."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        warehouse.record_failure(error)
        raise


def due(settings: Settings, now: datetime) -> list[Due]:
    """What a sync at `now` would read. Asks the Summary once a window; stores no attempt."""
    credentials, warehouse = require_credentials(settings), Warehouse(settings)
    warehouse.refuse_newer()
    warehouse.check_account(credentials.account_sid)
    windows = plan(windows_read(warehouse, settings, now), settings.revisit_after, now)
    with (
        connect(settings, Clock(now)) as client,
        sizing(client, settings, warehouse.rate(now)) as sized,
    ):
        pieces = sized.measured(windows, every=True)
        return [
            Due(
                piece.window,
                piece.attempts,
                sized.requests([piece]) + sized.asks(piece.window),
            )
            for piece in pieces
        ]


def limit_seconds(requests: int, per_minute: int) -> int:
    """The least time the API's rate limit leaves for so many requests: bursts, a minute apart."""
    return 60 * max(0, ceil(requests / per_minute) - 1)


def connect(settings: Settings, clock: Clock, run: Run | None = None) -> Client:
    """A client that knows which requests were sent lately, by this run or an earlier one; `run`
    is to have the count of its own."""
    client = Client(
        require_credentials(settings),
        settings.base_url,
        settings.page_size,
        settings.timeout,
        clock,
        Pacer(settings.requests_per_minute, settings.requests_log),
        settings.give_up_after.total_seconds(),
    )
    if run:
        run.counts = client.counts
    return client


def sizing(client: Client, settings: Settings, rate: float | None = None) -> Sizing:
    return Sizing(client, settings.filters, settings.concurrency, rate)


def windows_read(warehouse: Warehouse, settings: Settings, now: datetime) -> WindowsRead:
    return warehouse.windows_read(require_credentials(settings).account_sid, now)
