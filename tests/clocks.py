"""Time that a test moves, in the place of the machine's: when a machine stalls, none passes."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pipelines.sandbox import server
from pipelines.twilio import clock, pacing, retries, transport
from pipelines.twilio.pacing import Pacer
from pipelines.warehouse import runs, session

Change = Callable[[Any, str, Any], None]
# What a run's present, its length and the age of an answer are told by.
OF_A_RUN = (clock, runs, session, transport)
_BEGAN = 1_800_000_000.0


class Time:
    """What our modules use of `time`. A look takes a microsecond of it, and a sleep as long as it
    says, without waiting; a test adds to `elapsed` what else passes, in seconds. Thread-safe."""

    def __init__(self, change: Change = setattr) -> None:
        self.elapsed = 0.0
        self.slept = 0.0  # of the machine, which only its clock goes through
        self._change = change
        self._looks = itertools.count(1)
        self._lock = threading.Lock()

    def monotonic(self) -> float:
        return self.elapsed + next(self._looks) * 1e-6

    def time(self) -> float:
        return _BEGAN + self.slept + self.monotonic()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.elapsed += seconds

    def rule(self, *modules: ModuleType) -> None:
        """They have no other time from now on."""
        for module in modules:
            self._change(module, "time", self)

    def rule_waits(self) -> None:
        """Nor have the rate limit, the tries after a failure, and the sandbox's limits. A thread
        that waits takes the others with it."""
        pause = Pacer.pause

        def passing(pacer: Pacer, seconds: float) -> None:
            self.sleep(seconds)
            pause(pacer, 0)

        self.rule(pacing, retries, server)
        self._change(Pacer, "pause", passing)


def wait_until(condition: Callable[[], object]) -> None:
    """However long it takes: what hangs is ended by the timeout that every test has."""
    while not condition():
        time.sleep(0.005)
