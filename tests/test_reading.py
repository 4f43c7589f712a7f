"""Readers: as many at a time as told, never too far ahead, and what is complete is not lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import reading
from pipelines.clock import Clock
from pipelines.decode import SCHEMA
from pipelines.errors import Failure
from pipelines.reading import SliceRead, latest, packages
from pipelines.sandbox.api import Refusal
from pipelines.sizing import Sizing, Slice
from pipelines.sync import connect
from pipelines.windows import Window, cut
from tests.conftest import NOW, World, due_windows

MakeWorld = Callable[..., World]


def slices_of(world: World) -> list[Slice]:
    """Thirty of them, of about a page."""
    return [Slice(window, None, 1) for window in cut(due_windows(world)[0], 30)]


@pytest.mark.parametrize("concurrency", [1, 3, 4])
def test_so_many_slices_are_read_at_a_time(make_world: MakeWorld, concurrency: int) -> None:
    world = make_world(attempts=3_000)
    now, most, lock = 0, 0, threading.Lock()

    def slow(kind: str | None) -> None:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.03)
        with lock:
            now -= 1

    world.sandbox.failure = slow  # type: ignore[method-assign]
    client = connect(world.settings, Clock(world.now))
    found = list(packages(client, slices_of(world), concurrency=concurrency))
    assert most == concurrency
    assert sum(len(group) for group in found) == 30


def test_readers_wait_for_what_is_not_loaded_yet(in_slices: World) -> None:
    """However slow loading is: no more than a package's pages and a slice's for each chain."""
    world, loaded, most = in_slices, 0, 0
    client = connect(world.settings, Clock(world.now))
    with Sizing(client) as sizing:
        pieces = sizing.measured(due_windows(world))
        for group in packages(client, sizing.cut(pieces)):
            time.sleep(0.2)
            asked = [r for r in world.sandbox.log if r.path.endswith("/Attempts")]
            most = max(most, len(asked) - loaded)
            loaded += sum(read.pages for read in group)
    assert loaded > 25
    assert 4 < most <= 4 + 4 + 1  # a slice may turn out to have a page more than counted


def test_a_slow_slice_holds_nothing_back(in_slices: World) -> None:
    """The oldest one is answered only when others are loaded, three times what may wait."""
    world, answer = in_slices, in_slices.sandbox.answer
    pieces, others_loaded = slices_of(world), threading.Event()

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        if parameters["DateCreatedAfter"] < f"{pieces[0].window.after:%FT%TZ}":
            others_loaded.wait(20)
        return answer(path, parameters, *rest)

    world.sandbox.answer = answering  # type: ignore[method-assign]
    client, found = connect(world.settings, Clock(world.now)), []
    for group in packages(client, pieces):
        found += [read.window for read in group]
        if len(found) >= 24 and not others_loaded.is_set():
            assert pieces[0].window not in found
            others_loaded.set()
    assert sorted(found) == [piece.window for piece in pieces]


def test_what_fits_a_package_is_one(make_world: MakeWorld) -> None:
    """However many pages of it are complete before the last: a load scans all that is stored."""
    world = make_world(attempts=2_400)
    world.settings = replace(world.settings, page_size=60)
    client, answer = connect(world.settings, Clock(world.now)), world.sandbox.answer
    last = slices_of(world)[-1]

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        if parameters.get("DateCreatedBefore", "") > f"{last.window.before:%FT%TZ}":
            time.sleep(1)
        return answer(path, parameters, *rest)

    world.sandbox.answer = answering  # type: ignore[method-assign]
    (group,) = packages(client, slices_of(world))
    assert sum(read.pages for read in group) - 3 > reading.MOST_PAGES


def test_what_is_complete_is_loaded_while_the_limit_makes_others_wait(in_slices: World) -> None:
    """So much less is read again, should it be killed meanwhile."""
    settings = replace(in_slices.settings, requests_per_minute=3)
    with connect(settings, Clock(in_slices.now)) as client:
        first = next(packages(client, slices_of(in_slices)))
        assert 1 <= len(first) <= 3
        assert client.seconds_for(1) > 30


def collected(groups: Iterable[list[SliceRead]], found: list[Window]) -> None:
    for group in groups:
        found += [read.window for read in group]


@pytest.mark.parametrize("end", [Failure("no answer"), KeyboardInterrupt()], ids=type)
def test_what_is_complete_comes_before_a_failure(world: World, end: BaseException) -> None:
    pieces = slices_of(world)[:20]

    def slices() -> Iterator[Slice]:
        yield from pieces
        time.sleep(1)  # until they are read
        raise end

    client = connect(world.settings, Clock(world.now))
    found: list[Window] = []
    with pytest.raises(type(end)):
        collected(packages(client, slices()), found)
    assert found == [piece.window for piece in pieces]


def test_slices_after_one_that_fails_are_kept(world: World) -> None:
    pieces, answer = slices_of(world), world.sandbox.answer

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        if parameters["DateCreatedAfter"] < f"{pieces[0].window.after:%FT%TZ}":
            time.sleep(0.5)  # others are answered first
            raise Refusal(400, 60200, "Invalid parameter")
        return answer(path, parameters, *rest)

    world.sandbox.answer = answering  # type: ignore[method-assign]
    client = connect(world.settings, Clock(world.now))
    found: list[Window] = []
    with pytest.raises(Failure, match="Invalid parameter"):
        collected(packages(client, pieces), found)
    assert len(found) >= 3
    assert pieces[0].window not in found


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 5)), max_size=12),
)
def test_of_an_attempt_the_last_reading_stays(rows: list[tuple[str, int]]) -> None:
    table = pa.Table.from_pylist(
        [{"sid": sid, "read_at": NOW + timedelta(seconds=at)} for sid, at in rows], SCHEMA
    )
    found = latest(table)
    expected: dict[str, int] = {}
    for sid, at in rows:
        expected[sid] = max(at, expected.get(sid, 0))
    kept = zip(found["sid"].to_pylist(), found["read_at"].to_pylist(), strict=True)
    assert dict(kept) == {sid: NOW + timedelta(seconds=at) for sid, at in expected.items()}
    assert found.num_rows == len(expected)
