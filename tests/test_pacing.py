"""The rate limit: no trailing window with too many requests, whoever sends them."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines import pacing
from pipelines.errors import Failure, Misuse
from pipelines.pacing import Pacer
from tests.conftest import busiest

WINDOW = 0.4


@pytest.fixture(autouse=True)
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "WINDOW", WINDOW)


def send(pacer: Pacer, arrivals: list[float], seconds: float = 0.0) -> None:
    """A request that takes `seconds` and reaches the server somewhere in between."""
    with pacer.slot():
        before = random.uniform(0, seconds)
        time.sleep(before)
        arrivals.append(time.monotonic())
        time.sleep(seconds - before)


def send_many(pacers: Sequence[Pacer], requests: int, seconds: float) -> list[float]:
    arrivals: list[float] = []
    with ThreadPoolExecutor(6) as threads:
        for number in range(requests):
            threads.submit(send, pacers[number % len(pacers)], arrivals, seconds)
    return arrivals


@pytest.mark.parametrize("limit", [1, 4, 10])
def test_no_window_at_the_server_holds_more_than_the_limit(limit: int) -> None:
    with Pacer(limit) as pacer:
        arrivals = send_many([pacer], 3 * limit, seconds=0.05)
    assert len(arrivals) == 3 * limit
    assert busiest(arrivals, WINDOW) <= limit


def test_a_burst_within_the_budget_goes_at_once_and_all_of_it_is_used() -> None:
    with Pacer(10) as pacer:
        started = time.monotonic()
        arrivals = send_many([pacer], 20, seconds=0.0)
    assert busiest(arrivals, WINDOW) == 10
    assert sum(at < started + WINDOW / 2 for at in arrivals) == 10


def test_runs_one_after_the_other_share_the_limit(tmp_path: Path) -> None:
    arrivals: list[float] = []
    for _ in range(5):  # as five processes would
        with Pacer(4, tmp_path / "requests") as pacer:
            for _ in range(3):
                send(pacer, arrivals)
    assert busiest(arrivals, WINDOW) <= 4


def test_runs_at_the_same_time_share_it_too(tmp_path: Path) -> None:
    with Pacer(5, tmp_path / "requests") as one, Pacer(5, tmp_path / "requests") as other:
        arrivals = send_many([one, other], 15, seconds=0.02)
    assert busiest(arrivals, WINDOW) <= 5


def test_a_request_in_flight_when_its_run_was_killed_counts(tmp_path: Path) -> None:
    killed = Pacer(1, tmp_path / "requests")
    killed.slot().__enter__()
    started = time.monotonic()
    with Pacer(1, tmp_path / "requests") as pacer, pacer.slot():
        assert time.monotonic() - started + 0.01 >= WINDOW
    killed.close()


def test_a_stamp_from_the_future_blocks_no_longer_than_a_window(tmp_path: Path) -> None:
    with Pacer(1, tmp_path / "requests") as pacer:
        send(pacer, [])
    with sqlite3.connect(tmp_path / "requests") as slots:
        slots.execute("update slots set free_at = free_at + 86400")
    slots.close()
    started = time.monotonic()
    with Pacer(1, tmp_path / "requests") as pacer, pacer.slot():
        assert WINDOW - 0.01 <= time.monotonic() - started < WINDOW + 5


def test_a_machine_that_slept_or_was_set_forward_keeps_its_limit(tmp_path: Path) -> None:
    """The next run goes by the clock on the wall."""
    arrivals: list[float] = []
    with Pacer(2, tmp_path / "requests") as pacer:
        send(pacer, arrivals)
        pacer._started -= 3600  # an hour in which no time elapsed
        send(pacer, arrivals)
    with Pacer(2, tmp_path / "requests") as pacer:
        for _ in range(3):
            send(pacer, arrivals)
    assert busiest(arrivals, WINDOW) <= 2


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(Misuse, match="requests_per_minute"):
        Pacer(0)


def test_a_slow_answer_keeps_its_slot(tmp_path: Path) -> None:
    with Pacer(1, tmp_path / "requests") as pacer:
        arrivals: list[float] = []
        with ThreadPoolExecutor(2) as threads:
            threads.submit(send, pacer, arrivals, 3 * WINDOW)
            time.sleep(0.05)
            ended = threads.submit(lambda: (send(pacer, arrivals), time.monotonic())[1])
            assert ended.result() - min(arrivals) > WINDOW
    assert busiest(arrivals, WINDOW) == 1


def test_a_broken_log_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "requests").write_bytes(b"not a database, after a power cut" * 100)
    with Pacer(1, tmp_path / "requests") as pacer:
        send(pacer, [])
    with sqlite3.connect(tmp_path / "requests") as slots:
        assert slots.execute("select count(*) from slots").fetchall() == [(1,)]
    slots.close()


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "requests", tmp_path):
        with pytest.raises(Failure, match="cannot be used"):
            Pacer(1, place)


def test_whoever_waits_when_the_run_ends_is_let_go() -> None:
    pacer = Pacer(1)
    send(pacer, [])
    found: list[Exception] = []

    def wait() -> None:
        try:
            send(pacer, [])
        except Failure as failure:
            found.append(failure)

    waiting = threading.Thread(target=wait)
    waiting.start()
    pacer.close()
    waiting.join(timeout=5)
    assert len(found) == 1


@given(
    limit=st.integers(1, 6),
    taken=st.lists(st.floats(0.5, 59.5), max_size=6),
    requests=st.integers(0, 40),
)
def test_the_least_time_for_so_many_requests(limit: int, taken: list[float], requests: int) -> None:
    """As a simulation of requests that are answered at once has it."""
    with patch.object(pacing, "WINDOW", 60.0), Pacer(limit) as pacer:
        slots = sorted(taken)[:limit]
        now = pacer._now()
        for free_in in slots:
            pacer._slots.execute("insert into slots (free_at) values (?)", [now + free_in])
        assert pacer.taken() == len(slots)
        slots, at = [*slots, *[0.0] * (limit - len(slots))], 0.0
        for _ in range(requests):
            at = max(at, min(slots))
            slots.remove(min(slots))
            slots.append(at + 60.0)
        assert pacer.seconds_for(requests) == pytest.approx(at, abs=0.2)
