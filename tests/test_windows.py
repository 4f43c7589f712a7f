"""The planner, against a model that looks at every instant on its own."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.windows import (
    DEFAULT_SCHEDULE,
    RETENTION,
    SECOND,
    Window,
    WindowRead,
    plan,
    slices,
)

NOW = datetime(2026, 3, 29, 1, 30, 15, 250_000, tzinfo=timezone.utc)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
gaps = st.lists(
    st.integers(1, 20 * 86_400).map(lambda s: timedelta(seconds=s)) | st.just(HOUR) | st.just(DAY),
    min_size=1,
    max_size=12,
)
schedules = st.sets(st.integers(60, 28 * 86_400), max_size=4).map(
    lambda ages: tuple(timedelta(seconds=a) for a in sorted(ages))
)


def run(read: list[WindowRead], schedule: tuple[timedelta, ...], now: datetime) -> list[Window]:
    """A successful run: everything planned is read, a little after it was planned."""
    windows = plan(read, schedule, now)
    read += [WindowRead(window, now + timedelta(milliseconds=400)) for window in windows]
    return windows


def covers(windows: list[Window], instant: datetime) -> bool:
    return any(window.after < instant <= window.before for window in windows)


def test_the_first_run_reads_all_of_retention_but_the_running_second() -> None:
    now = NOW.replace(microsecond=0)
    assert plan([], DEFAULT_SCHEDULE, NOW) == [Window(now - RETENTION, now - SECOND)]


def test_nothing_is_due_twice_at_the_same_instant() -> None:
    read: list[WindowRead] = []
    run(read, DEFAULT_SCHEDULE, NOW)
    assert run(read, DEFAULT_SCHEDULE, NOW) == []


def test_an_hourly_run_reads_the_new_hour_and_one_hour_at_each_age() -> None:
    read: list[WindowRead] = []
    run(read, DEFAULT_SCHEDULE, NOW)
    later = NOW + HOUR
    base = later.replace(microsecond=0)
    ages = (RETENTION - DAY, timedelta(days=3), timedelta(hours=26))
    expected = [Window(base - age - HOUR, base - age) for age in ages]
    new = Window(base - HOUR - timedelta(minutes=15), base - SECOND)
    assert run(read, DEFAULT_SCHEDULE, later) == [*expected, new]


def test_the_last_call_comes_earlier_when_runs_are_sparse() -> None:
    """Weekly runs: an attempt read at 16 days gets its last call at 23, not at an age of 29."""
    read: list[WindowRead] = []
    for week in range(6):
        windows = run(read, DEFAULT_SCHEDULE, NOW + week * timedelta(days=7))
    age = RETENTION - 2 * timedelta(days=7)
    last = NOW.replace(microsecond=0) + 5 * timedelta(days=7)
    assert covers(windows, last - age - SECOND)
    assert not covers(windows, last - age + DAY)


def test_an_hourly_year_reads_each_attempt_at_most_six_times() -> None:
    read: list[WindowRead] = []
    attempt = NOW + timedelta(minutes=17)
    reads = 0
    for hour in range(24 * 31):
        now = NOW + hour * HOUR
        recent = [r for r in read if r.window.before > now - RETENTION]
        reads += covers(plan(recent, DEFAULT_SCHEDULE, now), attempt)
        run(read, DEFAULT_SCHEDULE, now)
    assert 4 <= reads <= 6


@settings(max_examples=150)
@given(gaps=gaps, schedule=schedules, offset=st.integers(0, 30 * 86_400))
def test_after_every_run_every_age_has_been_served(
    gaps: list[timedelta], schedule: tuple[timedelta, ...], offset: int
) -> None:
    """Whatever the intervals: an attempt that has reached an age was read at or after it."""
    read: list[WindowRead] = []
    now = NOW
    for gap in gaps:
        now += gap
        windows = run(read, schedule, now)
        assert windows == sorted(windows)
        assert all(a.before < b.after for a, b in pairwise(windows))
        base = now.replace(microsecond=0)
        assert all(base - RETENTION <= w.after < w.before <= base - SECOND for w in windows)
        attempt = base - timedelta(seconds=offset)
        if not base - RETENTION < attempt <= base - SECOND:
            continue
        for age in (timedelta(), *schedule):
            if base - attempt >= age:
                reads = [r for r in read if r.window.after < attempt <= r.window.before]
                assert any(r.read_at - attempt >= age for r in reads), age


@settings(max_examples=150)
@given(gaps=gaps, offset=st.integers(0, 29 * 86_400 - 1))
def test_nothing_is_read_without_being_due(gaps: list[timedelta], offset: int) -> None:
    """Two runs at one instant: the second plans nothing, whatever came before.

    But for attempts in their last day: when runs have become more frequent, so that there is
    time for it, the last call of a sparse schedule is followed by a later one.
    """
    read: list[WindowRead] = []
    now = NOW
    for gap in gaps:
        now += gap
        run(read, DEFAULT_SCHEDULE, now)
        due = plan(read, DEFAULT_SCHEDULE, now)
        assert not covers(due, now.replace(microsecond=0) - timedelta(seconds=offset))


@given(
    days=st.lists(st.tuples(st.integers(0, 50), st.integers(1, 70)), max_size=5),
    length=st.integers(1, 30),
)
def test_slices_partition_the_windows(days: list[tuple[int, int]], length: int) -> None:
    windows = [Window(NOW + a * HOUR, NOW + (a + n) * HOUR) for a, n in days]
    pieces = list(slices(windows, length * HOUR))
    assert all(timedelta() < p.before - p.after <= length * HOUR for p in pieces)
    assert sum((p.before - p.after for p in pieces), timedelta()) == sum(
        (w.before - w.after for w in windows), timedelta()
    )
    assert all(any(w.after <= p.after and p.before <= w.before for w in windows) for p in pieces)
