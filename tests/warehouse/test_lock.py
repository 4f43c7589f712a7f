"""The lock: one run at a time. Others wait or are told who holds it. A dead run holds nothing."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.errors import Failure
from pipelines.twilio.limits import SECOND
from pipelines.warehouse import lock as module
from pipelines.warehouse.lock import Lock, LockHolder
from pipelines.warehouse.runs import Run, record
from pipelines.warehouse.status import Status
from tests.clocks import Time, wait_until
from tests.worlds import NOW, PATIENT, REPOSITORY, Capture, World, refused, run_in_process

HOLDER = LockHolder("sync", os.getpid(), "2026-11-20 11:59:00")
HOLDS = """
import os, sys
from pathlib import Path
from pipelines.warehouse.lock import LockHolder, Lock
with Lock(Path(sys.argv[1])).held(LockHolder(sys.argv[2], os.getpid(), "then"), 0):
    print("held", flush=True)
    sys.stdin.read()
"""
BUSY = re.compile(
    r"is in use by (\w+) \(pid (\d+), since ([\d :-]+) UTC\); try again later.*--wait"
)


@contextmanager
def holding(lock: Path, command: str = "sync") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock."""
    lock.parent.mkdir(exist_ok=True)
    argv = [sys.executable, "-c", HOLDS, str(lock), command]
    with subprocess.Popen(
        argv, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    "argv", [["sync"], ["backfill"], ["reconcile"], ["fetch", "VL" + "0" * 32], ["views"]]
)
def test_whoever_comes_second_is_told_who_was_first(
    configured: World, synced: World, capsys: Capture, argv: list[str]
) -> None:
    with configured_lock(configured).held(HOLDER, 0):
        code, line = refused(capsys, *argv)
    found = BUSY.search(line)
    assert code == 1
    assert found is not None
    assert found.groups() == ("sync", str(os.getpid()), HOLDER.since)
    assert configured.sandbox.log == []


def configured_lock(world: World) -> Lock:
    return Lock(world.settings.directory / "lock")


def test_two_backfills_do_not_read_the_same(configured: World, capsys: Capture) -> None:
    configured.settings.directory.mkdir()
    with Lock(configured.settings.directory / "backfill.lock").held(HOLDER, 0):
        code, line = refused(capsys, "backfill")
    assert (code, bool(BUSY.search(line))) == (1, True)
    assert configured.sandbox.log == []


class Waiting(Time):
    """A clock for lock waits: they end at once. After `until` seconds the lock is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch.setattr)
        self.rule(module)
        self.holding = ExitStack()
        self.until = float("inf")

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        if self.elapsed >= self.until:
            self.holding.close()


@pytest.fixture
def waiting(configured: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waiting]:
    """A sync holds the lock of `configured`."""
    configured.settings.directory.mkdir()
    waiting = Waiting(monkeypatch)
    with waiting.holding:
        waiting.holding.enter_context(configured_lock(configured).held(HOLDER, 0))
        yield waiting


def test_it_waits_as_long_as_it_is_told(waiting: Waiting, capsys: Capture) -> None:
    assert main(["sync", "--wait", "0.7", "--quiet"], now=NOW) == 1
    assert waiting.elapsed == pytest.approx(0.7, abs=0.1)
    assert f"sync (pid {os.getpid()}, since {HOLDER.since} UTC)" in capsys.readouterr().err
    waiting.until = 30
    assert main(["sync", "--wait", "60", "--quiet"], now=NOW) == 0
    assert waiting.elapsed == pytest.approx(30, abs=0.1)
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_a_run_that_has_waited_goes_by_the_time_it_is_then(
    configured: World, waiting: Waiting
) -> None:
    """Otherwise its clock would differ from Twilio's by as long as it has waited."""
    waiting.until = 90  # more than a minute, the largest allowed difference
    configured.sandbox.now = lambda: NOW.timestamp() + waiting.elapsed
    assert main(["sync", "--wait", "100", "--quiet"], now=NOW) == 0
    (reach,) = configured.query("select max(created_before) as at from twilio_verify.windows_read")
    assert reach["at"] == NOW + timedelta(seconds=90) - SECOND


def test_a_dead_process_is_no_obstacle(configured: World, capsys: Capture) -> None:
    lock = configured.settings.directory / "lock"
    with holding(lock) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert str(other.pid) in lock.read_text()  # the dead process did not clear its entry
        assert Lock(lock).holder() is None
        assert main(["sync"], now=NOW) == 0
    assert capsys.readouterr().err == ""


def test_who_does_not_say_who_it_is_gets_a_moment(tmp_path: Path) -> None:
    with holding(tmp_path / "lock"):
        (tmp_path / "lock").write_text("")
        taking = Lock(tmp_path / "lock").held(HOLDER, 0)
        with pytest.raises(Failure, match="in use by another run"), taking:
            pass


def test_a_brief_holder_is_waited_for_and_a_second_turn_comes_after_those_who_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backfill that takes the lock again at once does not overtake a sync that waits."""
    monkeypatch.setattr(module, "_GRACE", PATIENT)
    turns: list[str] = []

    def backfill() -> None:
        for turn in range(5):
            holder = LockHolder("backfill", os.getpid(), "then", True)
            with Lock(tmp_path / "lock").held(holder, PATIENT):
                turns.append("backfill")
                wait_until(lambda: turn or is_taken(tmp_path / "lock.queue"))  # noqa: B023

    running = threading.Thread(target=backfill)
    running.start()
    wait_until(lambda: turns)
    with Lock(tmp_path / "lock").held(HOLDER, 0):
        turns.append("sync")
    running.join()
    assert turns == ["backfill", "sync", *["backfill"] * 4]


def is_taken(file: Path) -> bool:
    with file.open("rb") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.long)])
def test_two_syncs_at_once_leave_one_winner_one_refusal_and_a_right_warehouse(
    world: World, times: int
) -> None:
    """With real processes, and an hour of new attempts each time. The winner cannot end before the
    loser has ended."""
    lost, winners = threading.Event(), set[LockHolder | None]()
    told: list[subprocess.CompletedProcess[str]] = []

    def answer_later(_: str | None) -> None:
        winners.add(configured_lock(world).holder())
        lost.wait()

    def sync() -> None:
        moment = [world.now.isoformat(), "", "0", "0", "0"]
        told.append(run_in_process(world, "tests.crash", *moment, "sync", "--quiet"))
        lost.set()

    world.sandbox.failure = answer_later  # type: ignore[method-assign]
    for number in range(times):
        lost.clear()
        winners.clear()
        told.clear()
        both = [threading.Thread(target=sync) for _ in range(2)]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        loser, winner = told
        assert (winner.returncode, winner.stderr) == (0, "")
        found = BUSY.search(loser.stderr)
        assert (loser.returncode, loser.stderr.count("\n")) == (1, 1), loser.stderr
        assert found is not None, loser.stderr
        (holder,) = winners
        assert holder is not None
        assert found.group(1, 2) == ("sync", str(holder.pid))
        assert world.stored().keys() >= world.truth().keys()
        runs = world.query("select distinct outcome, count(*) over () as n from sync_history")
        assert runs == [{"outcome": "done", "n": number + 1}]
        world.move(hours=1)


@pytest.mark.parametrize("turns", [60, pytest.param(1_000, marks=pytest.mark.long)])
def test_who_comes_behind_a_brief_holder_always_gets_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, turns: int
) -> None:
    """However long both have waited, and although the lock is free for moments only."""
    monkeypatch.setattr(module, "_GRACE", PATIENT)
    monkeypatch.setattr(module, "_POLL", 0.001)
    ended = threading.Event()

    def backfill() -> None:
        holder = LockHolder("backfill", os.getpid(), "then", True)
        while not ended.is_set():
            with Lock(tmp_path / "lock").held(holder, PATIENT):
                pass

    running = [threading.Thread(target=backfill) for _ in range(2)]
    for thread in running:
        thread.start()
    try:
        for _ in range(turns):
            with Lock(tmp_path / "lock").held(replace(HOLDER, is_brief=True), 0):
                pass
    finally:
        ended.set()
        for thread in running:
            thread.join()


def test_another_container_with_the_same_pid_is_another_run(world: World) -> None:
    """Two containers on one volume: both run with the same pid. The backfill is alive."""
    alive = Run("backfill", NOW, is_brief=True)
    outcome = "select outcome from twilio_verify.sync_runs where command = 'backfill'"
    world.settings.directory.mkdir()
    with Lock(world.settings.directory / "backfill.lock").held(alive.holder(), 0):
        with world.warehouse().opened():
            pass
        warehouse = world.warehouse()
        with warehouse.opened():
            record(warehouse.connection, alive, others_go_on=False)
        world.sync()
        (found,) = world.query(
            "select outcome from twilio_verify.sync_runs where command = 'backfill'"
        )
        assert found["outcome"] is None
        assert Status.of(world.settings, NOW).running == [alive.holder()]
    world.move(hours=1)
    world.sync()
    (found,) = world.query(outcome)
    assert found["outcome"] == "killed"
