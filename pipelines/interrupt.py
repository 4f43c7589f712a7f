"""Signals that end a run: at once, or after the load package. What is told then: __main__."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

INTERRUPTED = "interrupted; what was loaded is kept: run it again to go on"

_told, _held = threading.Event(), threading.Event()


def heed_signals() -> None:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt; a second one ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # as a shell has it for background jobs
            signal.signal(number, _stop)


def ignore_signals() -> None:
    """When all is said, so that the exit code stands."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def was_interrupted() -> bool:
    """Whether a signal came: DuckDB makes errors of its own of one."""
    return _told.is_set()


@contextmanager
def held() -> Iterator[None]:
    """A signal that comes in here raises KeyboardInterrupt when it is left."""
    _held.set()
    try:
        yield
    finally:
        _held.clear()
    if _told.is_set():
        raise KeyboardInterrupt


def _stop(*_: object) -> None:
    if _told.is_set():
        sys.stderr.write(f"verify-sync: {INTERRUPTED}\n")
        sys.stderr.flush()
        os._exit(1)
    _told.set()
    if not _held.is_set():
        raise KeyboardInterrupt
