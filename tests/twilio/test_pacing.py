"""The rate limit: no trailing window has too many requests, whichever threads and runs send
them."""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.errors import Failure, Misuse
from pipelines.twilio import pacing
from pipelines.twilio.pacing import Pacer
from tests.clocks import Time, wait_until
from tests.worlds import busiest

WINDOW = pacing.WINDOW


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> float:
    """A window short enough for many threads to wait in real time."""
    monkeypatch.setattr(pacing, "WINDOW", 0.4)
    return 0.4


def send(pacer: Pacer, arrivals: list[float], seconds: float = 0.0) -> None:
    """A request that takes `seconds` and reaches the server somewhere in between."""
    with pacer.slot():
        before = random.uniform(0, seconds)
        pacing.time.sleep(before)
        arrivals.append(pacing.time.monotonic())
        pacing.time.sleep(seconds - before)


def send_many(pacer: Pacer, requests: int, seconds: float) -> list[float]:
    arrivals: list[float] = []
    with ThreadPoolExecutor(6) as threads:
        for _ in range(requests):
            threads.submit(send, pacer, arrivals, seconds)
    return arrivals


@pytest.mark.parametrize("limit", [1, 4, 10])
def test_no_window_at_the_server_holds_more_than_the_limit(quick: float, limit: int) -> None:
    with Pacer(limit) as pacer:
        arrivals = send_many(pacer, 3 * limit, seconds=0.05)
    assert len(arrivals) == 3 * limit
    assert busiest(arrivals, quick) <= limit


def test_runs_at_the_same_time_share_it_too(waits: Time, tmp_path: Path) -> None:
    arrivals: list[float] = []
    with Pacer(5, tmp_path / "requests") as one, Pacer(5, tmp_path / "requests") as other:
        for number in range(15):
            send(other if number % 2 else one, arrivals, seconds=0.02)
    assert busiest(arrivals, WINDOW) == 5


def test_a_burst_within_the_budget_goes_at_once_and_all_of_it_is_used(waits: Time) -> None:
    arrivals: list[float] = []
    with Pacer(10) as pacer:
        for _ in range(30):
            send(pacer, arrivals)
    for number, at in enumerate(arrivals):
        assert at == pytest.approx(number // 10 * WINDOW, abs=0.1)
    assert busiest(arrivals, WINDOW) == 10


def test_a_wait_is_told_once_whoever_waits(
    waits: Time, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "verify_sync")
    with Pacer(2) as pacer:
        pause = pacer.pause

        def meanwhile_another_waits(seconds: float) -> None:
            monkeypatch.setattr(pacer, "pause", pause)
            send(pacer, [])

        monkeypatch.setattr(pacer, "pause", meanwhile_another_waits)
        for _ in range(3):
            send(pacer, [])
        assert waits.elapsed == pytest.approx(WINDOW, abs=0.1)
        waits.sleep(WINDOW - 0.5)
        send(pacer, [])  # half a second is too short for a log line
        assert waits.elapsed == pytest.approx(2 * WINDOW, abs=0.1)
        for _ in range(2):
            send(pacer, [])
    assert caplog.messages == ["rate limit (2 requests a minute) reached: waiting 60 s"] * 2


def test_runs_one_after_the_other_share_the_limit(waits: Time, tmp_path: Path) -> None:
    arrivals: list[float] = []
    for _ in range(5):  # as five processes would
        with Pacer(4, tmp_path / "of" / "whoever" / "requests") as pacer:
            for _ in range(3):
                send(pacer, arrivals, seconds=2.0)
    assert busiest(arrivals, WINDOW) == 4
    assert arrivals[-1] < 4 * WINDOW


def test_what_is_kept_nowhere_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with Pacer(1) as pacer:
        send(pacer, [])
        assert pacer.taken() == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("begun", "windows"), [("since", 1), ("before", 2)])
def test_a_request_in_flight_when_its_run_was_killed_counts(
    waits: Time, tmp_path: Path, begun: str, windows: int
) -> None:
    """It counts for a minute in a run that starts later, for two in one that runs already."""
    killed = Pacer(1, tmp_path / "requests")
    other = Pacer(1, tmp_path / "requests")
    in_flight = killed.slot()  # kept, because its deletion would release the slot
    in_flight.__enter__()
    if begun == "since":
        other.close()
        other = Pacer(1, tmp_path / "requests")
    with other, other.slot():
        assert waits.elapsed == pytest.approx(windows * WINDOW, abs=0.1)
    killed.close()


@pytest.mark.parametrize("change", ["free_at = free_at + 86400", "boot = 'another start'"])
def test_a_stamp_from_the_future_blocks_no_longer_than_a_window(
    waits: Time, tmp_path: Path, change: str
) -> None:
    with Pacer(1, tmp_path / "requests") as pacer:
        send(pacer, [])
    with sqlite3.connect(tmp_path / "requests") as slots:
        slots.execute(f"update in_use set {change}")
    slots.close()
    with Pacer(1, tmp_path / "requests") as pacer, pacer.slot():
        assert waits.elapsed == pytest.approx(WINDOW, abs=0.1)


@pytest.mark.parametrize(
    ("by", "moved"),
    [("slept", 8 * 3600), ("slept", 50), *(("set", by) for by in (50, -120, -86_400, 86_400))],
)
def test_a_clock_that_moves_changes_nothing(
    waits: Time, tmp_path: Path, by: str, moved: float
) -> None:
    """The machine sleeps, or somebody sets its clock, between and during two runs at once."""
    arrivals: list[float] = []
    with Pacer(4, tmp_path / "requests") as one, Pacer(4, tmp_path / "requests") as other:
        for pacer in (one, other):
            send(pacer, arrivals)
        setattr(waits, by, moved)
        before = len(arrivals)
        for number in range(12):
            send(other if number % 2 else one, arrivals)
    with Pacer(4, tmp_path / "requests") as later:
        for _ in range(4):
            send(later, arrivals)
    if by == "set":  # the time since each request is what it was
        assert busiest(arrivals, WINDOW) == 4
    assert busiest(arrivals[before:], WINDOW) == 4
    assert waits.elapsed <= 5 * WINDOW


class Elsewhere(Pacer):
    """A run on another machine with the same folder, whose clock shows something else."""

    def __init__(self, limit: int, path: Path, ahead: float) -> None:
        self._ahead = ahead
        with patch.object(pacing, "_boot", lambda: f"another machine, {ahead} s ahead"):
            super().__init__(limit, path)

    def _now(self) -> float:
        return super()._now() + self._ahead


@pytest.mark.parametrize("ahead", [-1e6, -120, 0, 30, 120, 1e6])
@pytest.mark.parametrize("seconds", [0.0, 25.0])
def test_machines_that_share_a_folder_share_the_limit(
    waits: Time, tmp_path: Path, ahead: float, seconds: float
) -> None:
    """Whatever their clocks show, and whichever of them opens the file last."""
    arrivals: list[float] = []
    path = tmp_path / "requests"
    for _ in range(3):
        with Pacer(3, path) as one, Elsewhere(3, path, ahead) as other:
            for number in range(7):
                send(other if number % 2 else one, arrivals, seconds)
            with Elsewhere(3, path, ahead - 10):  # it sends nothing, and spoils nothing
                send(one, arrivals, seconds)
    assert busiest(arrivals, WINDOW) <= 3
    assert waits.elapsed <= len(arrivals) * (WINDOW + seconds)


@pytest.mark.parametrize("moved", [-86_400, -3600, 0, 30, 86_400])
def test_after_a_restart_of_the_machine_nobody_waits_longer_than_a_minute(
    waits: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: float
) -> None:
    """Nobody knows when the earlier requests were sent: the wall clock may have been set."""
    with Pacer(1, tmp_path / "requests") as pacer:
        send(pacer, [])
    monkeypatch.setattr(pacing, "_boot", lambda: "another start")
    waits.set += moved
    with Pacer(1, tmp_path / "requests") as pacer, pacer.slot():
        assert waits.elapsed == pytest.approx(WINDOW, abs=0.1)


@pytest.mark.parametrize("by", ["nothing", "slept", "set"])
@pytest.mark.parametrize("moved", [-120, 50, 8 * 3600])
def test_a_machine_without_an_id_of_its_start_keeps_the_limit(
    waits: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str, moved: float
) -> None:
    """As macOS, which has no CLOCK_BOOTTIME either."""
    monkeypatch.setattr(pacing, "_BOOT_ID", tmp_path / "nothing")
    monkeypatch.delattr(Time, "CLOCK_BOOTTIME")
    arrivals: list[float] = []
    for _ in range(3):
        with Pacer(2, tmp_path / "requests") as pacer:
            send(pacer, arrivals)
            setattr(waits, by, abs(moved) if by == "slept" else moved)
            send(pacer, arrivals)
    if by != "slept":
        assert busiest(arrivals, WINDOW) == 2
    assert waits.elapsed <= 2 * WINDOW + 0.1


def test_a_slot_that_was_taken_for_free_leaves_that_of_another_request_alone(
    waits: Time, tmp_path: Path
) -> None:
    """A run that stood still for minutes does not renew. Its late release is one more request."""
    with Pacer(3, tmp_path / "requests") as slow, Pacer(3, tmp_path / "requests") as other:
        with slow.slot():
            waits.sleep(pacing._LEASE + 1)
            with other.slot():
                pass
        assert other.taken() == slow.taken() == 2


def test_the_file_of_an_earlier_release_is_taken_over(waits: Time, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "requests") as slots:
        slots.execute("create table slots (id integer primary key, free_at real)")
        slots.execute("insert into slots (free_at) values (?)", [waits.time() + 40])
    slots.close()
    with Pacer(1, tmp_path / "requests") as pacer, pacer.slot():
        assert waits.elapsed == pytest.approx(WINDOW, abs=0.1)


def test_runs_that_open_the_file_of_an_earlier_release_at_once_do_not_disturb_each_other(
    waits: Time, tmp_path: Path
) -> None:
    for number in range(20):
        path = tmp_path / str(number)
        with sqlite3.connect(path) as slots:
            slots.execute("create table slots (id integer primary key, free_at real)")
            slots.execute("insert into slots (free_at) values (?)", [waits.time() + 40])
        slots.close()
        with ThreadPoolExecutor(4) as threads:
            for pacer in threads.map(lambda _, path=path: Pacer(1, path), range(4)):
                with pacer:
                    assert pacer.taken() == 1


def test_an_answer_longer_than_any_lease_keeps_its_slot_from_other_runs(
    waits: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run renews the lease. A killed run cannot."""
    monkeypatch.setattr(pacing, "_RENEWAL", 0.005)
    renewed = threading.Event()
    hold = Pacer._hold

    def holding(pacer: Pacer, *given: object) -> int:
        renewed.set()
        return hold(pacer, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Pacer, "_hold", holding)
    with Pacer(1, tmp_path / "requests") as slow, Pacer(1, tmp_path / "requests") as other:
        with slow.slot():
            for _ in range(10):
                renewed.clear()
                waits.sleep(pacing._LEASE - 1)
                renewed.wait()
                wait_until(lambda: slow.seconds_for(1) > pacing.WINDOW - 1)
                assert other._claim()[0] is None
        assert other.seconds_for(1) == pytest.approx(WINDOW, abs=0.1)


def test_a_limit_that_is_none_is_refused() -> None:
    with pytest.raises(Misuse, match="requests_per_minute"):
        Pacer(0)


def test_a_slow_answer_keeps_its_slot(waits: Time, tmp_path: Path) -> None:
    sent: list[float] = []
    with Pacer(1, tmp_path / "requests") as pacer:
        with pacer.slot():
            waits.sleep(3 * WINDOW)
            slot, _ = pacer._claim()
            assert slot is None
        send(pacer, sent)
    assert sent == [pytest.approx(4 * WINDOW, abs=0.1)]


def test_a_broken_log_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "requests").write_bytes(b"not a database, after a power cut" * 100)
    with Pacer(1, tmp_path / "requests") as pacer:
        send(pacer, [])
    with sqlite3.connect(tmp_path / "requests") as slots:
        assert slots.execute("select count(*) from in_use").fetchall() == [(1,)]
    slots.close()


def test_a_folder_that_cannot_be_written_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file" / "requests", tmp_path):
        with pytest.raises(Failure, match=r"cannot be used: (unable to open|.*File exists)"):
            Pacer(1, place)


def test_whoever_waits_when_the_run_ends_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise it would wait for eleven days."""
    monkeypatch.setattr(pacing, "WINDOW", 10.0**6)
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
    wait_until(lambda: pacer._told_until)
    pacer.close()
    waiting.join()
    assert [str(failure) for failure in found] == ["given up, because the run has ended"]


@given(
    limit=st.integers(1, 6),
    taken=st.lists(st.floats(0.5, 59.5), max_size=6),
    requests=st.integers(0, 40),
)
def test_the_least_time_for_so_many_requests(limit: int, taken: list[float], requests: int) -> None:
    """Compared with a simulation in which every request is answered at once."""
    with patch.object(pacing, "time", Time()), Pacer(limit) as pacer:
        slots = sorted(taken)[:limit]
        for free_in in slots:
            pacer._hold(pacer._slots, None, free_in)
        assert pacer.taken() == len(slots)
        slots, at = [*slots, *[0.0] * (limit - len(slots))], 0.0
        for _ in range(requests):
            at = max(at, min(slots))
            slots.remove(min(slots))
            slots.append(at + 60.0)
        assert pacer.seconds_for(requests) == pytest.approx(at, abs=0.01)
