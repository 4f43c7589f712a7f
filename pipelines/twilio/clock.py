"""The clock of a run, compared with Twilio's clock. Waiting: pacing."""

from __future__ import annotations

import logging
import threading
import time
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from pipelines.errors import Failure

TOLERANCE = timedelta(seconds=60)
_LONGEST = 100  # characters of a date

log = logging.getLogger("verify_sync")


class Clock:
    """The time of a run: `start` (now) plus the time since. Each call returns a later instant.

    Of two copies of an attempt, the one read later wins. So two pages must not have the same
    instant, even if the machine's clock is coarse. Setting that clock back does not disturb a run.
    """

    def __init__(self, start: datetime) -> None:
        self._start, self._origin = start, time.monotonic()
        self._machine = start.timestamp() - time.time()
        self._last = start
        self._is_unchecked = False
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        with self._lock:
            present = self._start + timedelta(seconds=time.monotonic() - self._origin)
            self._last = max(present, self._last + timedelta(microseconds=1))
            return self._last

    def check(self, date: str | None, seconds: float) -> None:
        """Compares this clock with `date`, the `Date` header of an answer that took `seconds`.

        Raises Failure if they differ by more than a minute: with a clock that is ahead, the run
        would record future time as read. Without a `Date` there is no check; one
        line says so.
        """
        theirs = instant_of(date)
        if theirs is None:
            self._warn()
            return
        # Read the machine's clock: the clock of the run lags behind after the machine has slept.
        machine = datetime.fromtimestamp(time.time() + self._machine, theirs.tzinfo)
        ahead = max(machine, self()) - theirs - timedelta(seconds=seconds)
        if ahead > TOLERANCE or theirs - machine > TOLERANCE:
            raise Failure(
                f"this machine's clock says {machine:%F %T} UTC, Twilio's says {theirs:%F %T}: "
                "correct the machine's clock and run again; nothing read with it is recorded"
            )

    def _warn(self) -> None:
        with self._lock:
            is_told, self._is_unchecked = self._is_unchecked, True
        if not is_told:
            log.warning(
                "this machine's clock could not be checked, because Twilio's answers have no date: "
                "if it is wrong, attempts are read late or not at all"
            )


def instant_of(date: str | None) -> datetime | None:
    """An HTTP date as an aware datetime; None if it is missing or invalid."""
    try:
        parsed = parsedate_to_datetime(date) if date and len(date) <= _LONGEST else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed if parsed is not None and parsed.tzinfo is not None else None
