"""A window read again, oldest first; stopped half way, it goes on where it was.

What was read since it began stands in `windows_read`, so all that is kept of an unfinished
backfill is what was asked for and when it began. The warehouse is locked only while a package
is loaded: a scheduled sync gets its turn in between, and what it reads counts.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from filelock import FileLock, Timeout

from pipelines.clock import Clock
from pipelines.errors import Failure, Misuse
from pipelines.losses import warn_of_losses
from pipelines.progress import Progress
from pipelines.reading import Package, packages
from pipelines.settings import Settings, require_credentials
from pipelines.sizing import Slice
from pipelines.sync import (
    Outcome,
    connect,
    mindful_of_expiry,
    opened,
    sizing,
    windows_read,
)
from pipelines.warehouse import Warehouse
from pipelines.windows import RETENTION, SECOND, Window, WindowsRead, remaining

_UNFINISHED = "backfill.json"

log = logging.getLogger("verify_sync")


@dataclass(frozen=True)
class Job:
    """An unfinished backfill. `asked` are its options as they were typed."""

    account_sid: str
    filters_hash: str
    asked: str
    after: str
    before: str
    began_at: str

    @property
    def key(self) -> tuple[str, str]:
        """What there is one of at a time."""
        return self.account_sid, self.filters_hash

    @property
    def window(self) -> Window:
        return Window(datetime.fromisoformat(self.after), datetime.fromisoformat(self.before))

    def left(self, read: WindowsRead, now: datetime) -> list[Window]:
        """What was not read since it began, and can still be."""
        oldest = (now - RETENTION).replace(microsecond=0)
        windows = remaining(read, self.window, datetime.fromisoformat(self.began_at))
        return [
            replace(window, after=max(window.after, oldest))
            for window in windows
            if window.before > oldest
        ]


def window_of(
    days: int | None, after: datetime | None, before: datetime | None, now: datetime
) -> Window:
    """The window that options name, within retention: what they leave out is said.

    Raises Misuse if nothing is left.
    """
    if days is not None and (after or before):
        raise Misuse("give either --days, or --after and --before")
    oldest = now - RETENTION
    start = after or now - timedelta(days=days or RETENTION.days)
    end = before or now
    if end <= oldest:
        raise Misuse(f"Twilio has forgotten what was created before {oldest:%F %T} UTC")
    if start >= min(end, now):
        raise Misuse("--after must be earlier than --before, or than now")
    if start < oldest:
        log.warning("Twilio has forgotten what was created before %s UTC", f"{oldest:%F %T}")
    if end > now:
        log.warning("--before lies in the future: this reads what was created up to now")
    start, end = (at.replace(microsecond=0) for at in (max(start, oldest), min(end, now)))
    # `(after, before]` without the running second, but with what was created at `--after`.
    return Window(start - SECOND if after else start, min(end, now - SECOND))


def backfill(
    settings: Settings, window: Window, asked: str, now: datetime, restart: bool = False
) -> Outcome:
    """Reads `window` again and publishes it, or goes on with an unfinished call of the same name.

    `asked` is that name: the options as they were typed; with none it goes on with whatever is
    unfinished, unless it is to `restart`. Raises Failure or Misuse.
    """
    started, warehouse = time.monotonic(), Warehouse(settings)
    with (
        _alone(warehouse),
        mindful_of_expiry(settings, now),
        connect(settings, Clock(now)) as client,
        sizing(client, settings) as sized,
    ):
        outcome = Outcome(client.counts)
        with opened(warehouse):
            read = windows_read(warehouse, settings, now)
            warn_of_losses(read, settings.revisit_after, now)
        job = _begun(settings, window, asked, now, restart)
        left = job.left(read, now)
        pieces = sized.measured(left, every=True)
        with Progress.of(pieces, sized, shown=True) as progress:

            def wanted(slices: Iterable[Slice]) -> Iterator[Slice]:
                for piece in slices:
                    if any(_overlap(piece.window, window) for window in left):
                        yield piece
                    else:  # a sync has read it meanwhile
                        progress.less(piece.attempts or 0)

            slices = wanted(sized.cut(pieces))
            for reads in packages(client, slices, settings.filters, settings.concurrency, progress):
                with opened(warehouse, patient=True):
                    if warehouse.has_changed():
                        left = job.left(windows_read(warehouse, settings, now), now)
                    warehouse.load(Package.of(reads))
                outcome.add(reads)
                del reads  # or its rows stay in memory while the next ones are read
        with opened(warehouse, patient=True):
            outcome.finish(warehouse)
        _keep(settings.directory, job, finished=True)
    outcome.seconds = time.monotonic() - started
    return outcome


def _overlap(one: Window, other: Window) -> bool:
    return one.after < other.before and other.after < one.before


@contextmanager
def _alone(warehouse: Warehouse) -> Iterator[None]:
    """Two of them would read the same."""
    warehouse.directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(warehouse.directory / "backfill.lock", timeout=0):
            yield
    except Timeout:
        raise Failure(f"another backfill is using {warehouse.directory}") from None


def _begun(settings: Settings, window: Window, asked: str, now: datetime, restart: bool) -> Job:
    """The unfinished one that is meant, or a new one, which is written down."""
    account_sid = require_credentials(settings).account_sid
    fresh = Job(
        account_sid,
        settings.filters.hash,
        asked,
        window.after.isoformat(),
        window.before.isoformat(),
        now.replace(microsecond=0).isoformat(),
    )
    old = next((job for job in _unfinished(settings.directory) if job.key == fresh.key), None)
    if old is None or restart:
        _keep(settings.directory, fresh)
        return fresh
    of_it = f"the backfill{old.asked and ' '}{old.asked} that began {old.began_at}"
    if asked not in ("", old.asked):
        raise Misuse(
            f"{of_it} is not finished: `verify-sync backfill` goes on with it, "
            "with --restart another one begins"
        )
    log.info("going on with %s", of_it)
    return old


def _keep(directory: Path, job: Job, finished: bool = False) -> None:
    """Writes down what is unfinished by now."""
    jobs = [old for old in _unfinished(directory) if old.key != job.key]
    jobs += [] if finished else [job]
    fresh = directory / f"{_UNFINISHED}.new"
    fresh.write_text(json.dumps([asdict(job) for job in jobs], indent=1), encoding="utf-8")
    os.replace(fresh, directory / _UNFINISHED)


def _unfinished(directory: Path) -> list[Job]:
    try:
        return [Job(**job) for job in json.loads((directory / _UNFINISHED).read_bytes())]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):  # as a power cut leaves it
        log.warning("%s is damaged: what was unfinished begins anew", directory / _UNFINISHED)
        return []
