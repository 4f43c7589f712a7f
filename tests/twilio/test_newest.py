"""The newest attempts of a window, whichever way the API lists them, and what they cost."""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.twilio.decode import Page, decode
from pipelines.twilio.filters import NO_FILTERS, Filters
from pipelines.twilio.newest import newest
from pipelines.twilio.query import format_instant
from tests.twilio.test_client import FILTERS, ours
from tests.worlds import NOW, World, as_columns

BOUNDS = [(None, None), (NOW - timedelta(days=9), NOW - timedelta(days=2)), (None, NOW)]


def check(
    world: World,
    limit: int,
    window: tuple[datetime | None, datetime | None] = (None, None),
    filters: Filters = NO_FILTERS,
    page_size: int = 1000,
) -> int:
    """Compares with the truth, sorted; attempts of one second count as equal. Returns the number
    of requests."""
    asked = len(world.sandbox.log)
    pages = newest(ours(world, page_size=page_size), *window, filters, limit)
    found = {row["sid"]: row for page in pages for row in page.attempts.to_pylist()}
    after, before = window
    wanted = {column: value for _, column, value in filters.columns()}
    if filters.status:
        wanted["conversion_status"] = filters.status
    expected = [
        row["date_created"]
        for row in map(as_columns, world.sandbox.truth())
        if (after is None or row["date_created"] >= after)
        and (before is None or row["date_created"] <= before)
        and all(str(row[name]).lower() == value.lower() for name, value in wanted.items())
    ]
    dates = sorted((row["date_created"] for row in found.values()), reverse=True)
    assert dates[:limit] == sorted(expected, reverse=True)[:limit]
    return len(world.sandbox.log) - asked


@pytest.mark.parametrize("oldest_first", [True, False])
@pytest.mark.parametrize("limit", [1, 3, 20, 777, 10**7])
def test_the_newest_whichever_way_they_are_listed(
    make_world: Any, oldest_first: bool, limit: int
) -> None:
    world = make_world(oldest_first=oldest_first, doubled=True)
    for window in BOUNDS:
        for page_size in (1000, 70):
            check(world, limit, window, page_size=page_size)


@pytest.mark.parametrize("name", FILTERS)
def test_the_newest_with_each_filter(make_world: Any, name: str) -> None:
    world = make_world(oldest_first=True, inclusive=False)
    filters = Filters(**FILTERS[name](world))
    for limit in (1, 10):
        check(world, limit, filters=filters, page_size=10)


class Listing:
    """Stands in for a client: lists these ages (in seconds, before NOW) in the order given."""

    def __init__(self, ages: list[int], page_size: int) -> None:
        self.rows = [
            {"sid": f"VL{number}", "date_created": format_instant(NOW - timedelta(seconds=age))}
            for number, age in enumerate(ages)
        ]
        self.page_size, self.requests = page_size, 0

    def clock(self) -> datetime:
        return NOW

    def read(self, after: Any, *_: Any, limit: Any = None, page_size: int = 1000) -> list[Page]:
        start = format_instant(after) if after else ""
        listed = [row for row in self.rows if row["date_created"] > start]
        size = min(self.page_size, page_size)
        wanted = min(len(listed), limit or len(listed))
        ends = range(size, wanted + size, size) or [size]
        self.requests += len(ends)
        return [
            decode(listed[e - size : e], NOW, "more" if e < len(listed) else None) for e in ends
        ]


bursts = st.lists(st.tuples(st.integers(0, 2_591_999), st.integers(1, 9)), min_size=1, max_size=12)


@given(bursts, st.integers(1, 30), st.integers(1, 12), st.sampled_from([-1, 1]))
def test_the_newest_of_bursts_in_either_order(
    bursts: list[tuple[int, int]], limit: int, page_size: int, order: int
) -> None:
    """Several attempts in one second can fill pages that do not show the API's order."""
    ages = [age for age, attempts in bursts for _ in range(attempts)]
    listing = Listing(sorted(ages, key=lambda age: order * age), page_size)
    pages = newest(listing, limit=limit)  # type: ignore[arg-type]
    found = {row["sid"]: row for page in pages for row in page.attempts.to_pylist()}
    dates = sorted((row["date_created"] for row in found.values()), reverse=True)
    assert dates[:limit] == [NOW - timedelta(seconds=age) for age in sorted(ages)[:limit]]
    assert listing.requests <= 26 * (1 + 2 * limit / page_size) + len(ages) / page_size + 1


@pytest.mark.parametrize(("limit", "requests"), [(1, 1), (20, 1), (1000, 1), (1001, 2)])
def test_newest_first_costs_what_its_pages_cost(world: World, limit: int, requests: int) -> None:
    assert check(world, limit) == requests


@pytest.mark.parametrize(("limit", "most"), [(1, 7), (20, 7), (1000, 60), (10**7, None)])
def test_oldest_first_costs_few_requests(make_world: Any, limit: int, most: int | None) -> None:
    """About 20,000 attempts, at 100 a page."""
    world = make_world(attempts=20_000, oldest_first=True)
    pages = math.ceil(len(world.sandbox.truth()) / 100)
    assert check(world, limit, page_size=100) <= (most or pages)
