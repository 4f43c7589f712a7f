"""Both answers to every question about the wire that Twilio's documentation leaves open."""

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
    """What the API says and how it says it."""

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
    retry_after: bool = _switch(True, "a 429 has a Retry-After header")
    fixed_window: bool = _switch(False, "count by the clock's minute, not the trailing one")
    summary_shares: bool = _switch(True, "Summary and list draw from one allowance")
    latency: float = _switch(0.0, "seconds every answer takes longer")
