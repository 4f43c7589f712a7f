"""The sandbox's options: undocumented API behaviour, limits, faults. Data only, no logic."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

T = TypeVar("T", bool, int, float, str)


def _switch(default: T, summary: str, *choices: str) -> T:
    """A field that is also a command-line option; `summary` is its help text."""
    found: T = field(default=default, metadata={"help": summary, "choices": choices or None})
    return found


@dataclass(frozen=True)
class Switches:
    """API behaviour that Twilio's documentation leaves open."""

    inclusive: bool = _switch(True, "DateCreatedAfter/Before include attempts of exactly that time")
    oldest_first: bool = _switch(False, "list the oldest attempts first")
    upper_case: bool = _switch(False, "write statuses and currency in upper case")
    no_error: str = _switch(
        "null", "how error_code is written when there is no error",
        "null", "absent", "empty", "zero_text", "zero", "mixed",
    )  # fmt: skip
    converts: str = _switch(
        "all", "mark all attempts of a converted verification, or only the last", "all", "last"
    )
    visibility_delay: int = _switch(0, "list new attempts up to this many seconds late")
    doubled: bool = _switch(False, "repeat a page's last attempt on the next page")
    price_touches_updated: bool = _switch(True, "a price change also changes date_updated")
    clamp_page_size: bool = _switch(False, "treat PageSize over 1000 as 1000 instead of an error")
    empty_rate: str = _switch("null", "conversion rate in a summary of no attempts", "null", "zero")
    rate_as_number: bool = _switch(False, "write the summary's rate as a number, not as text")


@dataclass(frozen=True)
class Limits:
    """The API's rate limit and response time."""

    requests: int = _switch(100, "requests allowed per window; 0 = no limit")
    seconds: float = _switch(60.0, "length of the rate limit's window in seconds")
    retry_after: str = _switch(
        "seconds", "form of the Retry-After header of a 429 or 503", "seconds", "date", "none"
    )
    fixed_window: bool = _switch(False, "use fixed windows instead of a sliding window")
    summary_shares: bool = _switch(True, "Summary and list requests share one rate limit")
    latency: float = _switch(0.0, "seconds of delay before an answer")


@dataclass(frozen=True)
class Faults:
    """Faults to inject into responses, page links and rows."""

    fail: str = _switch(
        "", "kinds of failure, separated by commas: 429, 500, 502, 503, 504, reset (connection "
        "broken), hang, truncated, html, broken_json; all = these; not in all: 400, 401, 403, 404",
    )  # fmt: skip
    fail_rate: float = _switch(0.3, "share of requests that fail, from 0 to 1")
    fail_seed: int = _switch(1, "random seed that decides which requests fail")
    hang: float = _switch(30.0, "seconds until an answer that hangs is sent")
    outage: float = _switch(0.0, "answer 503 for this many seconds from the first request on")
    largest_page: int = _switch(0, "answer 400 if PageSize is over this; 0 = never")
    heavy_page: int = _switch(0, "answer 500 if PageSize is over this; 0 = never")
    refused_tokens: int = _switch(0, "refuse this many page tokens, as if they had expired")
    next_page: str = _switch(
        "right", "where next_page_url points: to the right page or to a wrong place",
        "right", "itself", "circle", "host", "plain_http", "filter",
    )  # fmt: skip
    ignored: str = _switch("", "query parameter that the API ignores, such as Country")
    clock_offset: int = _switch(0, "seconds by which the Date header is ahead")
    rows: str = _switch(
        "right", "fault in every third attempt; right = none, mixed = each in turn",
        "right", "unknown_keys", "missing_keys", "nulls", "numbers", "odd_text", "bare_price",
        "empty_channel_data", "new_channel", "no_sid", "no_date", "mixed",
    )  # fmt: skip


SWITCHES = (Limits, Switches, Faults)
