"""Signals that end a run: at once, or after the load package. Reporting: __main__."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = "interrupted; loaded data is kept: run the command again to continue"

# Plain flags: a second signal may come inside of the first one's handler, and there the lock of a
# threading.Event would wait for itself.
_is_told = _is_held = False


def heed_signals() -> None:
    """The first Ctrl-C or SIGTERM raises KeyboardInterrupt. Later ones change nothing.

    A service manager and `make` may both pass on the same stop, so a second signal does not mean
    that somebody is in a hurry.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) != signal.SIG_IGN:  # a shell may ignore it for background jobs
            signal.signal(number, _stop)


def ignore_signals() -> None:
    """Call at the end of a run: a later signal must not change the exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def was_interrupted() -> bool:
    """Whether a signal came. DuckDB turns a signal into an error of its own."""
    return _is_told


def check() -> None:
    """Raises KeyboardInterrupt if a signal came. Long loops call it: an exception that comes while
    Python cleans up an object is lost."""
    if _is_told:
        raise KeyboardInterrupt


@contextmanager
def held() -> Iterator[None]:
    """Delays the first signal: it raises KeyboardInterrupt at the end of the `with` block, if that
    is not inside of another one."""
    global _is_held
    before, _is_held = _is_held, True
    try:
        yield
    finally:
        _is_held = before
    if not before:
        check()


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
    global _is_told
    if _is_told:
        return
    _is_told = True
    if not _is_held:
        raise KeyboardInterrupt
