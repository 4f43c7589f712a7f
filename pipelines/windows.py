"""Which created-time windows a run must read: pure functions of what was read, a schedule and now.

An attempt is due when it is new, once more at each age of the schedule, and in a last call
shortly before Twilio forgets it. A window read at `read_at` has served age `a` for every
attempt in it that was at least `a` old by then; whatever no window has served is due. First
sync, outage, crash, changed schedule and restored backup need no rule of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

RETENTION = timedelta(days=30)  # the API lists attempts of the last 30 days only
SETTLED_AFTER = timedelta(days=3)  # 24 h code validity, slow receipts and 24 h for the price
DEFAULT_SCHEDULE = (timedelta(minutes=15), timedelta(hours=26), timedelta(days=3))
SLICE = timedelta(days=1)
SECOND = timedelta(seconds=1)  # the resolution of the API's dates


@dataclass(frozen=True, order=True)
class Window:
    """Created time, half open: `(after, before]`. Both aware."""

    after: datetime
    before: datetime


@dataclass(frozen=True)
class WindowRead:
    """A window that was read completely; `read_at` is the instant of its first request."""

    window: Window
    read_at: datetime


def plan(read: Iterable[WindowRead], schedule: Sequence[timedelta], now: datetime) -> list[Window]:
    """The windows due at `now`: disjoint, ascending, within retention.

    `schedule` are ages, ascending, beyond "new" and the last call, which are always there.
    """
    known = list(read)
    now = _floor(now)
    newest = now - SECOND  # the running second is not over yet
    ages = (timedelta(), *schedule, _last_call_age(known, newest))
    due: list[Window] = []
    for age in ages:
        served = (
            Window(r.window.after, min(r.window.before, _floor(r.read_at) - age)) for r in known
        )
        due += _subtract(Window(now - RETENTION, min(now - age, newest)), served)
    return list(_union(due))


def slices(windows: Iterable[Window], length: timedelta = SLICE) -> Iterator[Window]:
    """The windows in pieces no longer than `length`, in order."""
    for window in windows:
        after = window.after
        while after < window.before:
            before = min(after + length, window.before)
            yield Window(after, before)
            after = before


def _last_call_age(read: Sequence[WindowRead], newest: datetime) -> timedelta:
    """30 d less twice the time since the previous successful run (at least a day).

    A run reads its newest window last, so the newest bound read is when one last succeeded.
    Twice, so that a run that comes late or fails leaves another before the attempt is gone.
    """
    previous = max((r.window.before for r in read), default=newest)
    margin = max(timedelta(days=1), 2 * (newest - previous))
    return max(RETENTION - margin, timedelta())


def _floor(instant: datetime) -> datetime:
    """Whole seconds, like created times and the API's dates: bounds never cut through one."""
    return instant.replace(microsecond=0)


def _union(windows: Iterable[Window]) -> Iterator[Window]:
    current: Window | None = None
    for window in sorted(windows):
        if current is None or window.after > current.before:
            if current is not None:
                yield current
            current = window
        elif window.before > current.before:
            current = Window(current.after, window.before)
    if current is not None:
        yield current


def _subtract(whole: Window, parts: Iterable[Window]) -> Iterator[Window]:
    """What of `whole` no part covers. Parts may overlap, be empty or lie outside."""
    after = whole.after
    for part in _union(p for p in parts if p.after < p.before):
        if part.before <= after:
            continue
        if part.after >= whole.before:
            break
        if part.after > after:
            yield Window(after, part.after)
        after = part.before
    if after < whole.before:
        yield Window(after, whole.before)
