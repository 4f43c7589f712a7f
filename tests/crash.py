"""Kills runs: a process signals itself at a chosen moment; then the warehouse is checked.

`python -m tests.crash NOW PHASE CALL DELAY SIGNAL COMMAND…` runs a command of verify-sync. It sends
itself SIGNAL in the CALL-th call of PHASE (from 0): DELAY seconds after its start, or at its end if
that comes first. With PHASE `none` it sends nothing and prints the seconds of each call as JSON.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import dlt
from dlt.destinations.job_client_impl import SqlLoadJob

from pipelines.__main__ import entry, main
from pipelines.interrupt import INTERRUPTED
from pipelines.twilio.transport import Transport
from pipelines.warehouse import lock, session, views
from pipelines.warehouse.publishing import Publisher
from tests.clocks import OF_A_RUN, Time
from tests.worlds import PATIENT, Row, World, nothing_is_due, run_in_process, serving, slice_small

# Each phase of a run and the function that carries it out, in the order of a run.
PHASES: dict[str, tuple[Any, str]] = {
    "paging": (Transport, "get"),
    "writing": (dlt.Pipeline, "extract"),
    "normalising": (dlt.Pipeline, "normalize"),
    "loading": (dlt.Pipeline, "load"),
    "merging": (SqlLoadJob, "run"),
    "applying views": (session, "apply_views"),
    "refreshing": (views, "refresh"),
    "checking": (session, "check"),
    "publishing": (Publisher, "publish"),
}
SENT = "signalled\n"


def child(now: str, phase: str, call: str, delay: str, number: str, *argv: str) -> None:
    """Runs in the process that is killed."""
    slice_small()
    Time().rule(*OF_A_RUN)
    lock._GRACE = PATIENT  # time for a lock holder to write its name
    moment = _Moment(phase, int(call), float(delay), int(number))
    for name, (owner, function) in PHASES.items():
        setattr(owner, function, moment.watched(name, getattr(owner, function)))
    at = datetime.fromisoformat(now)
    if phase == "none":
        code = main(argv, now=at)
        print(json.dumps(moment.took))
        sys.exit(code)
    entry(argv, now=at)


class _Moment:
    """Sends the signal in the chosen phase, even on a slow machine: at the latest at its end."""

    def __init__(self, phase: str, call: int, delay: float, number: int) -> None:
        self.phase, self.call, self.delay, self.number = phase, call, delay, number
        self.took: dict[str, list[float]] = defaultdict(list)
        self._entered: Counter[str] = Counter()
        self._lock, self._is_sent = threading.RLock(), False

    def watched(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def watching(*args: Any, **named: Any) -> Any:
            with self._lock:
                is_it = name == self.phase and self._entered[name] == self.call
                self._entered[name] += 1
            if is_it:
                self._begin()
            started = time.monotonic()
            try:
                return original(*args, **named)
            finally:
                self.took[name].append(time.monotonic() - started)
                if is_it:
                    self._send()

        return watching

    def _begin(self) -> None:
        if not self.delay:
            self._send()
            return
        timer = threading.Timer(self.delay, self._send)
        timer.daemon = True
        timer.start()

    def _send(self) -> None:
        with self._lock:  # else the phase could end before the timer's signal is sent
            if not self._is_sent:
                self._is_sent = True
                os.write(2, SENT.encode())
                os.kill(os.getpid(), self.number)


@dataclass
class Trial:
    """Two warehouses of one account. The runs of `world` are killed, those of `twin` are not."""

    world: World
    twin: World
    seed: int = 1
    killed: Counter[str] = field(default_factory=Counter)
    published: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        for twin in (self.world, self.twin):
            twin.settings = replace(twin.settings, page_size=100)  # several packages a run
        self.random = random.Random(self.seed)
        self.took: dict[str, list[float]] = {}

    def measure(self) -> None:
        """Measures the seconds of each phase in an uninterrupted first sync of the twin."""
        told = self._run(self.twin, "none", 0, 0.0, signal.SIGKILL)
        assert told.returncode == 0, told.stderr
        self.took = json.loads(told.stdout.splitlines()[-1])
        # A first sync makes the kept tables and refreshes none.
        self.took["refreshing"] = self.took["applying views"]
        assert self.took.keys() == PHASES.keys()

    def kill(self, *phases: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Kills a sync in each phase, runs a plain one, and compares the result with the twin."""
        before = stored(self.world)
        self.twin.now = self.world.now
        self.twin.sync()
        whole = stored(self.twin)
        for phase in phases:
            calls = self.took[phase]
            # A first sync has several packages, and each goes through all phases.
            call = self.random.randrange(min(len(calls), 2)) if before is None else 0
            delay = self.random.random() ** 2 * calls[call]
            told = self._run(self.world, phase, call, delay, number)
            self._ended_as_it_should(told, phase, number)
            after = stored(self.world)
            assert after in (before, whole), f"published half a state, killed while {phase}"
            self.published["as before" if after == before else "as after"] += 1
        self.world.sync()
        assert stored(self.world) == whole, f"not the same after a kill while {phases}"
        assert nothing_is_due(self.world)
        counts = self.world.query("select count(*) - count(distinct sid) as doubles from raw")
        assert counts == [{"doubles": 0}]

    def _ended_as_it_should(
        self, told: subprocess.CompletedProcess[str], phase: str, number: signal.Signals
    ) -> None:
        """SIGKILL: killed. Other signals: one line and exit code 1. Or the run had ended before."""
        self.killed[phase if told.returncode else "too late"] += 1
        if number == signal.SIGKILL:
            assert told.returncode in (0, -number), told.stderr
            return
        last = told.stderr.splitlines()[-1] if told.stderr else ""
        if SENT in told.stderr:  # else the run had ended before
            assert (told.returncode, INTERRUPTED in last) == (1, True), (phase, told.stderr)
        assert "Traceback" not in told.stderr
        assert told.stderr.count("verify-sync:") <= 1

    def _run(
        self, world: World, phase: str, call: int, delay: float, number: signal.Signals
    ) -> subprocess.CompletedProcess[str]:
        moment = [world.now.isoformat(), phase, str(call), str(delay), str(int(number))]
        return run_in_process(world, "tests.crash", *moment, "sync")


def kill_many(number: int) -> Trial:
    """Kills at least `number` syncs, in all phases. Every 12th round begins with empty folders."""
    slice_small()
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder) / "0") as world:
        trial = Trial(world, World(world.sandbox, world.settings))
        for round_ in itertools.count():
            if round_ % 12 == 0:
                for twin, name in ((world, "killed"), (trial.twin, "twin")):
                    twin.settings = replace(
                        twin.settings, directory=Path(folder, f"{name}{round_}")
                    )
                trial.twin.now = world.now
                trial.measure()
            phases = trial.random.choices([*PHASES], k=trial.random.choice([1, 1, 2, 3]))
            trial.kill(list(PHASES)[round_ % len(PHASES)], *phases[1:])
            world.move(hours=trial.random.choice([1, 5, 24, 100, 300]))
            if trial.killed.total() - trial.killed["too late"] >= number:
                return trial
    raise AssertionError


def stored(world: World) -> dict[str, Row] | None:
    """The published attempts by sid; None if nothing was ever published."""
    return world.stored() if world.settings.published.exists() else None


if __name__ == "__main__":
    child(*sys.argv[1:])
