"""One run at a time: the others wait or are told who it is, whoever died how."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines import clock
from pipelines.__main__ import main
from pipelines.errors import Failure
from pipelines.lock import Holder, Lock
from tests.conftest import NOW, REPOSITORY, Capture, World, environment_of, refused

HOLDER = Holder("sync", os.getpid(), "2026-11-20 11:59:00")
HOLDS = """
import sys, time
from pathlib import Path
from pipelines.lock import Holder, Lock
import os
with Lock(Path(sys.argv[1])).held(Holder(sys.argv[2], os.getpid(), "then"), 0):
    print("held", flush=True)
    time.sleep(60)
"""
# Two syncs at each instant that it is told, begun by a process that has all its modules.
TWINS = """
import json, os, sys, tempfile
from datetime import datetime
from pipelines.__main__ import entry

for line in sys.stdin:
    errors = [tempfile.TemporaryFile("w+") for _ in range(2)]
    go, pids = os.pipe(), []
    for error in errors:
        pids.append(os.fork())
        if not pids[-1]:
            os.close(go[1])
            os.read(go[0], 1)  # until both are there
            os.dup2(error.fileno(), 2)
            entry(["sync", "--quiet"], now=datetime.fromisoformat(line.strip()))
    os.close(go[0])
    os.close(go[1])
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    texts = [(error.seek(0), error.read())[1] for error in errors]
    print(json.dumps(list(zip(codes, pids, texts))), flush=True)
"""
BUSY = re.compile(
    r"is in use by (\w+) \(pid (\d+), since ([\d :-]+) UTC\); try again later.*--wait"
)


@contextmanager
def holding(lock: Path, command: str = "sync") -> Iterator[subprocess.Popen[str]]:
    """Another process that has it."""
    lock.parent.mkdir(exist_ok=True)
    argv = [sys.executable, "-c", HOLDS, str(lock), command]
    with subprocess.Popen(argv, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as process:
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
    configured: World, capsys: Capture, argv: list[str]
) -> None:
    configured.sync()
    asked = len(configured.sandbox.log)
    with configured_lock(configured).held(HOLDER, 0):
        code, line = refused(capsys, *argv)
    found = BUSY.search(line)
    assert code == 1
    assert found is not None
    assert found.groups() == ("sync", str(os.getpid()), HOLDER.since)
    assert len(configured.sandbox.log) == asked


def configured_lock(world: World) -> Lock:
    return Lock(world.settings.directory / "lock")


def test_two_backfills_do_not_read_the_same(configured: World, capsys: Capture) -> None:
    configured.settings.directory.mkdir()
    with Lock(configured.settings.directory / "backfill.lock").held(HOLDER, 0):
        code, line = refused(capsys, "backfill")
    assert (code, bool(BUSY.search(line))) == (1, True)
    assert configured.sandbox.log == []


def test_it_waits_as_long_as_it_is_told(configured: World, capsys: Capture) -> None:
    lock = configured.settings.directory / "lock"
    with holding(lock) as other:
        began = time.monotonic()
        assert main(["sync", "--wait", "0.7", "--quiet"], now=NOW) == 1
        assert 0.7 <= time.monotonic() - began < 5
        assert f"sync (pid {other.pid}, since then UTC)" in capsys.readouterr().err
        threading.Timer(0.5, other.kill).start()
        assert main(["sync", "--wait", "60", "--quiet"], now=NOW) == 0
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_a_run_that_has_waited_goes_by_the_time_it_is_then(
    configured: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or its clock would differ from Twilio's by as long as it has waited."""
    monkeypatch.setattr(clock, "TOLERANCE", timedelta(seconds=1.5))
    began = time.monotonic()
    configured.sandbox.now = lambda: NOW.timestamp() + time.monotonic() - began
    with holding(configured.settings.directory / "lock") as other:
        threading.Timer(4, other.kill).start()
        began = time.monotonic()
        assert main(["sync", "--wait", "60", "--quiet"], now=NOW) == 0
    (reach,) = configured.query("select max(created_before) as at from twilio_verify.windows_read")
    assert timedelta(seconds=2) < reach["at"] - NOW < timedelta(seconds=30)


def test_a_dead_process_is_no_obstacle(configured: World, capsys: Capture) -> None:
    lock = configured.settings.directory / "lock"
    with holding(lock) as other:
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert str(other.pid) in lock.read_text()  # it had no time to take that back
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
    tmp_path: Path,
) -> None:
    """A backfill that takes the lock again at once does not pass a sync that has waited."""
    turns: list[str] = []

    def backfill() -> None:
        for _ in range(5):
            with Lock(tmp_path / "lock").held(Holder("backfill", os.getpid(), "then", True), 60):
                turns.append("backfill")
                time.sleep(0.3)

    running = threading.Thread(target=backfill)
    running.start()
    while not turns:
        time.sleep(0.01)
    with Lock(tmp_path / "lock").held(HOLDER, 0):
        turns.append("sync")
    running.join()
    assert turns == ["backfill", "sync", *["backfill"] * 4]


def test_two_syncs_at_once_leave_one_winner_one_refusal_and_a_right_warehouse(
    world: World,
) -> None:
    """Twenty times, by real processes, an hour's attempts more each time."""
    world.sandbox.failure = lambda _: time.sleep(0.05)  # type: ignore[method-assign]
    with subprocess.Popen(
        [sys.executable, "-c", TWINS],
        cwd=REPOSITORY, env={**os.environ, **environment_of(world)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as twins:  # fmt: skip
        assert twins.stdin is not None
        assert twins.stdout is not None
        for number in range(20):
            print(world.now.isoformat(), file=twins.stdin, flush=True)
            (won, winner, said), (lost, _, refusal) = sorted(json.loads(twins.stdout.readline()))
            assert (won, said) == (0, ""), said
            found = BUSY.search(refusal)
            assert (lost, refusal.count("\n")) == (1, 1), refusal
            assert found is not None, refusal
            assert found.group(1, 2) == ("sync", str(winner))
            assert world.stored().keys() >= world.truth().keys()
            runs = world.query("select distinct outcome, count(*) over () as n from sync_history")
            assert runs == [{"outcome": "done", "n": number + 1}]
            world.move(hours=1)
        twins.stdin.close()
