"""The cost of syncing, by account size and interval, computed with the planner and the slicer.

`python -m tests.intervals` prints the table in tests/bench/README.md: requests per day, and the
minutes that one sync takes because of the rate limit. A burst of 100 requests takes 0 minutes.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import numpy as np

from pipelines.commands.sync import limit_seconds
from pipelines.reading.defaults import DEFAULT_SCHEDULE
from pipelines.reading.sizing import Sizing, Slice
from pipelines.reading.windows import Window, WindowsRead, plan
from pipelines.twilio.limits import MAX_PAGE_SIZE, REQUESTS_PER_MINUTE, RETENTION, SECOND

SIZES = (1_000, 10_000, 100_000, 1_000_000)  # attempts a day, evenly spread
INTERVALS = {
    "every 5 min": timedelta(minutes=5),
    "every 15 min": timedelta(minutes=15),
    "hourly": timedelta(hours=1),
    "every 6 h": timedelta(hours=6),
    "daily": timedelta(days=1),
}
_START = datetime(2026, 11, 1, tzinfo=timezone.utc)
_DAY = timedelta(days=1)


def syncs(interval: timedelta) -> list[list[Window]]:
    """The windows of each sync of one day, after a long time of syncs at this interval."""
    first = Window(_START - RETENTION, _START - SECOND)
    read = WindowsRead.of([(first.after, first.before, _START)])
    found = []
    for number in range(1, int(2 * _DAY / interval) + 1):
        now = _START + number * interval
        windows = plan(read, DEFAULT_SCHEDULE, now)
        more = WindowsRead.of([(w.after, w.before, now) for w in windows])
        both = zip(read, more, strict=True)
        read = WindowsRead.by_column([np.concatenate(columns) for columns in both])
        found.append(windows)
    return found[len(found) // 2 :]


def requests(windows: list[Window], a_day: int) -> int:
    """The number of requests of one sync, including Summaries."""
    client: Any = SimpleNamespace(page_size=MAX_PAGE_SIZE)
    with Sizing(client, rate=a_day / _DAY.total_seconds()) as sizing:
        pieces = [_slice(window, a_day) for window in windows]
        return sizing.requests(pieces) + sum(sizing.asks(window) for window in windows)


def _slice(window: Window, a_day: int) -> Slice:
    attempts = round(a_day * ((window.before - window.after) / _DAY))
    return Slice(window, attempts, max(1, -(-attempts // MAX_PAGE_SIZE)))


def table() -> Iterator[str]:
    yield f"{'attempts a day':>14}" + "".join(f"{name:>19}" for name in INTERVALS)
    days = {name: syncs(interval) for name, interval in INTERVALS.items()}
    for size in SIZES:
        cells = [_cell([requests(windows, size) for windows in day]) for day in days.values()]
        yield f"{size:14,}" + "".join(f"{cell:>19}" for cell in cells)


def _cell(costs: list[int]) -> str:
    minutes = limit_seconds(max(costs), REQUESTS_PER_MINUTE) // 60
    return f"{sum(costs):,}, {minutes} min"


if __name__ == "__main__":
    for line in table():
        print(line)
