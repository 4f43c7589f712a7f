"""The planner, tested with simulated attempts under any sequence of runs.

A run happens at a true instant. Its clock may be wrong: up to a minute ahead (a run with a clock
further ahead refuses to go on), or behind by any amount. A run reads all that is planned, or fails
after a part of it. The API lists an attempt some time after its creation, until retention ends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from math import ceil

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.reading.defaults import DEFAULT_SCHEDULE
from pipelines.reading.windows import Window, WindowsRead, cut, lost, plan, remaining, unread
from pipelines.settings import Settings
from pipelines.twilio.filters import NO_FILTERS
from pipelines.twilio.limits import RETENTION, SECOND
from pipelines.warehouse.folder import Warehouse

NOW = datetime(2026, 3, 29, 1, 30, 15, 250_000, tzinfo=timezone.utc)
MANY = 2 * settings.default.max_examples
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
Schedule = tuple[timedelta, ...]
Reads = list[tuple[datetime, datetime, datetime]]


@dataclass(frozen=True)
class Run:
    """A run `after` the one before, by a clock that is `ahead`. It loads `complete` of its
    slices."""

    after: timedelta
    ahead: timedelta = timedelta()
    complete: float = 1.0


@dataclass
class Attempt:
    """The API does not list it for `delay`. `reads` are true instants. `seen` are ages at reads
    that found it."""

    created: datetime
    delay: timedelta
    reads: list[datetime] = field(default_factory=list)

    def seen(self) -> list[timedelta]:
        ages = [at - self.created for at in self.reads]
        return [age for age in ages if self.delay <= age < RETENTION]


@dataclass
class History:
    """The windows that runs have read, and the attempts that existed."""

    attempts: list[Attempt]
    schedule: Schedule = DEFAULT_SCHEDULE
    reads: Reads = field(default_factory=list)
    true: datetime = NOW
    now: datetime = NOW  # by the last run's clock
    windows: list[Window] = field(default_factory=list)  # the last run's plan

    def run(self, run: Run) -> None:
        self.true += run.after
        self.now = self.true + run.ahead
        self.windows = plan(WindowsRead.of(self.reads), self.schedule, self.now)
        pieces = [piece for window in self.windows for piece in cut(window, days(window))]
        for piece in pieces[: int(len(pieces) * run.complete)]:
            self.reads.append((piece.after, piece.before, self.now + timedelta(milliseconds=400)))
            for attempt in self.attempts:
                if piece.after < attempt.created <= min(piece.before, self.true):
                    attempt.reads.append(self.true)

    def reaches(self) -> datetime | None:
        return max((before for _, before, _ in self.reads), default=None)


def days(window: Window) -> int:
    return ceil((window.before - window.after) / DAY)


def covers(windows: list[Window], instant: datetime) -> bool:
    return any(window.after < instant <= window.before for window in windows)


def ages_read(reads: Reads, instant: datetime) -> list[timedelta]:
    """The ages, by the runs' clocks, at which an attempt created at `instant` was read."""
    return [at - instant for after, before, at in reads if after < instant <= before]


seconds = lambda low, high: st.integers(low, high).map(lambda s: timedelta(seconds=s))  # noqa: E731
intervals = seconds(60, 20 * 86_400) | seconds(60, 7_200) | st.sampled_from([5 * MINUTE, HOUR, DAY])
successes = st.builds(Run, intervals)
runs = st.builds(
    Run,
    intervals,
    ahead=st.just(timedelta()) | seconds(-60, 60) | seconds(-10 * 86_400, 0),
    complete=st.just(1.0) | st.floats(0, 1),
)
schedules = st.sets(st.integers(600, 28 * 86_400), min_size=1, max_size=5).map(
    lambda ages: tuple(timedelta(seconds=age) for age in sorted(ages))
)
# Created during the runs or in the 30 days before. Listed within eight minutes: plus a minute of
# error for each of two clocks, still less than the shortest age.
attempts = st.lists(
    st.builds(
        Attempt,
        created=seconds(-30 * 86_400, 60 * 86_400).map(
            lambda age: NOW.replace(microsecond=0) + age
        ),
        delay=seconds(0, 480),
    ),
    min_size=10,
    max_size=20,
)


def test_the_first_run_reads_all_of_retention_but_the_running_second() -> None:
    now = NOW.replace(microsecond=0)
    assert plan(WindowsRead.of(()), DEFAULT_SCHEDULE, NOW) == [
        Window(now - RETENTION, now - SECOND)
    ]


def test_an_hourly_run_reads_the_new_hour_and_one_hour_at_each_age() -> None:
    history = History([])
    history.run(Run(timedelta()))
    history.run(Run(HOUR))
    base = history.now.replace(microsecond=0)
    ages = (RETENTION - DAY, timedelta(days=3), timedelta(hours=26))
    expected = [Window(base - age - HOUR, base - age) for age in ages]
    new = Window(base - HOUR - timedelta(minutes=15), base - SECOND)
    assert history.windows == [*expected, new]


def test_the_last_call_comes_earlier_when_runs_are_sparse() -> None:
    """Weekly runs: an attempt read at 16 days gets its last call at 23, not at an age of 29."""
    history = History([])
    for _ in range(6):
        history.run(Run(7 * DAY))
    base = history.now.replace(microsecond=0)
    assert covers(history.windows, base - 16 * DAY - SECOND)
    assert not covers(history.windows, base - 16 * DAY + DAY)
    assert not covers(history.windows, base - 23 * DAY - SECOND)


@pytest.mark.parametrize(
    ("interval", "reads", "oldest"),
    [
        pytest.param(HOUR, {4, 5}, 29 * DAY, marks=pytest.mark.long),
        (DAY, {4}, 28 * DAY),
        (7 * DAY, {2, 3}, 16 * DAY),
    ],
)
def test_regular_runs_read_each_attempt_up_to_five_times(
    interval: timedelta, reads: set[int], oldest: timedelta
) -> None:
    history = History([Attempt(NOW + 247 * MINUTE * n, timedelta()) for n in range(40)])
    while history.true < NOW + 37 * DAY:
        history.run(Run(interval))
        history.reads = [read for read in history.reads if read[1] > history.now - RETENTION]
    assert {len(attempt.reads) for attempt in history.attempts} == reads
    assert all(max(attempt.seen()) >= oldest for attempt in history.attempts)


@settings(max_examples=MANY)
@given(found=attempts, schedule=schedules, sequence=st.lists(runs, min_size=1, max_size=15))
def test_every_attempt_is_read_at_every_age_whatever_happens(
    found: list[Attempt], schedule: Schedule, sequence: list[Run]
) -> None:
    """Whatever the intervals, failures and clocks: after a successful run, each attempt has been
    seen at or after every age that it has reached within retention, by the run's clock."""
    history = History(found, schedule)
    for run in sequence:
        history.run(run)
        windows, base = history.windows, history.now.replace(microsecond=0)
        assert all(a.before < b.after for a, b in pairwise(windows))
        assert all(base - RETENTION <= w.after < w.before <= base - SECOND for w in windows)
        if run.complete < 1:
            continue
        for attempt in found:
            age = history.now - attempt.created
            if not timedelta(minutes=2) < age <= history.true - attempt.created < RETENTION:
                continue  # not listed yet, forgotten, or at the edge because the clock is ahead
            for reached in (a for a in schedule if a <= age):
                by_clock = ages_read(history.reads, attempt.created)
                assert any(read >= reached for read in by_clock), reached
                assert any(read >= reached - MINUTE for read in attempt.seen()), reached


@settings(max_examples=MANY)
@given(found=attempts, schedule=schedules, sequence=st.lists(successes, min_size=2, max_size=15))
def test_every_attempt_gets_its_last_call(
    found: list[Attempt], schedule: Schedule, sequence: list[Run]
) -> None:
    """The last call comes in the last day, or in the last two intervals if they are longer. Before
    the last day, a read in the later half from the oldest revisit to the end of retention is
    enough."""
    history, retention = History(found, schedule), RETENTION
    late = (schedule[-1] + retention) / 2
    for run in sequence:
        reach = history.reaches()
        history.run(run)
        interval = run.after if reach else timedelta()
        early = max(min(retention - 2 * interval, retention - DAY), timedelta())
        for attempt in found:
            age = history.now.replace(microsecond=0) - attempt.created
            if SECOND <= age < retention:
                oldest = max(attempt.reads) - attempt.created
                assert age < early or oldest >= min(early, late)
                assert age < retention - DAY or oldest >= early


@settings(max_examples=MANY)
@given(found=attempts, schedule=schedules, sequence=st.lists(runs, min_size=1, max_size=20))
def test_no_attempt_is_read_more_often_than_its_ages_and_two(
    found: list[Attempt], schedule: Schedule, sequence: list[Run]
) -> None:
    """At most one read when new, one per age, one last call, two more, and one per failed run."""
    history, failed = History(found, schedule), 0
    for run in sequence:
        history.run(run)
        failed += run.complete < 1
    for attempt in found:
        assert len(attempt.reads) <= 1 + len(schedule) + 1 + 2 + failed


@pytest.mark.parametrize(
    ("days", "seen"),
    [
        ((3.1, 12.1, 18.1, 22.1, 24.8, 26.6, 27.8, 28.6, 29.1, 29.5), [3.1, 12.1, 18.1, 29.1]),
        # 16.1 is in the last two intervals, but not in the later half of the days from 3 to 30
        ((3.1, 9.1, 16.1, 22.1, 25.3, 27.2, 28.4, 29.1, 29.5), [3.1, 16.1, 22.1, 29.1]),
    ],
)
def test_intervals_that_keep_shrinking_do_not_force_a_last_call_each(
    days: tuple[float, ...], seen: list[float]
) -> None:
    """For each run here the attempt is in its last two intervals. One early last call is enough."""
    history, age = History([Attempt(NOW, timedelta())]), 0.0
    for then in days:
        history.run(Run(timedelta(days=then - age)))
        age = then
    assert [round(age / DAY, 1) for age in history.attempts[0].seen()] == seen


@given(schedule=schedules, sequence=st.lists(successes, min_size=1, max_size=12))
def test_at_one_instant_nothing_is_due_twice(schedule: Schedule, sequence: list[Run]) -> None:
    """Except in an attempt's last day: if runs have become more frequent, an early last call is
    followed by a later one."""
    history = History([], schedule)
    for run in sequence:
        history.run(run)
        again = plan(WindowsRead.of(history.reads), schedule, history.now)
        assert all(window.before <= history.now - RETENTION + DAY for window in again)
        history.run(Run(timedelta()))
        assert plan(WindowsRead.of(history.reads), schedule, history.now) == []


@given(
    sequence=st.lists(st.tuples(runs, schedules), min_size=1, max_size=12),
    found=attempts,
)
def test_a_changed_schedule_holds_from_the_next_run_on(
    sequence: list[tuple[Run, Schedule]], found: list[Attempt]
) -> None:
    history = History(found)
    for run, schedule in sequence:
        history.schedule = schedule
        history.run(run)
        for attempt in found:
            age = history.now - attempt.created
            alive = timedelta(minutes=2) < age <= history.true - attempt.created < RETENTION
            if alive and run.complete == 1:
                by_clock = ages_read(history.reads, attempt.created)
                assert all(any(r >= a for r in by_clock) for a in schedule if a <= age)


@given(
    sequence=st.lists(runs, min_size=2, max_size=12),
    kept=st.integers(0, 12),
    offsets=st.lists(st.integers(2, 30 * 86_400 - 1), min_size=30, max_size=30),
)
def test_an_older_copy_makes_just_what_it_lost_due_again(
    sequence: list[Run], kept: int, offsets: list[int]
) -> None:
    history, older = History([]), []
    for number, run in enumerate(sequence):
        history.run(run)
        older = list(history.reads) if number < kept else older
    now = history.now.replace(microsecond=0) + MINUTE
    full, partial = WindowsRead.of(history.reads), WindowsRead.of(older)
    now_due, then_due = plan(full, DEFAULT_SCHEDULE, now), plan(partial, DEFAULT_SCHEDULE, now)
    for offset in offsets:
        instant = now - timedelta(seconds=offset)
        left = max(ages_read(older, instant), default=timedelta(-1))
        once = max(ages_read(history.reads, instant), default=timedelta(-1))
        ages = (timedelta(), *DEFAULT_SCHEDULE)
        undone = [a for a in ages if left < a <= min(once, now - instant)]
        if undone and instant < now - SECOND:
            assert covers(then_due, instant)
        if covers(then_due, instant) and not covers(now_due, instant):
            # Otherwise it is an early last call: without the lost runs, the interval is longer.
            reach = max((before for _, before, _ in older), default=now)
            assert left < once or now - instant >= RETENTION - max(DAY, 2 * (now - reach))


def test_where_nothing_was_read_nothing_is_missing_yet() -> None:
    nothing = WindowsRead.of(())
    assert (unread(nothing, NOW), lost(nothing, timedelta(), NOW)) == ([], [])


def test_what_no_window_holds_between_two_is_unread() -> None:
    base = NOW.replace(microsecond=0)
    ends = (base - 5 * DAY, base - 4 * DAY), (base - 3 * DAY, base - SECOND)
    read = WindowsRead.of([(after, before, NOW) for after, before in ends])
    assert unread(read, NOW) == [Window(base - 4 * DAY, base - 3 * DAY)]


@given(
    sequence=st.lists(runs, min_size=1, max_size=12)
    | st.lists(st.builds(Run, seconds(86_400, 50 * 86_400)), min_size=2, max_size=5),
    pause=seconds(60, 50 * 86_400),
)
def test_losses_are_what_left_retention_unread(sequence: list[Run], pause: timedelta) -> None:
    """Checks every instant at which anything changes, and the seconds before and after it."""
    history = History([])
    for run in sequence:
        history.run(run)
    read, now = WindowsRead.of(history.reads), history.now.replace(microsecond=0) + pause
    if not history.reads:
        assert (unread(read, now), lost(read, timedelta(), now)) == ([], [])
        return
    newest = max(at for _, _, at in history.reads).replace(microsecond=0)
    first = min(after for after, _, _ in history.reads)
    ages = (timedelta(), *DEFAULT_SCHEDULE, RETENTION)
    edges = {now, now - RETENTION, newest - RETENTION}
    for after, before, at in history.reads:
        edges |= {after, before, *(at.replace(microsecond=0) - age for age in ages)}
    for instant in sorted(edge + n * SECOND for edge in edges for n in (-1, 0, 1)):
        ages = ages_read(history.reads, instant)
        here = max(first, now - RETENTION) < instant <= now - SECOND
        assert covers(unread(read, now), instant) == (here and not ages)
        gone = max(first, newest - RETENTION) < instant <= now - RETENTION
        for age in (timedelta(), *DEFAULT_SCHEDULE):
            served = any(a.total_seconds() // 1 >= age.total_seconds() for a in ages)
            assert covers(lost(read, age, now), instant) == (gone and not served)


@given(
    windows=st.lists(
        st.tuples(
            st.integers(-45 * 86_400, 0), st.integers(1, 3 * 86_400),
            st.sampled_from(["load", "failed", "lost"]), st.booleans(), st.booleans(),
        ),
        max_size=20,
    )
)  # fmt: skip
def test_a_window_counts_if_its_package_is_complete_and_its_filters_are_these(
    tmp_path_factory: pytest.TempPathFactory, windows: list[tuple[int, int, str, bool, bool]]
) -> None:
    """The real query: other filters, other accounts and incomplete packages do not count."""
    warehouse = Warehouse(Settings(tmp_path_factory.mktemp("w")))
    now, expected = NOW.replace(microsecond=0), []
    with duckdb.connect(str(warehouse.loading)) as connection:
        connection.execute(
            "create schema twilio_verify; use twilio_verify;"
            "create table _dlt_loads (load_id text, status int);"
            "insert into _dlt_loads values ('load', 0), ('failed', 1);"
            "create table windows_read (account_sid text, filters_hash text,"
            " created_after timestamptz, created_before timestamptz, read_at timestamptz,"
            " _dlt_load_id text)"
        )
        for start, length, load, ours, same in windows:
            after = now + timedelta(seconds=start)
            row = (after, after + timedelta(seconds=length), now)
            names = ("AC1" if ours else "AC2", NO_FILTERS.hash if same else "other")
            connection.execute(
                "insert into windows_read values (?, ?, ?, ?, ?, ?)", [*names, *row, load]
            )
            if ours and same and load == "load" and row[1] > now - RETENTION:
                expected.append(row)
    found, wanted = warehouse.contents.windows_read("AC1", now), WindowsRead.of(expected)
    assert sorted(zip(*found, strict=True)) == sorted(zip(*wanted, strict=True))


@given(seconds=st.integers(1, 5_000), parts=st.integers(1, 100))
def test_parts_of_a_window_are_of_one_length_and_leave_nothing_out(
    seconds: int, parts: int
) -> None:
    start = NOW.replace(microsecond=0)
    window = Window(start, start + timedelta(seconds=seconds))
    pieces = cut(window, parts)
    assert len(pieces) == min(parts, seconds)
    assert (pieces[0].after, pieces[-1].before) == (window.after, window.before)
    assert all(one.before == other.after for one, other in pairwise(pieces))
    lengths = {(piece.before - piece.after) // SECOND for piece in pieces}
    assert max(lengths) - min(lengths) <= 1
    assert min(lengths) >= 1


@given(
    reads=st.lists(st.tuples(st.integers(-20, 60), st.integers(1, 30), st.integers(-5, 5))),
    length=st.integers(1, 50),
)
def test_what_remains_is_just_what_was_not_read_since(
    reads: list[tuple[int, int, int]], length: int
) -> None:
    start = NOW.replace(microsecond=0)
    since = start + timedelta(days=2)
    rows = [
        (start + after * SECOND, start + (after + n) * SECOND, since + late * SECOND)
        for after, n, late in reads
    ]
    window = Window(start, start + length * SECOND)
    left = remaining(WindowsRead.of(rows), window, since)
    for second in range(1, length + 1):
        created = start + second * SECOND
        was_read = any(after < created <= before and at >= since for after, before, at in rows)
        assert covers(left, created) is not was_read
    assert all(window.after <= w.after < w.before <= window.before for w in left)
