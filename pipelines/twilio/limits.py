"""The API's address and limits, as documented, and our timeouts. Constants only."""

from __future__ import annotations

from datetime import timedelta

DEFAULT_BASE_URL = "https://verify.twilio.com"
MAX_PAGE_SIZE = 1000  # attempts; the API's own limit
REQUESTS_PER_MINUTE = 100  # the API's own limit
RETENTION = timedelta(days=30)  # the API lists attempts of the last 30 days only
SECOND = timedelta(seconds=1)  # the resolution of the API's dates
TIMEOUT = 20.0  # seconds without a byte; the API itself gives up after 15
GIVE_UP_AFTER = 600.0  # seconds of retries from the first failure on
