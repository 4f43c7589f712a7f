"""Months of syncs: every attempt ends final, and the README says what that costs beside others."""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pytest

from pipelines.windows import DEFAULT_SCHEDULE, SETTLED_AFTER, WindowsRead, plan
from tests.conftest import REPOSITORY
from tests.quarter import LOOKBACKS, SCHEDULES, Planned, Quarter, by_pipeline, latest, table
from tests.quarter import looked_back as look_back


@pytest.fixture(scope="module")
def quarter() -> Quarter:
    return Quarter()


def test_the_table_in_the_readme_is_the_real_one() -> None:
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
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


@pytest.mark.parametrize(("syncs", "days"), [("daily", 30), ("weekly", 210)])
def test_thirty_real_syncs_do_what_was_planned(tmp_path: Path, syncs: str, days: int) -> None:
    """Requests and rows to the last one, and not an attempt wrong in any field; each whole day that
    some sync found older than three days is told to be settled, and no other."""
    times = SCHEDULES[syncs](days)
    assert len(times) == 30
    real = by_pipeline(tmp_path / "warehouse", times, days)
    assert real == Planned(Quarter(days)).run(times)
    assert real.wrong == 0
    with duckdb.connect(str(tmp_path / "warehouse" / "verify.duckdb"), read_only=True) as database:
        told = database.execute("select created_date, is_settled from coverage").fetchall()
    newest = (times[-1] - SETTLED_AFTER).date()  # of which only a part is
    first = min(day for day, _ in told)  # read from its second second on
    assert {day for day, settled in told if settled} == {d for d, _ in told if first < d < newest}
    assert len(told) > days


@pytest.mark.parametrize("syncs", ["hourly", "irregular"])
def test_fewer_windows_are_the_same_progress(quarter: Quarter, syncs: str) -> None:
    """What lets the dense schedules be played out in seconds changes no plan."""
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
