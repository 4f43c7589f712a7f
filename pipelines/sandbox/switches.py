"""The sandbox's options: open questions of the API, limits, faults. Nothing acts on them here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T", bool, int, float, str)


def _switch(default: T, summary: str, *choices: str) -> T:
    """A field that is also a command-line option: its help, and its choices if it has any."""
    found: T = field(default=default, metadata={"help": summary, "choices": choices or None})
    return found


@dataclass(frozen=True)
class Switches:
    """Either answer to each question that Twilio's documentation leaves open."""

    inclusive: bool = _switch(True, "DateCreatedAfter/Before include their instant")
    oldest_first: bool = _switch(False, "list the oldest attempts first")
    upper_case: bool = _switch(False, "statuses and currency in capitals")
    no_error: str = _switch(
        "null", "how 'no error' is written",
        "null", "absent", "empty", "zero_text", "zero", "mixed",
    )  # fmt: skip
    converts: str = _switch(
        "all", "which attempts of a converted verification are marked", "all", "last"
    )
    visibility_delay: int = _switch(0, "seconds (at most) before a new attempt is listed")
    doubled: bool = _switch(False, "repeat a page's last attempt on the next page")
    price_touches_updated: bool = _switch(True, "a price change moves date_updated")
    clamp_page_size: bool = _switch(False, "PageSize over 1000 is clamped, not refused")
    empty_rate: str = _switch("null", "conversion rate of an empty summary", "null", "zero")
    rate_as_number: bool = _switch(False, "the summary's rate is a number, not text")


@dataclass(frozen=True)
class Limits:
    """How many requests the API takes in how many seconds, and how it says no."""

    requests: int = _switch(100, "requests allowed; 0 = no limit")
    seconds: float = _switch(60.0, "… in so many seconds")
    retry_after: str = _switch(
        "seconds", "how a 429 or 503 says when to come again", "seconds", "date", "none"
    )
    fixed_window: bool = _switch(False, "count by the clock's minute, not the trailing one")
    summary_shares: bool = _switch(True, "Summary and list draw from one allowance")
    latency: float = _switch(0.0, "seconds every answer takes longer")


@dataclass(frozen=True)
class Faults:
    """What goes wrong: with any request, with chains of pages, with rows."""

    fail: str = _switch(
        "", "how answers fail, separated by commas: 429, 500, 502, 503, 504, reset (connection "
        "broken), hang, truncated, html, broken_json; all = any of these, or 400, 401, 403, 404",
    )  # fmt: skip
    fail_rate: float = _switch(0.3, "share of answers that fail so")
    fail_seed: int = _switch(1, "which ones")
    hang: float = _switch(30.0, "seconds before an answer that hangs comes after all")
    outage: float = _switch(0.0, "all answers are 503 for so many seconds from the first request")
    heavy_page: int = _switch(0, "pages of more than so many attempts are 500; 0 = none")
    refused_tokens: int = _switch(0, "so many page tokens are refused as expired")
    next_page: str = _switch(
        "right", "where next_page_url leads from a first page",
        "right", "itself", "circle", "host", "plain_http", "filter",
    )  # fmt: skip
    ignored: str = _switch("", "a query parameter that the API does not know, like Country")
    clock_offset: int = _switch(0, "seconds by which the Date header is ahead")
    rows: str = _switch(
        "right", "what every third attempt looks like",
        "right", "unknown_keys", "missing_keys", "nulls", "numbers", "odd_text", "bare_price",
        "empty_channel_data", "new_channel", "no_sid", "no_date", "mixed",
    )  # fmt: skip


SWITCHES = (Limits, Switches, Faults)
