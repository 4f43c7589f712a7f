"""Which windows of created time are due: pure functions. No clock, no database, no request.

An attempt is due when it is new, again at each age of the schedule, and in a last call shortly
before it is 30 days old. A window that was read at `read_at` has served age `a` for each of its
attempts that was at least `a` old at `read_at`. Attempts that no window has served are due. So a
first sync, an outage, a crash, a changed schedule and a restored backup need no special rule.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipelines.twilio.limits import RETENTION

LAST_CALL = timedelta(days=1)  # before the end of retention

Ints = NDArray[np.int64]
Span = tuple[int, int]  # created time `(after, before]` in epoch seconds


@dataclass(frozen=True, order=True)
class Window:
    """Created time, half open: `(after, before]`. Both aware."""

    after: datetime
    before: datetime


class WindowsRead(NamedTuple):
    """Windows that were read completely, as three columns sorted by `after`, in epoch seconds.

    `read_at` is the time of a window's first request. Columns are fast: a sync every five minutes
    leaves 43,000 windows within retention.
    """

    after: Ints
    before: Ints
    read_at: Ints

    @classmethod
    def of(cls, rows: Iterable[Sequence[datetime]]) -> WindowsRead:
        """From rows of (created_after, created_before, read_at), all aware."""
        seconds = [[_seconds(instant) for instant in row] for row in rows]
        return cls.by_column([*np.array(seconds, dtype=np.int64).reshape(-1, 3).T])

    @classmethod
    def by_column(cls, columns: Sequence[Ints]) -> WindowsRead:
        order = columns[0].argsort(kind="stable")
        return cls(*(column[order] for column in columns))

    def reach(self, default: int) -> int:
        """The newest created time that was read, or `default`. A run starts the newest window last,
        so this is about when a run last succeeded."""
        return int(np.max(self.before)) if len(self.before) else default


def plan(read: WindowsRead, schedule: Sequence[timedelta], now: datetime) -> list[Window]:
    """The windows due at `now`: disjoint, ascending, within retention.

    `schedule` holds the revisit ages, ascending. New attempts and the last call always count too.
    """
    oldest, newest = _retention(now)
    due: list[Span] = []
    for age, served_from in _ages(schedule, newest - read.reach(default=newest)):
        served = np.minimum(read.before, read.read_at - served_from)
        due += _uncovered((oldest, min(_seconds(now) - age, newest)), read.after, served)
    return _windows(due)


def unread(read: WindowsRead, now: datetime) -> list[Window]:
    """Windows within retention at `now` that were never read. Starts at the oldest window read."""
    oldest, newest = _retention(now)
    first = int(read.after[0]) if len(read.after) else newest
    return _windows(_uncovered((max(oldest, first), newest), read.after, read.before))


def lost(read: WindowsRead, age: timedelta, now: datetime) -> list[Window]:
    """Gaps: windows that left retention since the newest read, never read at `age` or later."""
    if not len(read.after):
        return []
    then = int(np.max(read.read_at)) - _span(RETENTION)
    served = np.minimum(read.before, read.read_at - _span(age))
    gone = max(then, int(read.after[0])), _retention(now)[0]
    return _windows(_uncovered(gone, read.after, served))


def remaining(read: WindowsRead, window: Window, since: datetime) -> list[Window]:
    """The parts of `window` that were not read at or after `since`."""
    lately = read.read_at >= _seconds(since)
    whole = _seconds(window.after), _seconds(window.before)
    return _windows(_uncovered(whole, read.after[lately], read.before[lately]))


def cut(window: Window, parts: int) -> list[Window]:
    """The window in `parts` equal parts of whole seconds; in fewer if it has fewer seconds."""
    after, before = _seconds(window.after), _seconds(window.before)
    parts = min(parts, before - after)
    edges = [_instant(after + (before - after) * part // parts) for part in range(parts + 1)]
    return [Window(*edges) for edges in itertools.pairwise(edges)]


def _ages(schedule: Sequence[timedelta], interval: int) -> Iterator[tuple[int, int]]:
    """Pairs (age, served_from), in seconds: attempts are due at `age`, unless they were read at
    age `served_from` or later. `interval` is the time since a run last succeeded.

    The last call comes in the last day of retention. If runs are rarer, it comes in the last two
    intervals: then one run may be late or fail. With shorter and shorter intervals, each run would
    make the last call later, and read again. So before the last day, any read in the second half of
    the time from the oldest revisit to the end of retention is enough.
    """
    ages = [0, *map(_span, schedule)]
    retention, last_call = _span(RETENTION), _span(RETENTION - LAST_CALL)
    late = (ages[-1] + retention) // 2
    early_call = max(min(last_call, retention - 2 * interval), 0)
    yield from zip(ages, ages, strict=True)
    yield early_call, min(early_call, late)
    yield last_call, early_call


def _retention(now: datetime) -> Span:
    """The created time that can be read at `now`. The current second is left out: not over yet."""
    return _seconds(now - RETENTION), _seconds(now) - 1


def _uncovered(whole: Span, starts: Ints, ends: Ints) -> Iterator[Span]:
    """The parts of `whole` that no `(start, end]` covers. `starts` ascend; spans may be empty."""
    after, before = whole
    some = (starts < ends) & (ends > after) & (starts < before)
    covered = np.maximum.accumulate(np.append(after, ends[some]))  # up to each start
    starts = np.append(starts[some], before)
    for place in np.flatnonzero(starts > covered):
        yield int(covered[place]), int(starts[place])


def _windows(spans: Iterable[Span]) -> list[Window]:
    """The union of the spans, ascending."""
    union: list[Span] = []
    for after, before in sorted(spans):
        if union and after <= union[-1][1]:
            after, before = union[-1][0], max(union.pop()[1], before)
        union.append((after, before))
    return [Window(_instant(after), _instant(before)) for after, before in union]


def _seconds(instant: datetime) -> int:
    """Epoch seconds, rounded down: created times and the API's dates have whole seconds only."""
    return int(instant.timestamp() // 1)


def _span(duration: timedelta) -> int:
    return int(duration.total_seconds())


def _instant(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)
