"""Read a window of created time again (default: the last 30 days); resumable."""

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
        "--days", type=between(int, 1, 3650), help="read the last DAYS days (default: 30)"
    )
    add_window(parser, "instead of --days: ")
    parser.add_argument(
        "--restart", action="store_true", help="drop an unfinished backfill and start over"
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
    """Returns the window that the options name, cut to retention. Warns if it cuts.

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
            f"Twilio no longer has attempts created before {oldest:%F %T} UTC: choose a later "
            "--before"
        )
    if start >= min(end, now):
        raise Misuse("--after must be earlier than --before, and earlier than now")
    if start < oldest:
        log.warning(
            "attempts created before %s UTC are skipped: Twilio no longer has them",
            f"{oldest:%F %T}",
        )
    if end > now:
        log.warning("--before is in the future: this reads attempts created up to now")
    start, end = (at.replace(microsecond=0) for at in (max(start, oldest), min(end, now)))
    # The window is `(after, before]`. The first second of `--after` belongs to it, so it begins a
    # second earlier. The current second is not over, so the window ends a second before now.
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
    """Reads `window` again and publishes it, or resumes an unfinished call with the same `asked`.

    `asked` holds the options as typed. If empty, this resumes any unfinished backfill; with
    `restart`, it reads that one's window from the beginning. Raises Failure or Misuse.
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
        # Two backfills at a time would read the same windows.
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
