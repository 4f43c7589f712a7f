"""The test suite itself: what an interrupt leaves behind, and what a failure prints."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.clocks import wait_until
from tests.worlds import REPOSITORY

pytestmark = pytest.mark.long

# Two syncs in their own processes. One waits for an answer until the other has ended.
BUSY = (
    "tests/warehouse/test_lock.py::"
    "test_two_syncs_at_once_leave_one_winner_one_refusal_and_a_right_warehouse"
)


@contextmanager
def running(*argv: str) -> Iterator[subprocess.Popen[str]]:
    """Starts pytest as a shell does in the foreground, in its own session."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *argv]
    with subprocess.Popen(
        command, cwd=REPOSITORY, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def in_session(session: int) -> list[str]:
    """The command lines of the session's running processes."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError):
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=str)
def test_an_interrupt_leaves_no_process_behind(number: int) -> None:
    """Ctrl-C reaches all processes of the terminal. SIGKILL ends only pytest's own process."""
    with running("-n", "1", "--long", BUSY) as tests:
        # A nursery and a process that it has forked.
        wait_until(lambda: sum("tests.nursery" in line for line in in_session(tests.pid)) > 1)
        if number == signal.SIGINT:
            os.killpg(tests.pid, number)
        else:
            os.kill(tests.pid, number)
        tests.wait()
        wait_until(lambda: not in_session(tests.pid))


def test_a_failure_names_what_repeats_it(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "test_it.py").write_text(
        "import random\n"
        "from hypothesis import given, strategies as st\n"
        "def test_it():\n    assert not random.random()\n"
        "@given(st.integers())\n"
        "def test_that(number):\n    assert random.random() == number > 10**6\n"
    )
    options = ["-n", "2", "--rootdir", str(tmp_path), "-c", os.devnull, str(tmp_path)]

    def failures(*more: str) -> tuple[list[str], set[str]]:
        with running(*options, *more) as tests:
            told, _ = tests.communicate()
        assert tests.returncode == 1, told
        numbers = re.findall(r"^E  .*?(\d\.\d+)", told, re.MULTILINE)
        return sorted(numbers), set(re.findall(r"make test ARGS=\"'\S+' --seed (\d+)\"", told))

    first, seeds = failures()
    (seed,) = seeds
    assert len(first) >= 2
    assert failures("--seed", seed) == (first, seeds)
