"""Warns of gaps: attempts that left retention unread, or soon will. Finding them: windows."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from pipelines.reading.windows import Window, WindowsRead, lost, unread
from pipelines.twilio.limits import RETENTION

WARN_OF_EXPIRY = timedelta(days=5)  # a long weekend, and a day to fix the problem

log = logging.getLogger("verify_sync")


def warn_of_gaps(read: WindowsRead, schedule: Iterable[timedelta], now: datetime) -> None:
    """Logs gaps that are new since the newest read. The views list all gaps."""
    gaps = lost(read, timedelta(), now)
    for window in gaps:
        log.warning(
            "attempts created %s are lost: they were not read within Twilio's 30 days (view gaps)",
            _shown(window),
        )
    for age in schedule:
        for window in lost(read, age, now):
            if window not in gaps:
                log.warning(
                    "attempts created %s may not be final: they were not read at an age of %s "
                    "within Twilio's 30 days (view missed_revisits)",
                    _shown(window),
                    age,
                )


def warn_of_expiry(read: WindowsRead, now: datetime) -> None:
    """After a failed run: warns if unread attempts leave retention in less than 5 days."""
    left = time_left(read, now)
    if left is not None and left < WARN_OF_EXPIRY:
        log.warning(
            "attempts that were not read yet will be lost in %d days %d hours; "
            "a sync must succeed before then",
            left.days,
            left.seconds // 3600,
        )


def time_left(read: WindowsRead, now: datetime) -> timedelta | None:
    """Time until the oldest unread attempt is 30 days old. None if all is read, or nothing yet."""
    windows = unread(read, now)
    return max(windows[0].after + RETENTION - now, timedelta()) if windows else None


def _shown(window: Window) -> str:
    return f"from {window.after:%F %T} to {window.before:%F %T} UTC"
