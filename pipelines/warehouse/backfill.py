"""Finds and reads what is left of a backfill. Options: commands.backfill.

`windows_read` records every window read since the backfill began. So `backfill.json` keeps only
the options of an unfinished backfill and its start. A backfill locks the warehouse only while it
loads a package. A scheduled sync can run in between, and the backfill skips what that sync read.
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
from pipelines.warehouse.files import keep_owner
from pipelines.warehouse.folder import Warehouse
from pipelines.warehouse.ingest import sizing, windows_read
from pipelines.warehouse.session import session

_UNFINISHED = "backfill.json"

log = logging.getLogger("verify_sync")


@dataclass(frozen=True)
class Backfill:
    """An unfinished backfill. `asked` holds its options as typed. Times are ISO, with a zone."""

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
        """Account and filters. For each such pair there is at most one unfinished backfill."""
        return self.account_sid, self.filters_hash

    def left(self, read: WindowsRead, now: datetime) -> list[Window]:
        """Returns the windows within retention that were not read since the backfill began."""
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
    """Finds what is left of a backfill and reads it."""

    def __init__(self, warehouse: Warehouse, client: Client, backfill: Backfill) -> None:
        self._warehouse, self._settings = warehouse, warehouse.settings
        self._client, self._backfill = client, backfill
        self.left: list[Window] = []

    def find_left(self) -> None:
        """Sets `left` from the windows that are loaded, whichever run read them."""
        now = self._client.clock()
        self.left = self._backfill.left(windows_read(self._warehouse, now), now)

    def read(self) -> None:
        """Reads and loads the windows in `left`, then finds again what is left: usually nothing.

        Raises Failure if nothing was gained, because another program overwrites the database.
        """
        before, first, last = self.left, self.left[0], self.left[-1]
        log.info(
            "reading attempts created from %s to %s UTC",
            *map(_shown, (first.after, last.before)),
        )
        with sizing(self._client, self._settings) as sized:
            measured = sized.measured(self.left, every=True)
            with Progress.of(measured, sized, shown=True) as progress:
                slices = self._wanted(sized.cut(measured), progress)
                filters, concurrency = self._settings.filters, self._settings.concurrency
                for reads in batches(self._client, slices, filters, concurrency, progress):
                    self._load(reads)
                    progress.loaded(self._warehouse.run.attempts)
                    del reads  # else its rows stay in memory while the next slices are read
        with session(self._warehouse, patient=True):
            self.find_left()
        if self.left == before:
            raise Failure(
                "the attempts just read are not in the warehouse: stop the other program that "
                "writes to it and run again"
            )

    def _load(self, reads: list[SliceRead]) -> None:
        with session(self._warehouse, patient=True):
            if self._warehouse.loader.has_changed():  # a sync ran in between
                self.find_left()
            note_unfinished(self._settings.directory, self._backfill)
            self._warehouse.run.add(reads, self._warehouse.loader.load(Package.of(reads)))

    def _wanted(self, slices: Iterable[Slice], progress: Progress) -> Iterator[Slice]:
        """Yields the slices that are still needed. Other runs may have read the rest."""
        for slice_ in slices:
            if any(_overlap(slice_.window, window) for window in self.left):
                yield slice_
            else:
                progress.less(slice_.attempts or 0)


def resumed(directory: Path, backfill: Backfill, restart: bool) -> Backfill:
    """Returns the unfinished backfill to resume, or `backfill` if there is none.

    `restart` drops the unfinished one. Its window is then read from the beginning, unless
    `backfill` has options of its own. Raises Misuse if the unfinished one has other options.
    """
    old = next((old for old in _unfinished(directory) if old.key == backfill.key), None)
    if old is None:
        return backfill
    if restart:
        log.info("%s is dropped", old)
        same = replace(backfill, asked=old.asked, after=old.after, before=old.before)
        return backfill if backfill.asked else same
    if backfill.asked not in ("", old.asked):
        raise Misuse(
            f"{old} is not finished: run `backfill` without options to resume it, or add "
            "--restart to replace it"
        )
    log.info("resuming %s", old)
    return old


def note_unfinished(directory: Path, backfill: Backfill) -> None:
    """Stores `backfill` in `backfill.json`. The next call resumes it."""
    _write(directory, [*_others(directory, backfill), backfill])


def note_finished(directory: Path, backfill: Backfill) -> None:
    """Removes `backfill` from `backfill.json`. The next call starts a new one."""
    _write(directory, _others(directory, backfill))


def _others(directory: Path, backfill: Backfill) -> list[Backfill]:
    return [other for other in _unfinished(directory) if other.key != backfill.key]


def _write(directory: Path, unfinished: list[Backfill]) -> None:
    if unfinished == _unfinished(directory):
        return
    fresh = directory / f"{_UNFINISHED}.new"
    fresh.write_text(json.dumps([asdict(one) for one in unfinished], indent=1), encoding="utf-8")
    keep_owner(fresh, directory / _UNFINISHED)
    os.replace(fresh, directory / _UNFINISHED)


def _unfinished(directory: Path) -> list[Backfill]:
    file = directory / _UNFINISHED
    try:
        return [Backfill(**one) for one in json.loads(file.read_bytes())] if file.exists() else []
    except (ValueError, TypeError):  # a power cut can damage it
        log.warning("%s is damaged and was deleted: an unfinished backfill starts over", file)
        file.unlink()
        return []


def _overlap(one: Window, other: Window) -> bool:
    return one.after < other.before and other.after < one.before


def _shown(instant: datetime) -> str:
    return f"{instant:%F %T}"
