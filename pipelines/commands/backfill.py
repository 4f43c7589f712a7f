"""Read a window again, the last 30 days unless told otherwise; resumable."""

from __future__ import annotations

import argparse
import logging
from dataclasses import astuple
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from pipelines.commands._arguments import add_run, add_window, between, instant
from pipelines.commands._output import tell_read
from pipelines.errors import Misuse
from pipelines.twilio.limits import RETENTION, SECOND

if TYPE_CHECKING:
    from pipelines.reading.windows import Window
    from pipelines.settings import Settings
    from pipelines.warehouse.runs import Run

log = logging.getLogger("verify_sync")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--days", type=between(int, 1, 3650), help="the last so many days (default: 30)"
    )
    add_window(parser, "instead: ")
    parser.add_argument(
        "--restart", action="store_true", help="begin anew even if an earlier one is unfinished"
    )


def run(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    after = instant(arguments.after, now, "--after")
    before = instant(arguments.before, now, "--before")
    window = window_of(arguments.days, after, before, now)
    given = {name: getattr(arguments, name) for name in ("days", "after", "before")}
    asked = " ".join(f"--{name} {value}" for name, value in given.items() if value is not None)
    done = backfill(settings, window, asked, now, arguments.restart, arguments.wait)
    tell_read(arguments, settings, done)


def window_of(
    days: int | None, after: datetime | None, before: datetime | None, now: datetime
) -> Window:
    """The window that options name, within retention: what they leave out is said.

    Raises Misuse if nothing is left.
    """
    from pipelines.reading.windows import Window

    if days is not None and (after or before):
        raise Misuse("give either --days, or --after and --before")
    oldest = now - RETENTION
    start = after or now - timedelta(days=days or RETENTION.days)
    end = before or now
    if end <= oldest:
        raise Misuse(
            f"Twilio has forgotten what was created before {oldest:%F %T} UTC, so there is "
            "nothing to read: choose a later --before"
        )
    if start >= min(end, now):
        raise Misuse("--after must be earlier than --before, or than now")
    if start < oldest:
        log.warning("Twilio has forgotten what was created before %s UTC", f"{oldest:%F %T}")
    if end > now:
        log.warning("--before lies in the future: this reads what was created up to now")
    start, end = (at.replace(microsecond=0) for at in (max(start, oldest), min(end, now)))
    # `(after, before]` without the running second, but with what was created at `--after`.
    newest = now.replace(microsecond=0) - SECOND
    return Window(start - SECOND if after else start, min(end, newest))


def backfill(
    settings: Settings,
    window: Window,
    asked: str,
    now: datetime,
    restart: bool = False,
    wait: float = 0.0,
) -> Run:
    """Reads `window` again and publishes it, or goes on with an unfinished call of the same name.

    `asked` is that name: the options as they were typed; with none it goes on with whatever is
    unfinished, or if it is to `restart` reads that again. Raises Failure or Misuse.
    """
    from pipelines.reading.gaps import warn_of_gaps
    from pipelines.settings import require_credentials
    from pipelines.twilio.clock import Clock
    from pipelines.warehouse.backfill import Backfill, BackfillReader, note_finished, resumed
    from pipelines.warehouse.folder import Warehouse
    from pipelines.warehouse.ingest import connect, mindful_of_expiry, windows_read
    from pipelines.warehouse.runs import Run
    from pipelines.warehouse.session import finish, recorded, session

    warehouse = Warehouse(settings, Run("backfill", now, wait, is_brief=True))
    account_sid = require_credentials(settings).account_sid
    instants = (at.isoformat() for at in (*astuple(window), now.replace(microsecond=0)))
    wanted = Backfill(account_sid, settings.filters.hash, asked, *instants)
    with (
        # Two of them would read the same.
        warehouse.locked(warehouse.backfill_lock, wait, is_brief=False),
        mindful_of_expiry(settings, now),
        recorded(warehouse),
        connect(settings, Clock(warehouse.run.now), warehouse.run) as client,
    ):
        with session(warehouse):
            warn_of_gaps(windows_read(warehouse, now), settings.revisit_after, now)
            wanted = resumed(settings.directory, wanted, restart)
            reader = BackfillReader(warehouse, client, wanted)
            reader.find_left()
        while reader.left:
            reader.read()
        with session(warehouse, patient=True):
            finish(warehouse, now)
        note_finished(settings.directory, wanted)
    return warehouse.run
