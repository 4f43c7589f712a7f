"""A fake clock that only the test moves, so a slow machine does not change the result."""

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
# The modules that use `time` for a run's current time, its duration and the age of an answer.
OF_A_RUN = (clock, runs, session, transport)
_BEGAN = 1_800_000_000.0


class Time:
    """Replaces the module `time` in our modules. Each look at the clock adds a microsecond. `sleep`
    adds its seconds and returns at once. A test adds seconds to `elapsed`. Thread-safe."""

    def __init__(self, change: Change = setattr) -> None:
        self.elapsed = 0.0
        self.slept = 0.0  # seconds that the machine slept: monotonic() stops meanwhile
        self.set = 0.0  # seconds by which somebody has set the wall clock forward
        self._change = change
        self._looks = itertools.count(1)
        self._lock = threading.Lock()

    CLOCK_BOOTTIME, CLOCK_MONOTONIC = 7, 1

    def monotonic(self) -> float:
        return self.elapsed + next(self._looks) * 1e-6

    def time(self) -> float:
        return _BEGAN + self.set + self.slept + self.monotonic()

    def clock_gettime(self, _: int) -> float:
        """CLOCK_BOOTTIME; on macOS CLOCK_MONOTONIC. It goes on while the machine sleeps."""
        return self.slept + self.monotonic()

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.elapsed += seconds

    def rule(self, *modules: ModuleType) -> None:
        """Makes these modules use this clock."""
        for module in modules:
            self._change(module, "time", self)

    def rule_waits(self) -> None:
        """Makes the rate limit, retries and the sandbox's limits use this clock. A thread that
        waits moves the clock for all threads."""
        pause = Pacer.pause

        def passing(pacer: Pacer, seconds: float) -> None:
            self.sleep(seconds)
            pause(pacer, 0)

        self.rule(pacing, retries, server)
        self._change(Pacer, "pause", passing)


def wait_until(condition: Callable[[], object]) -> None:
    """Waits until `condition()` is true. It needs no timeout of its own: every test has one."""
    while not condition():
        time.sleep(0.005)
