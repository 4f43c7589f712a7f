"""Reads windows from Twilio and loads them in packages. Which are due: reading.windows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime

from pipelines.errors import Failure
from pipelines.reading.gaps import warn_of_expiry
from pipelines.reading.package import Package
from pipelines.reading.progress import Progress
from pipelines.reading.sizing import Sizing
from pipelines.reading.slices import batches
from pipelines.reading.windows import Window, WindowsRead, plan
from pipelines.settings import Settings, require_credentials
from pipelines.twilio.client import Client
from pipelines.twilio.clock import Clock
from pipelines.twilio.pacing import Pacer
from pipelines.warehouse.folder import Warehouse
from pipelines.warehouse.runs import Run


def connect(settings: Settings, clock: Clock, run: Run | None = None) -> Client:
    """Returns a client. For the rate limit it counts the recent requests of earlier runs too.

    `run` shares the client's own request counts.
    """
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


def windows_read(warehouse: Warehouse, now: datetime) -> WindowsRead:
    """Returns the windows that the planner needs, for the configured account."""
    account_sid = require_credentials(warehouse.settings).account_sid
    return warehouse.contents.windows_read(account_sid, now)


def read_windows(warehouse: Warehouse, client: Client, windows: Iterable[Window]) -> None:
    """Reads and loads the windows, package by package. Call it inside `session`."""
    settings, run = warehouse.settings, warehouse.run
    with sizing(client, settings, warehouse.contents.rate(run.now)) as sized:
        measured = sized.measured(windows)
        slices = sized.cut(measured)
        with Progress.of(measured, sized) as progress:
            for reads in batches(client, slices, settings.filters, settings.concurrency, progress):
                run.add(reads, warehouse.loader.load(Package.of(reads)))
                progress.loaded(run.attempts)
                del reads  # else its rows stay in memory while the next slices are read


@dataclass(frozen=True)
class Due:
    """A due window, its attempts by Twilio's count (None if unknown), and the requests it costs."""

    window: Window
    attempts: int | None
    requests: int


def due(warehouse: Warehouse, now: datetime) -> list[Due]:
    """Returns what a sync at `now` would read. Stores no attempts. Costs one Summary a window."""
    settings = warehouse.settings
    credentials = require_credentials(settings)
    warehouse.refuse_newer()
    warehouse.contents.check_account(credentials.account_sid)
    windows = plan(windows_read(warehouse, now), settings.revisit_after, now)
    with (
        connect(settings, Clock(now)) as client,
        sizing(client, settings, warehouse.contents.rate(now)) as sized,
    ):
        return [
            Due(
                slice_.window,
                slice_.attempts,
                sized.requests([slice_]) + sized.asks(slice_.window),
            )
            for slice_ in sized.measured(windows, every=True)
        ]


def sizing(client: Client, settings: Settings, rate: float | None = None) -> Sizing:
    return Sizing(client, settings.filters, settings.concurrency, rate)


@contextmanager
def mindful_of_expiry(settings: Settings, now: datetime) -> Iterator[None]:
    """If the run fails in here, warns if unread attempts are about to leave retention."""
    try:
        yield
    except Failure:
        if settings.credentials:
            with suppress(Failure):  # the first failure matters more
                warn_of_expiry(windows_read(Warehouse(settings), now), now)
        raise
