"""Read due attempts, merge and publish them."""

from __future__ import annotations

import argparse
from datetime import datetime
from math import ceil
from typing import TYPE_CHECKING

from pipelines.commands._arguments import add_run
from pipelines.commands._output import tell_read
from pipelines.text import counted

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from pipelines.warehouse.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--dry-run", action="store_true", help="only print the due windows and their cost"
    )


def run(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    if arguments.dry_run:
        _print_due(settings, now)
    else:
        tell_read(arguments, settings, sync(settings, now, arguments.wait))


def sync(settings: Settings, now: datetime, wait: float = 0.0) -> Run:
    """Reads what is due at `now` (aware) and publishes it. Raises Failure or Misuse."""
    from pipelines.reading.gaps import warn_of_gaps
    from pipelines.reading.windows import plan
    from pipelines.twilio.clock import Clock
    from pipelines.warehouse.folder import Warehouse
    from pipelines.warehouse.ingest import connect, mindful_of_expiry, read_windows, windows_read
    from pipelines.warehouse.runs import Run
    from pipelines.warehouse.session import finish, session

    warehouse = Warehouse(settings, Run("sync", now, wait))
    with (
        mindful_of_expiry(settings, now),
        session(warehouse),
        connect(settings, Clock(warehouse.run.now), warehouse.run) as client,
    ):
        now = warehouse.run.now
        read = windows_read(warehouse, now)
        warn_of_gaps(read, settings.revisit_after, now)
        read_windows(warehouse, client, plan(read, settings.revisit_after, now))
        finish(warehouse, now, settings.publish_every)
    return warehouse.run


def limit_seconds(requests: int, per_minute: int) -> int:
    """Returns the seconds that `requests` take at least at the rate limit: one burst a minute."""
    return 60 * max(0, ceil(requests / per_minute) - 1)


def _print_due(settings: Settings, now: datetime) -> None:
    from pipelines.warehouse.folder import Warehouse
    from pipelines.warehouse.ingest import due

    found = due(Warehouse(settings), now)
    if found:
        print(f"{'created after':21}{'created before':21}{'attempts':>10}{'requests':>10}")
    for part in found:
        window = f"{part.window.after:%F %T}  {part.window.before:%F %T}  "
        attempts = "unknown" if part.attempts is None else f"{part.attempts:,}"
        print(f"{window}{attempts:>10}{part.requests:>10,}")
    requests = sum(part.requests for part in found)
    asked = sum(part.attempts is not None for part in found)
    seconds = limit_seconds(requests + asked, settings.requests_per_minute)
    attempts = counted(sum(part.attempts or 0 for part in found), "attempt")
    if any(part.attempts is None for part in found):
        attempts = "an unknown number of attempts (Twilio did not count them)"
    print(
        f"due: {attempts} in {counted(len(found), 'window')}, {counted(requests, 'request')}; "
        f"after this dry run's {counted(asked, 'request')} the rate limit allows a sync in "
        f"{seconds // 60} min"
    )
