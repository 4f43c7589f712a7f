"""A window read again, oldest first; stopped half way, it goes on where it was.

What was read since it began stands in `windows_read`, so all that is kept of an unfinished
backfill is what was asked for and when it began. The warehouse is locked only while a package
is loaded: a scheduled sync gets its turn in between, and what it reads counts.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, astuple, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from pipelines.client import Client
from pipelines.clock import Clock
from pipelines.errors import Failure, Misuse
from pipelines.losses import warn_of_losses
from pipelines.progress import Progress
from pipelines.reading import Package, SliceRead, packages
from pipelines.runs import Run
from pipelines.settings import Settings, require_credentials
from pipelines.sizing import Slice
from pipelines.sync import (
    connect,
    finish,
    mindful_of_expiry,
    opened,
    recorded,
    sizing,
    windows_read,
)
from pipelines.warehouse import Warehouse
from pipelines.windows import RETENTION, SECOND, Window, WindowsRead, remaining

_UNFINISHED = "backfill.json"

log = logging.getLogger("verify_sync")


@dataclass(frozen=True)
class Job:
    """An unfinished backfill. `asked` are its options as they were typed; instants are aware."""

    account_sid: str
    filters_hash: str
    asked: str
    after: str
    before: str
    began_at: str

    def __post_init__(self) -> None:
        for text in (self.after, self.before, self.began_at):
            if datetime.fromisoformat(text).tzinfo is None:
                raise ValueError(f"{text} has no zone")

    @property
    def key(self) -> tuple[str, str]:
        """What there is one of at a time."""
        return self.account_sid, self.filters_hash

    def left(self, read: WindowsRead, now: datetime) -> list[Window]:
        """What was not read since it began, and can still be."""
        oldest = (now - RETENTION).replace(microsecond=0)
        window = Window(*map(datetime.fromisoformat, (self.after, self.before)))
        return [
            replace(piece, after=max(piece.after, oldest))
            for piece in remaining(read, window, datetime.fromisoformat(self.began_at))
            if piece.before > oldest
        ]

    def __str__(self) -> str:
        options = f" {self.asked}" if self.asked else ""
        return f"the backfill{options} that began {self.began_at}"


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
    warehouse = Warehouse(settings, Run("backfill", now, wait, is_brief=True))
    account_sid = require_credentials(settings).account_sid
    instants = (at.isoformat() for at in (*astuple(window), now.replace(microsecond=0)))
    job = Job(account_sid, settings.filters.hash, asked, *instants)
    with (
        # Two of them would read the same.
        warehouse.locked(warehouse.backfill_lock, wait, is_brief=False),
        mindful_of_expiry(settings, now),
        recorded(warehouse),
        connect(settings, Clock(warehouse.run.now), warehouse.run) as client,
    ):
        with opened(warehouse):
            warn_of_losses(windows_read(warehouse, settings, now), settings.revisit_after, now)
            job = _resumed(_unfinished(settings.directory), job, restart)
            reading = _Reading(warehouse, client, job)
            reading.find_left()
        while reading.left:
            reading.read()
        with opened(warehouse, patient=True):
            finish(warehouse, now)
        _keep(settings.directory, job, finished=True)
    return warehouse.run


class _Reading:
    """What is left of a job, and reading it."""

    def __init__(self, warehouse: Warehouse, client: Client, job: Job) -> None:
        self._warehouse, self._settings = warehouse, warehouse.settings
        self._client, self._job = client, job
        self.left: list[Window] = []

    def find_left(self) -> None:
        """By what is loaded, whoever has read it."""
        now = self._client.clock()
        self.left = self._job.left(windows_read(self._warehouse, self._settings, now), now)

    def read(self) -> None:
        """What is left; afterwards nothing is, unless what was loaded got lost meanwhile."""
        before, first, last = self.left, self.left[0], self.left[-1]
        log.info(
            "reading what was created from %s to %s UTC", *map(_shown, (first.after, last.before))
        )
        with sizing(self._client, self._settings) as sized:
            pieces = sized.measured(self.left, every=True)
            with Progress.of(pieces, sized, shown=True) as progress:
                slices = self._wanted(sized.cut(pieces), progress)
                filters, concurrency = self._settings.filters, self._settings.concurrency
                for reads in packages(self._client, slices, filters, concurrency, progress):
                    self._load(reads)
                    progress.loaded(self._warehouse.run.attempts)
                    del reads  # or its rows stay in memory while the next ones are read
        with opened(self._warehouse, patient=True):
            self.find_left()
        if self.left == before:
            raise Failure("what was read is not in the warehouse: something else writes into it")

    def _load(self, reads: list[SliceRead]) -> None:
        with opened(self._warehouse, patient=True):
            if self._warehouse.loader.has_changed():  # by a sync, which had its turn
                self.find_left()
            _keep(self._settings.directory, self._job)
            self._warehouse.run.add(reads, self._warehouse.loader.load(Package.of(reads)))

    def _wanted(self, slices: Iterable[Slice], progress: Progress) -> Iterator[Slice]:
        """Without what others have read by now."""
        for piece in slices:
            if any(_overlap(piece.window, window) for window in self.left):
                yield piece
            else:
                progress.less(piece.attempts or 0)


def _overlap(one: Window, other: Window) -> bool:
    return one.after < other.before and other.after < one.before


def _resumed(unfinished: list[Job], job: Job, restart: bool) -> Job:
    """The unfinished job that is meant by `job`, else that."""
    old = next((old for old in unfinished if old.key == job.key), None)
    if old is None:
        return job
    if restart:
        log.info("%s is given up", old)
        same = replace(job, asked=old.asked, after=old.after, before=old.before)
        return job if job.asked else same
    if job.asked not in ("", old.asked):
        raise Misuse(
            f"{old} is not finished: `backfill` without options goes on with it, with --restart "
            "this one takes its place"
        )
    log.info("going on with %s", old)
    return old


def _keep(directory: Path, job: Job, finished: bool = False) -> None:
    """Writes down what is unfinished by now."""
    unfinished = _unfinished(directory)
    jobs = [old for old in unfinished if old.key != job.key] + ([] if finished else [job])
    if jobs != unfinished:
        fresh = directory / f"{_UNFINISHED}.new"
        fresh.write_text(json.dumps([asdict(job) for job in jobs], indent=1), encoding="utf-8")
        os.replace(fresh, directory / _UNFINISHED)


def _unfinished(directory: Path) -> list[Job]:
    file = directory / _UNFINISHED
    try:
        return [Job(**job) for job in json.loads(file.read_bytes())] if file.exists() else []
    except (ValueError, TypeError):  # as a power cut leaves it
        log.warning("%s is damaged: what was unfinished begins anew", file)
        file.unlink()
        return []


def _shown(instant: datetime) -> str:
    return f"{instant:%F %T}"
