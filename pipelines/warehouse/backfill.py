"""What is left of a backfill, and reading it in turns with other runs. Options: commands.backfill.

What was read since it began stands in `windows_read`, so all that is kept of an unfinished
backfill is what was asked for and when it began. The warehouse is locked only while a package
is loaded: a scheduled sync gets its turn in between, and what it reads counts.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path

from pipelines.errors import Failure, Misuse
from pipelines.reading.package import Package, SliceRead
from pipelines.reading.progress import Progress
from pipelines.reading.sizing import Slice
from pipelines.reading.slices import batches
from pipelines.reading.windows import Window, WindowsRead, remaining
from pipelines.twilio.client import Client
from pipelines.twilio.limits import RETENTION
from pipelines.warehouse.folder import Warehouse
from pipelines.warehouse.ingest import sizing, windows_read
from pipelines.warehouse.session import session

_UNFINISHED = "backfill.json"

log = logging.getLogger("verify_sync")


@dataclass(frozen=True)
class Backfill:
    """One that is not finished. `asked` are its options as they were typed; instants are aware."""

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
            replace(left, after=max(left.after, oldest))
            for left in remaining(read, window, datetime.fromisoformat(self.began_at))
            if left.before > oldest
        ]

    def __str__(self) -> str:
        options = f" {self.asked}" if self.asked else ""
        return f"the backfill{options} that began {self.began_at}"


class BackfillReader:
    """What is left of a backfill, and reading it."""

    def __init__(self, warehouse: Warehouse, client: Client, backfill: Backfill) -> None:
        self._warehouse, self._settings = warehouse, warehouse.settings
        self._client, self._backfill = client, backfill
        self.left: list[Window] = []

    def find_left(self) -> None:
        """By what is loaded, whoever has read it."""
        now = self._client.clock()
        self.left = self._backfill.left(windows_read(self._warehouse, now), now)

    def read(self) -> None:
        """What is left; afterwards nothing is, unless what was loaded got lost meanwhile."""
        before, first, last = self.left, self.left[0], self.left[-1]
        log.info(
            "reading what was created from %s to %s UTC", *map(_shown, (first.after, last.before))
        )
        with sizing(self._client, self._settings) as sized:
            measured = sized.measured(self.left, every=True)
            with Progress.of(measured, sized, shown=True) as progress:
                slices = self._wanted(sized.cut(measured), progress)
                filters, concurrency = self._settings.filters, self._settings.concurrency
                for reads in batches(self._client, slices, filters, concurrency, progress):
                    self._load(reads)
                    progress.loaded(self._warehouse.run.attempts)
                    del reads  # or its rows stay in memory while the next ones are read
        with session(self._warehouse, patient=True):
            self.find_left()
        if self.left == before:
            raise Failure("what was read is not in the warehouse: something else writes into it")

    def _load(self, reads: list[SliceRead]) -> None:
        with session(self._warehouse, patient=True):
            if self._warehouse.loader.has_changed():  # by a sync, which had its turn
                self.find_left()
            note_unfinished(self._settings.directory, self._backfill)
            self._warehouse.run.add(reads, self._warehouse.loader.load(Package.of(reads)))

    def _wanted(self, slices: Iterable[Slice], progress: Progress) -> Iterator[Slice]:
        """Without what others have read by now."""
        for slice_ in slices:
            if any(_overlap(slice_.window, window) for window in self.left):
                yield slice_
            else:
                progress.less(slice_.attempts or 0)


def resumed(directory: Path, backfill: Backfill, restart: bool) -> Backfill:
    """The unfinished one that is meant by `backfill`, else that. Raises Misuse if another is."""
    old = next((old for old in _unfinished(directory) if old.key == backfill.key), None)
    if old is None:
        return backfill
    if restart:
        log.info("%s is given up", old)
        same = replace(backfill, asked=old.asked, after=old.after, before=old.before)
        return backfill if backfill.asked else same
    if backfill.asked not in ("", old.asked):
        raise Misuse(
            f"{old} is not finished: `backfill` without options goes on with it, with --restart "
            "this one takes its place"
        )
    log.info("going on with %s", old)
    return old


def note_unfinished(directory: Path, backfill: Backfill) -> None:
    """For the next call, which goes on with it."""
    _write(directory, [*_others(directory, backfill), backfill])


def note_finished(directory: Path, backfill: Backfill) -> None:
    """The next call begins anew."""
    _write(directory, _others(directory, backfill))


def _others(directory: Path, backfill: Backfill) -> list[Backfill]:
    return [other for other in _unfinished(directory) if other.key != backfill.key]


def _write(directory: Path, unfinished: list[Backfill]) -> None:
    if unfinished == _unfinished(directory):
        return
    fresh = directory / f"{_UNFINISHED}.new"
    fresh.write_text(json.dumps([asdict(one) for one in unfinished], indent=1), encoding="utf-8")
    os.replace(fresh, directory / _UNFINISHED)


def _unfinished(directory: Path) -> list[Backfill]:
    file = directory / _UNFINISHED
    try:
        return [Backfill(**one) for one in json.loads(file.read_bytes())] if file.exists() else []
    except (ValueError, TypeError):  # as a power cut leaves it
        log.warning("%s is damaged: what was unfinished begins anew", file)
        file.unlink()
        return []


def _overlap(one: Window, other: Window) -> bool:
    return one.after < other.before and other.after < one.before


def _shown(instant: datetime) -> str:
    return f"{instant:%F %T}"
