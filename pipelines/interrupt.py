"""Signals that end a run: at once, or after the load package. Reporting: __main__."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = "interrupted; loaded data is kept: run the command again to continue"

_told, _held = threading.Event(), threading.Event()


def heed_signals() -> None:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt; a second one ends the process at once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # a shell may ignore it for background jobs
            signal.signal(number, _stop)


def ignore_signals() -> None:
    """Call at the end of a run: a later signal must not change the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def was_interrupted() -> bool:
    """Whether a signal came. DuckDB turns a signal into an error of its own."""
    return _told.is_set()


@contextmanager
def held() -> Iterator[None]:
    """Delays the first signal: it raises KeyboardInterrupt at the end of the `with` block."""
    _held.set()
    try:
        yield
    finally:
        _held.clear()
    if _told.is_set():
        raise KeyboardInterrupt


@contextmanager
def cancelling(cancel: Callable[[], None]) -> Iterator[None]:
    """Calls `cancel` when a signal comes, from another thread.

    Python runs a signal's handler in the main thread only, and DuckDB 2.0 sometimes lets no Python
    code run there until its query ends.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def wait() -> None:
        while number := os.read(reading, 1):
            if number[0] in (signal.SIGINT, signal.SIGTERM):
                cancel()

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        waiting.join()
        os.close(reading)


def _stop(*_: object) -> None:
    if _told.is_set():
        sys.stderr.write(f"verify-sync: {INTERRUPTED}\n")
        sys.stderr.flush()
        os._exit(1)
    _told.set()
    if not _held.is_set():
        raise KeyboardInterrupt
