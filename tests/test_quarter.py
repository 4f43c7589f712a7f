"""Months of syncs: every attempt ends final, and the README's cost comparison is correct."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import numpy as np
import pytest

from pipelines.reading.defaults import DEFAULT_SCHEDULE, SETTLED_AFTER
from pipelines.reading.windows import WindowsRead, plan
from tests.quarter import LOOKBACKS, SCHEDULES, Planned, Quarter, by_pipeline, latest, table
from tests.quarter import looked_back as look_back
from tests.worlds import REPOSITORY

pytestmark = pytest.mark.long

# Until its input ends: opens the published file again and again, and asks, in one connection, for
# what must be equal in any state that a run left.
READER = """
import json, sys, threading, duckdb
ASKED = '''
    select
        (select count(*) from twilio_verify.attempts),
        (select count(distinct sid) from twilio_verify.attempts),
        (select sum(attempts_new) from sync_history),
        (select sum(attempts) from daily_conversion),
        (select sum(attempts_read) from sync_history),
        (select sum(attempts) from twilio_verify.windows_read),
        (select count(*) from sync_history),
        (select bool_and(outcome = 'done') from sync_history)
'''
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
while not ended.wait(0.2):
    with duckdb.connect(sys.argv[1], read_only=True) as connection:
        print(json.dumps([int(n) for n in connection.execute(ASKED).fetchone()]), flush=True)
"""


RUNS = 6  # position of the number of runs


@pytest.fixture(scope="module")
def quarter() -> Quarter:
    return Quarter()


def test_the_table_of_lookbacks_is_the_real_one() -> None:
    readme = (REPOSITORY / "tests" / "bench" / "README.md").read_text(encoding="utf-8")
    found = list(table())
    assert "\n".join(found) in readme
    left_wrong = [line.split()[-1] for line in found if " revisits " in line]
    assert left_wrong == ["0"] * len(SCHEDULES)


def test_hourly_syncs_read_an_attempt_six_times_at_most_a_lookback_72_times(
    quarter: Quarter,
) -> None:
    times = SCHEDULES["hourly"](quarter.days)
    assert Planned(quarter).run(times).most <= 6
    assert look_back(quarter, times, LOOKBACKS["72 h"]).most >= 72


@pytest.mark.parametrize(("syncs", "days"), [("daily", 60), ("weekly", 84)])
def test_real_syncs_do_what_was_planned(tmp_path: Path, syncs: str, days: int) -> None:
    """The real syncs need exactly the planned requests and rows, and leave no attempt wrong.

    `coverage` calls a whole day settled if a sync read it at an age of three days, and no other
    day. A reader never fails and never sees half a state. Merging does not make the run's own file
    grow."""
    times = SCHEDULES[syncs](days)
    published = tmp_path / "warehouse" / "verify.duckdb"
    sizes: list[float] = []
    states: list[list[int]] = []
    with reading(published) as look:

        def after_each() -> None:
            states.extend(look(len(sizes) + 1))
            loading = published.with_name("loading.duckdb").stat().st_size
            sizes.append(loading / published.stat().st_size)

        real = by_pipeline(tmp_path / "warehouse", times, days, after_each)
    assert real == Planned(Quarter(days)).run(times)
    assert real.wrong == 0
    assert len(sizes) == len(times)
    assert max(sizes) <= 1.5  # times the size of a compact copy; a first load is seldom compact
    hold_together(states, len(times))
    with duckdb.connect(str(published), read_only=True) as database:
        told = database.execute("select created_date, is_settled from coverage").fetchall()
    newest = (times[-1] - SETTLED_AFTER).date()  # only a part of this day is settled
    first = min(day for day, _ in told)  # the first read begins one second into this day
    assert {day for day, settled in told if settled} == {d for d, _ in told if first < d < newest}
    assert len(told) > days


@contextmanager
def reading(published: Path) -> Iterator[Callable[[int], list[list[int]]]]:
    """Yields `look(runs)`. Its first call starts a process that reads the published file. Each call
    waits until that process has seen so many runs, and returns what it saw since the last call."""
    readers: list[subprocess.Popen[str]] = []

    def look(runs: int) -> list[list[int]]:
        if not readers:
            argv = [sys.executable, "-c", READER, str(published)]
            ways = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
            readers.append(subprocess.Popen(argv, text=True, **ways))  # type: ignore[call-overload]
        states: list[list[int]] = []
        assert readers[0].stdout is not None
        while not states or states[-1][RUNS] < runs:
            states.append(json.loads(readers[0].stdout.readline()))
        return states

    try:
        yield look
    finally:
        for reader in readers:
            reader.communicate()
            assert reader.returncode == 0


def hold_together(states: list[list[int]], syncs: int) -> None:
    for n, distinct, new, in_view, read, in_windows, _, done in states:
        assert n == distinct == new == in_view
        assert read == in_windows
        assert done == 1
    seen = [state[RUNS] for state in states]
    assert seen == sorted(seen)  # readers never see an older state again
    assert set(seen) == {*range(1, syncs + 1)}


@pytest.mark.parametrize("syncs", ["hourly", "irregular"])
def test_fewer_windows_are_the_same_progress(quarter: Quarter, syncs: str) -> None:
    """The shortcut that makes dense schedules fast changes no plan."""
    planned, read = Planned(quarter), WindowsRead.of(())
    times = SCHEDULES[syncs](quarter.days)[:200]
    for now in times:
        before = planned.read
        planned._sync(now)
        added = [
            column[np.isin(planned.read.read_at, [now.timestamp()])] for column in planned.read
        ]
        assert plan(before, DEFAULT_SCHEDULE, now) == plan(read, DEFAULT_SCHEDULE, now)
        both = zip(read, added, strict=True)
        read = WindowsRead.by_column([np.concatenate(columns) for columns in both])
        planned.read = latest(planned.read)
