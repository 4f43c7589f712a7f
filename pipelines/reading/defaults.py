"""Defaults of reading: schedule and concurrency. The API's own limits: twilio.limits."""

from __future__ import annotations

from datetime import timedelta
from math import ceil

DEFAULT_SCHEDULE = (timedelta(minutes=15), timedelta(hours=26), timedelta(days=3))
SETTLED_AFTER = timedelta(days=3)  # 24 h code validity, slow receipts, 24 h for the price
CONCURRENCY = 4  # chains at a time: at 2 s a page enough for 100 requests a minute
MOST_CHAINS = 16  # the most by default: each holds up to a slice in memory


def default_concurrency(requests_per_minute: int) -> int:
    """How many chains to read at a time: enough for the rate limit at 2 s a page, 4 to 16."""
    return max(CONCURRENCY, min(ceil(CONCURRENCY * requests_per_minute / 100), MOST_CHAINS))
