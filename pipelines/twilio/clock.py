"""The present of a run, compared with Twilio's clock. Does not wait."""

from __future__ import annotations

import threading
import time
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from pipelines.errors import Failure

TOLERANCE = timedelta(seconds=60)


class Clock:
    """A run's present: `start`, which is now, plus the time elapsed since; never the same twice.

    Of two copies of an attempt the one with the later instant wins, so pages need an order even
    where the machine's clock is coarse; and a clock set back during a run does not disturb it.
    """

    def __init__(self, start: datetime) -> None:
        self._start, self._origin = start, time.monotonic()
        self._machine = start.timestamp() - time.time()
        self._last = start
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        with self._lock:
            present = self._start + timedelta(seconds=time.monotonic() - self._origin)
            self._last = max(present, self._last + timedelta(microseconds=1))
            return self._last

    def check(self, date: str | None, seconds: float) -> None:
        """Compares with the `Date` of an answer that took `seconds`, if it has one.

        Raises Failure when they differ by more than a minute: a clock that is ahead would have
        time recorded as read that has not been yet.
        """
        theirs = instant_of(date)
        if theirs is None:
            return
        # The machine's clock as it stands, because this one lags after the machine has slept.
        machine = datetime.fromtimestamp(time.time() + self._machine, theirs.tzinfo)
        ahead = max(machine, self()) - theirs - timedelta(seconds=seconds)
        if ahead > TOLERANCE or theirs - machine > TOLERANCE:
            raise Failure(
                f"this machine's clock says {machine:%F %T} UTC and Twilio's {theirs:%F %T}: "
                "set it right and run again; nothing that was read by it is recorded"
            )


def instant_of(date: str | None) -> datetime | None:
    """An HTTP date, aware; None if it is none."""
    try:
        parsed = parsedate_to_datetime(date) if date else None
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return parsed if parsed is not None and parsed.tzinfo is not None else None
