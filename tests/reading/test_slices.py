"""Readers: never more than configured, never too far ahead, and complete slices are not lost."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import Failure
from pipelines.reading import slices
from pipelines.reading.package import SliceRead, latest
from pipelines.reading.sizing import Sizing, Slice
from pipelines.reading.slices import batches
from pipelines.reading.windows import Window, cut
from pipelines.sandbox.api import Refusal
from pipelines.twilio import pacing
from pipelines.twilio.clock import Clock
from pipelines.twilio.columns import ATTEMPTS
from pipelines.twilio.limits import SECOND
from pipelines.warehouse.ingest import connect
from tests.clocks import Time, wait_until
from tests.worlds import NOW, World, due_windows, read_windows

MakeWorld = Callable[..., World]


Chains = list[slices._Chain]


@pytest.fixture
def chains(monkeypatch: pytest.MonkeyPatch) -> Chains:
    """Every slice that the readers have been given so far."""
    found: Chains = []

    class Watched(slices._Chain):
        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            found.append(self)

    monkeypatch.setattr(slices, "_Chain", Watched)
    return found


def complete(chains: Chains) -> int:
    return sum(chain.read.done() for chain in chains)


def slices_of(world: World) -> list[Slice]:
    """Thirty slices of about a page each."""
    return [Slice(window, None, 1) for window in cut(due_windows(world)[0], 30)]


@pytest.mark.parametrize("concurrency", [1, 3, 4])
def test_so_many_slices_are_read_at_a_time(make_world: MakeWorld, concurrency: int) -> None:
    world = make_world(attempts=3_000)
    readers, together = set[int](), threading.Event()
    client = connect(world.settings, Clock(world.now))
    read, arrived = client.read, itertools.count(1)

    def reading_here(*given: Any, **named: Any) -> Any:
        readers.add(threading.get_ident())
        return read(*given, **named)

    def answering(_: str | None) -> None:
        if next(arrived) == concurrency:
            together.set()
        together.wait()

    client.read = reading_here  # type: ignore[method-assign]
    world.sandbox.failure = answering  # type: ignore[method-assign]
    found = list(batches(client, slices_of(world), concurrency=concurrency))
    assert len(readers) == concurrency
    assert sum(len(group) for group in found) == 30


def test_readers_wait_for_what_is_not_loaded_yet(in_slices: World, chains: Chains) -> None:
    """However slow loading is, readers hold no more than a package and one slice per chain."""
    world, loaded, most = in_slices, 0, 0
    world.settings = replace(world.settings, page_size=40)
    client = connect(world.settings, Clock(world.now))
    with Sizing(client) as sizing:
        pieces = sizing.measured(due_windows(world))
        for group in batches(client, sizing.cut(pieces)):
            wait_until(lambda: complete(chains) == len(chains))
            most = max(most, asked(world) - loaded)
            loaded += sum(read.pages for read in group)
    assert loaded > 25
    assert 4 < most <= 4 + 4 + 1  # a slice may turn out to have a page more than counted


def asked(world: World) -> int:
    return sum(request.path.endswith("/Attempts") for request in world.sandbox.log)


def test_a_slow_slice_holds_nothing_back(in_slices: World) -> None:
    """The oldest slice is answered only after 24 others are loaded, three times what may wait."""
    world, answer = in_slices, in_slices.sandbox.answer
    pieces, others_loaded = slices_of(world), threading.Event()

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        if parameters["DateCreatedAfter"] < f"{pieces[0].window.after:%FT%TZ}":
            others_loaded.wait()
        return answer(path, parameters, *rest)

    world.sandbox.answer = answering  # type: ignore[method-assign]
    client, found = connect(world.settings, Clock(world.now)), []
    for group in batches(client, pieces):
        found += [read.window for read in group]
        if len(found) >= 24 and not others_loaded.is_set():
            assert pieces[0].window not in found
            others_loaded.set()
    assert sorted(found) == [piece.window for piece in pieces]


def test_what_fits_a_package_is_one(make_world: MakeWorld, chains: Chains) -> None:
    """Complete pages wait for the last slice: each load scans all stored keys."""
    world = make_world(attempts=2_400)
    world.settings = replace(world.settings, page_size=60)
    client, answer = connect(world.settings, Clock(world.now)), world.sandbox.answer
    last = slices_of(world)[-1]

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        if parameters.get("DateCreatedBefore", "") > f"{last.window.before:%FT%TZ}":
            wait_until(lambda: complete(chains) == 29)
        return answer(path, parameters, *rest)

    world.sandbox.answer = answering  # type: ignore[method-assign]
    (group,) = batches(client, slices_of(world))
    assert sum(read.pages for read in group) - 3 > slices.MOST_PAGES


def test_what_is_complete_is_loaded_while_the_limit_makes_others_wait(
    in_slices: World, time: Time
) -> None:
    """If the run is killed while it waits, less has to be read again."""
    time.rule(pacing)
    settings = replace(in_slices.settings, requests_per_minute=3)
    with connect(settings, Clock(in_slices.now)) as client:
        first = next(batches(client, slices_of(in_slices)))
        assert 1 <= len(first) <= 3
        assert client.seconds_for(1) == pytest.approx(pacing.WINDOW, abs=0.1)


def collected(groups: Iterable[list[SliceRead]], found: list[Window]) -> None:
    for group in groups:
        found += [read.window for read in group]


@pytest.mark.parametrize("end", [Failure("no answer"), KeyboardInterrupt()], ids=type)
def test_what_is_complete_comes_before_a_failure(
    world: World, chains: Chains, end: BaseException
) -> None:
    pieces = slices_of(world)[:20]

    def slices() -> Iterator[Slice]:
        yield from pieces
        wait_until(lambda: complete(chains) == len(pieces))
        raise end

    client = connect(world.settings, Clock(world.now))
    found: list[Window] = []
    with pytest.raises(type(end)):
        collected(batches(client, slices()), found)
    assert found == [piece.window for piece in pieces]


def test_slices_after_one_that_fails_are_kept(world: World, chains: Chains) -> None:
    pieces, answer = slices_of(world), world.sandbox.answer

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        if parameters["DateCreatedAfter"] < f"{pieces[0].window.after:%FT%TZ}":
            wait_until(lambda: complete(chains) >= 3)
            raise Refusal(400, 60200, "Invalid parameter")
        return answer(path, parameters, *rest)

    world.sandbox.answer = answering  # type: ignore[method-assign]
    client = connect(world.settings, Clock(world.now))
    found: list[Window] = []
    with pytest.raises(Failure, match="Invalid parameter"):
        collected(batches(client, pieces), found)
    assert len(found) >= 3
    assert pieces[0].window not in found


@pytest.mark.parametrize("inclusive", [True, False])
def test_what_lies_on_the_edges_of_a_slice_is_read(make_world: MakeWorld, inclusive: bool) -> None:
    """A slice includes its last second and excludes its first. The request is a second wider on
    each side, because the API may include or exclude its bounds."""
    world = make_world(attempts=300, inclusive=inclusive)
    truth = world.truth()
    created = sorted({row["date_created"] for row in truth.values()})
    window = Window(created[100], created[200])
    (read,) = read_windows(world, [window])
    inside = {s for s, row in truth.items() if window.after < row["date_created"] <= window.before}
    assert set(read.attempts["sid"].to_pylist()) == inside
    asked = world.sandbox.log[-1].parameters
    assert asked["DateCreatedAfter"] == f"{window.after - SECOND:%FT%TZ}"
    assert asked["DateCreatedBefore"] == f"{window.before + SECOND:%FT%TZ}"


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 5)), max_size=12),
)
def test_of_an_attempt_the_last_reading_stays(rows: list[tuple[str, int]]) -> None:
    table = pa.Table.from_pylist(
        [{"sid": sid, "read_at": NOW + timedelta(seconds=at)} for sid, at in rows], ATTEMPTS
    )
    found = latest(table)
    expected: dict[str, int] = {}
    for sid, at in rows:
        expected[sid] = max(at, expected.get(sid, 0))
    kept = zip(found["sid"].to_pylist(), found["read_at"].to_pylist(), strict=True)
    assert dict(kept) == {sid: NOW + timedelta(seconds=at) for sid, at in expected.items()}
    assert found.num_rows == len(expected)
