"""Sizing: slices of limited size, few of them, few Summaries; and Summaries that fail."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from math import ceil
from typing import Any

import pytest

from pipelines.reading import sizing as sizing_module
from pipelines.reading.defaults import default_concurrency
from pipelines.reading.sizing import (
    LAST_PAGES,
    MOST_PAGES,
    USUAL_PAGES,
    Sizing,
    Slice,
    may_exceed_slice,
)
from pipelines.reading.windows import Window
from pipelines.sandbox.api import Refusal
from pipelines.sandbox.server import Request
from pipelines.twilio.client import HEAVY_TRIES
from pipelines.twilio.clock import Clock
from pipelines.twilio.filters import Filters
from pipelines.warehouse.ingest import connect
from tests.clocks import Time
from tests.worlds import NOW, PATIENT, World, due_windows

MakeWorld = Callable[..., World]


def pages_asked(world: World) -> list[Request]:
    return [r for r in world.sandbox.log if "PageSize" in r.parameters or "Page" in r.parameters]


def summaries(world: World) -> list[Request]:
    return [r for r in world.sandbox.log if r.path.endswith("/Summary")]


def slices_of(world: World, concurrency: int = 4) -> list[Slice]:
    client = connect(world.settings, Clock(world.now))
    client.attempts = 10**9  # as if all slices were read
    with client, Sizing(client, world.settings.filters, concurrency) as sizing:
        return list(sizing.cut(sizing.measured(due_windows(world))))


def without_summary(world: World, status: int) -> None:
    """Makes every Summary request fail with `status`."""
    answer = world.sandbox.answer

    def answering(path: str, *rest: object) -> str:
        if path.endswith("/Summary"):
            raise Refusal(status, 20_000 + status, "No summary today")
        return answer(path, *rest)  # type: ignore[arg-type]

    world.sandbox.answer = answering  # type: ignore[method-assign]


@pytest.mark.parametrize("concurrency", [1, pytest.param(4, marks=pytest.mark.long), 16])
@pytest.mark.parametrize(("attempts", "days"), [(400, 30), (4_000, 30), (4_000, 0.4)])
def test_slices_partition_the_window_and_none_is_too_large(
    make_world: MakeWorld, attempts: int, days: float, concurrency: int
) -> None:
    """Also for an account whose attempts are all in its last hours."""
    world = make_world(attempts=attempts, days=days)
    world.settings = replace(world.settings, page_size=8)
    (window,) = due_windows(world)
    found = slices_of(world, concurrency)
    assert (found[0].window.after, found[-1].window.before) == (window.after, window.before)
    assert all(a.window.before == b.window.after for a, b in pairwise(found))
    created = sorted(row["date_created"] for row in world.truth().values())
    for piece in found:
        held = sum(piece.window.after < at <= piece.window.before for at in created)
        assert ceil(held / 8) <= MOST_PAGES
    pages = len(created) / 8
    in_the_end = min(pages, concurrency * USUAL_PAGES)
    assert len(found) < 2 + (pages - in_the_end) / 8 + in_the_end / LAST_PAGES
    assert len(summaries(world)) < 2 + 2.5 * pages / 10
    counted = sum(piece.attempts or 0 for piece in found)
    assert len(created) <= counted <= len(created) + len(found)  # attempts on a bound count twice


@pytest.mark.parametrize("concurrency", [pytest.param(4, marks=pytest.mark.long), 16])
def test_the_last_slices_are_small_and_cost_no_summary(
    make_world: MakeWorld, concurrency: int
) -> None:
    """Otherwise one chain would still read when all others are done."""
    world = make_world(attempts=6_000)
    world.settings = replace(world.settings, page_size=8)
    found = slices_of(world, concurrency)
    assert max(piece.pages for piece in found[-concurrency:]) < 2 * LAST_PAGES
    assert len(summaries(world)) < 2.5 * 750 / USUAL_PAGES
    assert len(found) > concurrency + len(summaries(world))
    created = sorted(row["date_created"] for row in world.truth().values())
    left = len(created) / 8
    for piece in found:
        held = sum(piece.window.after < at <= piece.window.before for at in created)
        assert piece.pages <= ceil(1.5 * max(LAST_PAGES, left / concurrency))
        left -= held / 8


def test_one_summary_that_fails_leaves_the_others_their_slices(make_world: MakeWorld) -> None:
    world = make_world(attempts=4_000, days=0.4)
    world.settings = replace(world.settings, page_size=8)
    answer, asked = world.sandbox.answer, []

    def answering(path: str, *rest: Any) -> str:
        asked.append(path)
        if len(asked) == 3:  # an early part of the window, without attempts
            raise Refusal(404, 20404, "No summary today")
        return answer(path, *rest)

    world.sandbox.answer = answering  # type: ignore[method-assign]
    found = slices_of(world)
    created = sorted(row["date_created"] for row in world.truth().values())
    held = [sum(p.window.after < at <= p.window.before for at in created) for p in found]
    assert ceil(max(held) / 8) <= MOST_PAGES


def test_a_first_sync_spends_no_more_pages_than_rows_and_slices(make_world: MakeWorld) -> None:
    world = make_world(attempts=1_600)
    world.settings = replace(world.settings, page_size=8)
    client = connect(world.settings, Clock(world.now))
    with client, Sizing(client) as sizing:
        told = sizing.requests(sizing.measured(due_windows(world)))
    world.sandbox.log.clear()
    outcome = world.sync()
    assert told == pytest.approx(len(world.sandbox.log), rel=0.15)
    assert world.stored() == world.truth()
    assert outcome.slices > 15
    assert len(pages_asked(world)) <= ceil(outcome.attempts / 8) + outcome.slices
    reads = world.query("select max(pages) as pages from twilio_verify.windows_read")
    assert reads == [{"pages": MOST_PAGES}] or reads[0]["pages"] < MOST_PAGES


def test_a_small_account_needs_few_requests(make_world: MakeWorld) -> None:
    world = make_world(attempts=900)
    world.sync()
    assert len(world.sandbox.log) == 2  # the Summary and a page
    world.move(hours=1)
    world.sync()
    assert len(summaries(world)) == 1  # at the rate so far, an hour is less than a slice


def test_what_may_be_large_by_the_rate_so_far_is_asked_about(synced: World) -> None:
    synced.settings = replace(synced.settings, page_size=5)
    synced.move(days=3)
    synced.sync()
    assert len(summaries(synced)) > 3
    assert synced.truth().keys() <= synced.stored().keys()


@pytest.mark.parametrize(
    ("hours", "rate", "is_asked"),
    [
        (1, None, True),  # no rate is known yet
        (1, 0.0, True),
        (1, 0.001, False),
        (36, 0.001, False),
        (36.1, 0.001, True),  # a long window, whatever the rate
        # Four times the rate so far fills exactly one slice, and then more than one.
        (1, MOST_PAGES * 100 / 4 / 3600, False),
        (1, MOST_PAGES * 100 / 4 / 3600 * 1.001, True),
    ],
)
def test_what_is_asked_about(hours: float, rate: float | None, is_asked: bool) -> None:
    window = Window(NOW - timedelta(hours=hours), NOW)
    assert may_exceed_slice(window, rate, page_size=100) == is_asked


def test_every_window_is_counted_where_it_is_wanted(world: World) -> None:
    """The slices come in order, counted or not."""
    hours = [Window(NOW - timedelta(hours=n), NOW - timedelta(hours=n - 1)) for n in (3, 2)]
    client = connect(world.settings, Clock(world.now))
    with client, Sizing(client, rate=0.001) as sizing:
        assert not any(map(sizing.asks, hours))
        assert sizing.measured(hours) == [Slice(hour, None, MOST_PAGES) for hour in hours]
        assert summaries(world) == []
        counted = sizing.measured(hours, every=True)
    assert [piece.window for piece in counted] == hours
    assert all(piece.attempts is not None and piece.pages == 1 for piece in counted)
    assert len(summaries(world)) == 2


@pytest.mark.parametrize(("pages", "asked"), [(MOST_PAGES, 0), (MOST_PAGES + 1, 2)])
def test_only_what_does_not_fit_a_slice_is_asked_about_again(
    world: World, pages: int, asked: int
) -> None:
    (window,) = due_windows(world)
    client = connect(world.settings, Clock(world.now))
    with client, Sizing(client, concurrency=1) as sizing:
        found = list(sizing.cut([Slice(window, pages * client.page_size, pages)]))
    assert (found[0].window.after, found[-1].window.before) == (window.after, window.before)
    assert len(summaries(world)) == asked


def test_filters_that_the_summary_lacks_are_not_asked_about(world: World) -> None:
    to = next(row["channel_data__to"] for row in world.truth().values() if row["channel"] == "sms")
    world.settings = replace(world.settings, filters=Filters.of({"to": to}))
    world.sync()
    assert summaries(world) == []
    assert {row["channel_data__to"] for row in world.stored().values()} == {to}


@pytest.mark.parametrize("status", [404, 500])
def test_a_summary_that_fails_stops_nothing(
    make_world: MakeWorld, waits: Time, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    world = make_world()
    without_summary(world, status)
    with caplog.at_level("INFO", logger="verify_sync"):
        outcome = world.sync()
    goes_on = [m for m in caplog.messages if m.startswith("no count from Twilio, reading without")]
    assert all(f"it: Twilio answered {status}" in message for message in goes_on)
    # One for everything due and one for its first day, then no more.
    assert len(goes_on) == 2
    assert len(summaries(world)) == 2 * (HEAVY_TRIES if status == 500 else 1)
    assert outcome.slices == 30
    assert world.stored() == world.truth()


@pytest.mark.parametrize(
    "parameter", ["DateCreatedAfter", pytest.param("DateCreatedBefore", marks=pytest.mark.long)]
)
def test_counts_that_make_no_sense_are_not_asked_for_ever(
    make_world: MakeWorld, caplog: pytest.LogCaptureFixture, parameter: str
) -> None:
    """A Summary that ignores a date counts the same in every part of a window."""
    world = make_world(attempts=500)
    answer = world.sandbox.answer

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        given = {**parameters}
        if path.endswith("/Summary"):
            given.pop(parameter)
        return answer(path, given, *rest)

    world.sandbox.answer = answering  # type: ignore[method-assign]
    world.settings = replace(world.settings, page_size=12)
    with caplog.at_level("INFO", logger="verify_sync"):
        world.sync()
    assert "Twilio's counts make no sense: reading without them" in caplog.messages
    assert len(summaries(world)) < 10
    assert world.stored() == world.truth()


@pytest.mark.parametrize(
    "lie",
    [
        "ignores its dates",
        "counts a thousand times",
        pytest.param("says anything", marks=pytest.mark.long),
    ],
)
def test_no_count_makes_a_plan_cost_more_than_without_counts(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, lie: str
) -> None:
    monkeypatch.setattr(sizing_module, "USUAL_PAGES", 3)
    monkeypatch.setattr(sizing_module, "MOST_PAGES", 4)
    world = make_world(attempts=500)
    world.settings = replace(world.settings, page_size=12)
    answer = world.sandbox.answer

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        if not path.endswith("/Summary"):
            return answer(path, parameters, *rest)
        if lie == "ignores its dates":
            return answer(path, {}, *rest)
        many = 10**7 if lie == "says anything" else 1000
        body = json.loads(answer(path, parameters, *rest))
        body["total_attempts"] = body["total_attempts"] * 1000 if many == 1000 else many
        return json.dumps(body)

    world.sandbox.answer = answering  # type: ignore[method-assign]
    world.sync()
    assert world.stored() == world.truth()
    pages = 500 / 12 + 31  # of a plan without counts: a last page for each day
    assert len(pages_asked(world)) + len(summaries(world)) < 2 * pages + 20


def test_a_summary_too_large_to_be_answered_is_asked_by_day(
    make_world: MakeWorld, waits: Time
) -> None:
    world = make_world(attempts=1_200)
    world.settings = replace(world.settings, page_size=20)
    answer = world.sandbox.answer

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        days = [parameters.get(f"DateCreated{name}", "")[8:10] for name in ("After", "Before")]
        if path.endswith("/Summary") and int(days[1]) - int(days[0]) not in (0, 1, -29, -30):
            raise Refusal(504, 20504, "Timeout")
        return answer(path, parameters, *rest)

    world.sandbox.answer = answering  # type: ignore[method-assign]
    outcome = world.sync()
    assert outcome.slices > 20
    assert world.stored() == world.truth()
    (read,) = world.query("select max(pages) as pages from twilio_verify.windows_read")
    assert read["pages"] <= MOST_PAGES


@pytest.mark.parametrize(
    "total", ["null", *(pytest.param(n, marks=pytest.mark.long) for n in ("-5", "1e308"))]
)
def test_totals_that_are_none(make_world: MakeWorld, waits: Time, total: str) -> None:
    world, seen = make_world(attempts=500), []
    answer = world.sandbox.answer

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        text = answer(path, parameters, *rest)
        if path.endswith("/Summary"):
            seen.append(path)
            return re.sub(r'"total_attempts": \d+', f'"total_attempts": {total}', text)
        return text

    world.sandbox.answer = answering  # type: ignore[method-assign]
    world.settings = replace(world.settings, give_up_after=timedelta(seconds=1))
    world.sync()
    assert seen
    assert world.stored() == world.truth()


def test_the_default_concurrency_keeps_up_with_the_limit() -> None:
    assert [default_concurrency(n) for n in (1, 100, 101, 300, 100_000)] == [4, 4, 5, 12, 16]


def test_what_it_takes_to_read_slices(world: World) -> None:
    """One request for an uncounted slice, else one per page, and Summaries to cut a large slice."""
    (window,) = due_windows(world)
    uncounted = Slice(window, None, MOST_PAGES)
    small, whole = Slice(window, 7, 1), Slice(window, 100, MOST_PAGES)
    large = Slice(window, 200, 2 * USUAL_PAGES)
    client = connect(world.settings, Clock(world.now))
    with client, Sizing(client, concurrency=4) as sizing:
        assert sizing.requests([]) == 0
        assert sizing.requests([uncounted, small, whole]) == 1 + 1 + MOST_PAGES
        assert sizing.requests([large, small]) == 2 * USUAL_PAGES + 3 + 4 + 1


def test_a_signal_is_heeded_that_has_woken_nobody(world: World) -> None:
    """Such a signal comes just before Python starts to wait, or goes to another thread."""
    heard, answer, waited = threading.Event(), world.sandbox.answer, []

    def answering(path: str, *rest: object) -> str:
        if not waited:
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            waited.append(heard.wait(PATIENT))
        return answer(path, *rest)  # type: ignore[arg-type]

    world.sandbox.answer = answering  # type: ignore[method-assign]
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())
    try:
        assert slices_of(world)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert waited == [True]


def test_a_page_size_that_is_refused_makes_no_count_doubtful(make_world: MakeWorld) -> None:
    """The slices were cut for larger pages, and nothing of them is read yet."""
    world = make_world(attempts=1_000)
    world.settings = replace(world.settings, page_size=20)
    with connect(world.settings, Clock(world.now)) as client, Sizing(client) as sizing:
        measured = sizing.measured(due_windows(world))
        client.page_size = 2
        assert all(piece.attempts is not None for piece in sizing.cut(measured))
