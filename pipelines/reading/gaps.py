"""Warns of attempts that Twilio forgot unread, or soon will. Finding them: windows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from pipelines.reading.windows import Window, WindowsRead, lost, unread
from pipelines.twilio.limits import RETENTION

WARN_OF_EXPIRY = timedelta(days=5)  # a long weekend, and a day to mend what is broken

log = logging.getLogger("verify_sync")


def warn_of_gaps(read: WindowsRead, schedule: Iterable[timedelta], now: datetime) -> None:
    """Says what has left retention since the newest read: the views have all that ever did."""
    gaps = lost(read, timedelta(), now)
    for window in gaps:
        log.warning(
            "attempts created %s are lost: Twilio forgot them before they were read (view gaps)",
            _shown(window),
        )
    for age in schedule:
        for window in lost(read, age, now):
            if window not in gaps:
                log.warning(
                    "attempts created %s may not be final: Twilio forgot them before they were "
                    "read at an age of %s (view missed_revisits)",
                    _shown(window),
                    age,
                )


def warn_of_expiry(read: WindowsRead, now: datetime) -> None:
    """After a failed run: says so if attempts will soon be lost for want of one that succeeds."""
    left = time_left(read, now)
    if left is not None and left < WARN_OF_EXPIRY:
        log.warning(
            "Twilio forgets attempts that were not read yet in %d days %d hours; "
            "each run that fails brings that closer",
            left.days,
            left.seconds // 3600,
        )


def time_left(read: WindowsRead, now: datetime) -> timedelta | None:
    """Until the oldest attempt that was never read is 30 days old; None before the first read."""
    windows = unread(read, now)
    return max(windows[0].after + RETENTION - now, timedelta()) if windows else None


def _shown(window: Window) -> str:
    return f"from {window.after:%F %T} to {window.before:%F %T} UTC"
