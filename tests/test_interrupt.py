"""Signals, one or several at any moment: the run ends cleanly, once, and never hangs."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from pipelines.interrupt import INTERRUPTED
from tests.worlds import REPOSITORY, World, environment_of

# Sends itself 2 to 5 signals, at random distances of 0 to 50 ms, while work is held. Prints how
# often the work was completed and then interrupted.
LOOP = """
import os, random, signal, sys, threading, time
from pipelines import interrupt

def send(number):
    for _ in range(number):
        os.kill(os.getpid(), random.choice((signal.SIGTERM, signal.SIGINT)))
        time.sleep(random.choice((0, random.uniform(0, 0.05))))

interrupt.heed_signals()
clean = 0
for _ in range(int(sys.argv[1])):
    interrupt._is_told = False
    done = 0
    sender = threading.Thread(target=send, args=[random.randint(2, 5)])
    try:
        with interrupt.held():
            sender.start()
            while not done or sender.is_alive():
                done += 1
            raised = False
    except KeyboardInterrupt:
        raised = True
    clean += bool(done and raised and interrupt.was_interrupted())
print(clean)
"""


@pytest.mark.parametrize("trials", [60, pytest.param(400, marks=pytest.mark.long)])
def test_no_number_of_signals_hangs_or_ends_what_is_held(trials: int) -> None:
    command = [sys.executable, "-c", LOOP, str(trials)]
    told = subprocess.run(
        command, cwd=REPOSITORY, preexec_fn=heeding, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout, told.stderr) == (0, f"{trials}\n", "")


def heeding() -> None:
    """A test runner's workers may ignore SIGINT, and their children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize("runs", [2, pytest.param(12, marks=pytest.mark.long)])
def test_a_run_that_is_stopped_twice_is_interrupted_and_not_killed(
    world: World, runs: int, tmp_path: Path
) -> None:
    """A service manager signals every process of the unit, and `make` passes it on once more."""
    world.now = datetime.now(timezone.utc)
    world.sandbox.now = time.time
    environment = {**os.environ, **environment_of(world), "PYTHONPATH": str(REPOSITORY)}
    environment["SOURCES__TWILIO_VERIFY__PAGE_SIZE"] = "50"
    command = [sys.executable, "-m", "pipelines", "backfill"]
    for _ in range(runs):
        run = subprocess.Popen(
            command, env=environment, cwd=tmp_path, preexec_fn=heeding, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        assert run.stderr is not None
        run.stderr.readline()  # it has begun to read
        time.sleep(random.uniform(0, 1))
        for _ in range(random.randint(2, 5)):
            run.send_signal(random.choice((signal.SIGTERM, signal.SIGINT)))
            time.sleep(random.choice((0, random.uniform(0, 0.05))))
        out, error = run.communicate()
        assert (run.returncode, out.startswith("read ")) in ((1, False), (0, True)), error
        assert error.count(INTERRUPTED) == run.returncode
        assert "Traceback" not in error
    rows = world.warehouse().database.rows(
        "select distinct outcome from twilio_verify.sync_runs where command = 'backfill'"
    )
    assert {outcome for (outcome,) in rows} <= {"interrupted", "done"}


# Sends itself a signal at the given line of the given function, counted from 1, or (0) when that
# function returns: where the disk may let a commit or a close wait, and a signal is likely.
AT_A_LINE = """
import os, signal, sys
from pipelines import __main__

def trace(frame, event, _):
    code = frame.f_code
    if code.co_name == function and "warehouse" in code.co_filename:
        return trace_inside

def trace_inside(frame, event, _):
    global line
    line -= told > 0 and event == "line"
    if line == 0 and event == ("line" if told else "return"):
        sys.settrace(None)
        os.kill(os.getpid(), signal.SIGTERM)
    return trace_inside

function, told = sys.argv[1], int(sys.argv[2])
line = told
sys.settrace(trace)
__main__.entry(sys.argv[3:])
"""


@pytest.mark.parametrize("command", ["sync", "backfill"])
@pytest.mark.parametrize("function", ["record", "_close"])
@pytest.mark.parametrize(
    "line",
    [0, 8, *(pytest.param(n, marks=pytest.mark.long) for n in (*range(1, 8), *range(9, 12)))],
)
def test_a_signal_while_a_run_is_recorded_or_a_file_closed_is_recorded(
    world: World, command: str, function: str, line: int
) -> None:
    world.now = datetime.now(timezone.utc)
    world.sandbox.now = time.time
    environment = {**os.environ, **environment_of(world), "PYTHONPATH": str(REPOSITORY)}
    told = subprocess.run(
        [sys.executable, "-c", AT_A_LINE, function, str(line), command], env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (told.returncode, INTERRUPTED in told.stderr) == (1, True), told.stderr
    runs = "select outcome from twilio_verify.sync_runs"
    assert world.warehouse().database.rows(runs) == [("interrupted",)]


@pytest.mark.parametrize("stream", ["2>&-", "0<&- 1>&- 2>&-"])
def test_a_stream_that_is_closed_ends_nothing(synced: World, stream: str) -> None:
    environment = {**os.environ, **environment_of(synced), "PYTHONPATH": str(REPOSITORY)}
    for words in ("sql 'select 1 as one'", "status --max-age 1s"):
        line = f"{sys.executable} -m pipelines {words} {stream}"
        told = subprocess.run(
            line, shell=True, env=environment, capture_output=True, text=True, check=False
        )
        assert told.returncode == (1 if "max-age" in words else 0), told.stderr
        assert "Error" not in told.stderr
        assert ("1>" in stream) == (not told.stdout)


@pytest.mark.parametrize("encoding", ["ascii", pytest.param("latin-1", marks=pytest.mark.long)])
def test_what_a_stream_cannot_encode_is_escaped(synced: World, encoding: str) -> None:
    environment = {**os.environ, **environment_of(synced), "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "pipelines", "sql", "select 'Bogot\u00e1 \u4e2d' as place"]
    told = subprocess.run(
        command,
        env={**environment, "PYTHONIOENCODING": encoding},
        capture_output=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    shown = told.stdout.decode(encoding)
    expected = {"ascii": "Bogot\\xe1 \\u4e2d", "latin-1": "Bogotá \\u4e2d", "utf-8": "Bogotá 中"}
    assert expected[encoding] in shown
    assert json.dumps(shown)
