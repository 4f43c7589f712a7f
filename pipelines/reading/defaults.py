"""Defaults of reading: schedule and concurrency. The API's own limits: twilio.limits."""

from __future__ import annotations

from datetime import timedelta
from math import ceil

DEFAULT_SCHEDULE = (timedelta(minutes=15), timedelta(hours=26), timedelta(days=3))
SETTLED_AFTER = timedelta(days=3)  # 24 h code validity, slow receipts and 24 h for the price
CONCURRENCY = 4  # chains read at a time: at 2 s a page they keep up with 100 requests a minute
MOST_CHAINS = 16  # unless told otherwise: each holds up to a slice in memory


def default_concurrency(requests_per_minute: int) -> int:
    """Chains read at a time that keep up with the rate limit at 2 s a page, within reason."""
    return max(CONCURRENCY, min(ceil(CONCURRENCY * requests_per_minute / 100), MOST_CHAINS))
