"""A quarter of syncs: what each way of reading costs, and how many rows it leaves wrong.

The attempts of one account are delivered, converted and priced while the syncs go on. The API lists
them up to ten minutes late. Revisits are simulated with the real `plan` and the rows that the
sandbox lists at each instant, merged by plain SQL. Each plain lookback reads what was created since
the sync before, and some time before that. `python -m tests.quarter` prints the table.
`make bench ARGS="--only quarter"` runs every sync with the real pipeline.
"""

from __future__ import annotations

import heapq
import io
import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random
from unittest.mock import patch

import duckdb
import numpy as np
import pyarrow as pa

from pipelines.__main__ import main
from pipelines.reading.defaults import DEFAULT_SCHEDULE
from pipelines.reading.sizing import may_exceed_slice
from pipelines.reading.windows import Window, WindowsRead, plan
from pipelines.sandbox.account import Account, Block
from pipelines.sandbox.render import Renderer
from pipelines.sandbox.sends import DAY
from pipelines.sandbox.server import Sandbox
from pipelines.sandbox.switches import Switches
from pipelines.twilio.decode import decode
from pipelines.twilio.limits import RETENTION
from tests.worlds import as_columns, environment_of, serving

START = datetime(2026, 8, 24, tzinfo=timezone.utc)
DAYS, ATTEMPTS = 90, 20_000
DELAY = 600  # the API lists a new attempt up to so many seconds late
PAGE = 1000
LOOKBACKS = {"0": 0, "24 h": DAY, "72 h": 3 * DAY, "7 days": 7 * DAY}
SETTLED = max(DEFAULT_SCHEDULE)


def every(**interval: float) -> Callable[[int], list[datetime]]:
    return lambda days: [
        START + number * timedelta(**interval)
        for number in range(1, int(timedelta(days=days) / timedelta(**interval)) + 1)
    ]


def irregular(days: int) -> list[datetime]:
    """Random times, from minutes to almost two weeks apart."""
    random, found, last = Random(4), [], START
    while True:
        last += timedelta(minutes=5 * 4000 ** random.random())
        if last > START + timedelta(days=days):
            return found
        found.append(last.replace(microsecond=0))


SCHEDULES = {
    "every 5 minutes": every(minutes=5),
    "hourly": every(hours=1),
    "daily": every(days=1),
    "weekly": every(days=7),
    "irregular": irregular,
}


@dataclass(frozen=True)
class Spent:
    """`wrong`: how many attempts are missing or not in their final state, among those old enough
    for their last revisit. `most`: the highest number of reads of one attempt."""

    requests: int
    rows: int
    wrong: int
    most: int = field(default=0, compare=False)


class Quarter:
    """The account as columns, one element per attempt. Instants are epoch seconds."""

    def __init__(self, days: int = DAYS) -> None:
        start = int(START.timestamp())
        self.days = days
        self.account = Account(attempts=ATTEMPTS * days // DAYS, days=days, since=start)
        self.renderer = Renderer(self.account, Switches(), Sandbox.account_sid)
        blocks = [self.account.block(start // DAY + day) for day in range(-1, days + 1)]
        names = [f.name for f in fields(Block)]
        columns = {name: np.concatenate([getattr(b, name) for b in blocks]) for name in names}
        order = np.argsort(columns["created"], kind="stable")
        self.block = Block(**{name: column[order] for name, column in columns.items()})
        self.created = self.block.created
        # The same rule as in the sandbox (state.py).
        self.listed = self.created + self.block.index * 7_919 % (DELAY + 1)

    def judged(self, last: datetime) -> np.ndarray:
        """Positions of the attempts that were old enough for a last revisit at the last sync."""
        return np.flatnonzero(self.created <= int((last - SETTLED).timestamp()))

    def ends(self, places: np.ndarray) -> np.ndarray:
        """The instants at which Twilio forgets the attempts. Their state is then final."""
        return self.created[places] + int(RETENTION.total_seconds())

    def texts(self, places: np.ndarray, at: np.ndarray) -> list[str]:
        """The API's JSON of each attempt at the instant given for it."""
        return self.renderer.render(self.block, places, at)

    def page(self, places: np.ndarray, at: np.ndarray) -> pa.Table:
        """The same, decoded by the client, without the read time."""
        texts = self.texts(places, at) if len(places) else []
        return decode([json.loads(text) for text in texts], START).attempts.drop(["read_at"])

    def wrong(self, places: np.ndarray, at: np.ndarray) -> int:
        """How many attempts were last read before their final state. -1 means never read."""
        final = self.texts(places, self.ends(places))
        return sum(
            instant < 0 or then != now
            for instant, then, now in zip(at, self.texts(places, at), final, strict=True)
        )


def looked_back(quarter: Quarter, times: Sequence[datetime], lookback: int) -> Spent:
    """Only the last read counts. The syncs that read one attempt are consecutive."""
    syncs = np.array([int(now.timestamp()) for now in times])
    created, retention = quarter.created, int(RETENTION.total_seconds())
    first = np.searchsorted(syncs, quarter.listed)
    # A sync reads attempts that were younger than the lookback at the sync before.
    last = np.minimum(np.searchsorted(syncs, created + lookback), len(syncs) - 1)
    last = np.minimum(last, np.searchsorted(syncs, created + retention) - 1)
    reads = np.maximum(last - first + 1, 0)
    rows = np.zeros(len(syncs) + 1, dtype=np.int64)
    np.add.at(rows, first[reads > 0], 1)
    np.add.at(rows, last[reads > 0] + 1, -1)
    pages = np.maximum(1, -(-np.cumsum(rows[:-1]) // PAGE))
    places = quarter.judged(times[-1])
    at = np.where(reads > 0, syncs[last], -1)[places]
    return Spent(int(pages.sum()), int(reads.sum()), quarter.wrong(places, at), int(reads.max()))


class Planned:
    """Plays syncs with the real planner. Plain SQL merges the reads, one day at a time."""

    def __init__(self, quarter: Quarter) -> None:
        self.quarter = quarter
        self.read = WindowsRead.of(())
        self.reads = np.zeros(len(quarter.created), dtype=np.int64)
        self.requests = 0
        self.rates: list[tuple[float, datetime]] = []  # sorted, highest first
        self.unmerged: list[tuple[np.ndarray, int]] = []
        self.connection = duckdb.connect()

    def run(self, times: Sequence[datetime]) -> Spent:
        day = times[0].date()
        for now in times:
            if now.date() != day:
                self._merge()
                self.read, day = latest(self.read), now.date()
            self._sync(now)
        self._merge()
        wrong = self._wrong(times[-1])
        return Spent(self.requests, int(self.reads.sum()), wrong, int(self.reads.max()))

    def _sync(self, now: datetime) -> None:
        pieces, oldest = plan(self.read, DEFAULT_SCHEDULE, now), now - RETENTION
        while self.rates and self.rates[0][1] <= oldest:
            heapq.heappop(self.rates)
        rate = -self.rates[0][0] if self.rates else None
        for piece in pieces:
            places = self._listed(piece, int(now.timestamp()))
            self.requests += may_exceed_slice(piece, rate, PAGE)  # the Summary
            self.requests += max(1, math.ceil(len(places) / PAGE))
            found = len(places) / (piece.before - piece.after).total_seconds()
            heapq.heappush(self.rates, (-found, piece.before))
            self.reads[places] += 1
            if len(places):
                self.unmerged.append((places, int(now.timestamp())))
        read = WindowsRead.of([(piece.after, piece.before, now) for piece in pieces])
        both = zip(self.read, read, strict=True)
        self.read = WindowsRead.by_column([np.concatenate(columns) for columns in both])

    def _listed(self, piece: Window, now: int) -> np.ndarray:
        bounds = [int(bound.timestamp()) for bound in (piece.after, piece.before)]
        low, high = np.searchsorted(self.quarter.created, bounds, side="right")
        places = np.arange(low, high)
        return places[self.quarter.listed[places] <= now]

    def _merge(self) -> None:
        """If an attempt was read twice in a day, the last read wins."""
        last = {place: now for places, now in self.unmerged for place in places}
        self.unmerged = []
        page = self.quarter.page(np.array([*last]), np.array([*last.values()]))
        self.connection.register("page", page)
        self.connection.execute(
            "create table if not exists attempts as select * from page limit 0;"
            "delete from attempts where sid in (select sid from page);"
            "insert into attempts select * from page"
        )

    def _wrong(self, last: datetime) -> int:
        places = self.quarter.judged(last)
        self.connection.register("ended", self.quarter.page(places, self.quarter.ends(places)))
        query = "select count(*) from (from ended except from attempts)"
        return int(self.connection.execute(query).fetchall()[0][0])


def latest(read: WindowsRead) -> WindowsRead:
    """The same progress in fewer windows: only the last read of each created time counts.

    Otherwise the planner would need half an hour for a quarter of syncs every five minutes.
    """
    edges = np.unique(np.concatenate([read.after, read.before]))
    last = np.full(len(edges) - 1, -1)
    order = np.argsort(read.read_at, kind="stable")
    starts, ends = (
        np.searchsorted(edges, read.after[order]),
        np.searchsorted(edges, read.before[order]),
    )
    for start, end, at in zip(starts, ends, read.read_at[order], strict=True):
        last[start:end] = at
    change = np.flatnonzero(np.diff(last, prepend=-2))
    kept = [edges[change], edges[np.append(change[1:], len(last))], last[change]]
    some = (kept[2] >= 0) & (kept[1] > kept[1].max() - int(RETENTION.total_seconds()) - DAY)
    return WindowsRead.by_column([column[some] for column in kept])


def by_pipeline(
    folder: Path,
    times: Sequence[datetime],
    days: int = DAYS,
    after_each: Callable[[], object] = lambda: None,
) -> Spent:
    """The same, but every sync is the real command, which reads from the sandbox over HTTP."""
    given = {"attempts": ATTEMPTS * days // DAYS, "days": days, "visibility_delay": DELAY}
    with serving(folder, now=START + timedelta(days=days), **given) as world:
        quarter = Quarter(days)
        quiet = redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO())
        with patch.dict(os.environ, environment_of(world)), quiet[0], quiet[1]:
            for world.now in times:
                assert main(["sync"], now=world.now) == 0
                after_each()
        (spent,) = world.query("select sum(attempts) as rows from twilio_verify.windows_read")
        places = quarter.judged(times[-1])
        texts = quarter.texts(places, quarter.ends(places))
        final = [as_columns(json.loads(text)) for text in texts]
        stored = world.stored()
        wrong = sum(stored.get(row["sid"]) != row for row in final)
        return Spent(len(world.sandbox.log), int(spent["rows"]), wrong)


def table(days: int = DAYS, names: Iterable[str] = SCHEDULES) -> Iterator[str]:
    """Yields a line per schedule and way of reading, for tests/bench/README.md."""
    quarter = Quarter(days)
    yield f"{days} days, {len(quarter.created):,} attempts"
    yield line("syncs", "way of reading", "requests", "rows read", "an attempt", "wrong")
    for name in names:
        times = SCHEDULES[name](days)
        ways = {"revisits": Planned(quarter).run(times)}
        for lookback, seconds in LOOKBACKS.items():
            ways[f"lookback {lookback}"] = looked_back(quarter, times, seconds)
        for way, spent in ways.items():
            each = f"{spent.rows / len(quarter.created):.1f}"
            figures = f"{spent.requests:,}", f"{spent.rows:,}", each, f"{spent.wrong:,}"
            yield line(f"{name} ({len(times):,})", way, *figures)


def line(syncs: str, way: str, requests: str, rows: str, each: str, wrong: str) -> str:
    return f"{syncs:25}{way:17}{requests:>10}{rows:>13}{each:>12}{wrong:>8}"


if __name__ == "__main__":
    for text in table():
        print(text, flush=True)
