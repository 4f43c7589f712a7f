"""Faults on demand: failing responses, wrong next-page URLs, odd rows. Options: switches."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pipelines.sandbox.switches import Faults

STATUSES = {"429": 20429, "500": 20500, "502": 20502, "503": 20503, "504": 20504}
LASTING = {"400": 60200, "401": 20003, "403": 20403, "404": 20404}
BODIES = ("truncated", "html", "broken_json")  # status 200 with a bad body
KINDS = (*STATUSES, *BODIES, "reset", "hang")
HTML = "<!doctype html><html><body>We will be back shortly.</body></html>"


class Failing:
    """Decides which requests fail, and how. Same seed, same order of requests: same faults."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._kinds = KINDS if faults.fail == "all" else tuple(filter(None, faults.fail.split(",")))
        known = (*KINDS, *LASTING)
        unknown = set(self._kinds) - set(known)
        if unknown:
            raise ValueError(f"unknown fault {unknown.pop()}; use all or any of {', '.join(known)}")
        if not 0 <= faults.fail_rate <= 1:
            raise ValueError("fail-rate must be from 0 to 1")
        self._random = random.Random(faults.fail_seed)
        self._began: float | None = None
        self._tokens_left = faults.refused_tokens
        self._lock = threading.Lock()

    def draw(self, at: float) -> str | None:
        """The kind of failure for a request that arrives `at` (monotonic seconds); None = none."""
        with self._lock:
            if self._began is None:
                self._began = at
            if at - self._began < self._faults.outage:
                return "503"
            if self._kinds and self._random.random() < self._faults.fail_rate:
                return self._random.choice(self._kinds)
            return None

    def refuses_token(self) -> bool:
        with self._lock:
            self._tokens_left -= 1
            return self._tokens_left >= 0


def mislead(next_page: str, url: str) -> str:
    """`url` with a wrong host, port or filter, as `next_page` says; otherwise `url` itself."""
    parts = urlsplit(url)
    if next_page == "host":
        return urlunsplit(parts._replace(netloc=f"localhost:{parts.port}"))
    if next_page == "plain_http":
        return urlunsplit(parts._replace(netloc=f"{parts.hostname}:80"))
    if next_page == "filter":
        return url.replace("DateCreatedAfter=20", "DateCreatedAfter=19")
    return url


def odd(text: str, rows: str, number: int) -> str:
    """The attempt as JSON. Every third one gets the fault that `rows` names."""
    if rows == "right" or number % 3:
        return text
    attempt = json.loads(text)
    kinds = list(_ODD)
    _ODD[kinds[number // 3 % len(kinds)] if rows == "mixed" else rows](attempt)
    return json.dumps(attempt)


def _unknown_keys(attempt: dict[str, Any]) -> None:
    attempt["brand"] = {"id": 7}
    attempt["channel_data"]["segments"] = 2


def _missing_keys(attempt: dict[str, Any]) -> None:
    for name in ("url", "channel", "date_updated", "price"):
        del attempt[name]
    for name in ("locale", "to", "code_length"):
        del attempt["channel_data"][name]


def _nulls(attempt: dict[str, Any]) -> None:
    for name in attempt.keys() - {"sid", "date_created"}:
        attempt[name] = None


def _numbers(attempt: dict[str, Any]) -> None:
    attempt["channel_data"] |= {"mcc": 732, "mnc": 5, "error_code": 30008, "code_length": "6"}
    attempt["price"] = {"value": 0.25, "currency": 840}
    attempt["account_sid"] = 5


def _odd_text(attempt: dict[str, Any]) -> None:
    """Half an emoji (a lone surrogate), as left by software that cuts UTF-16 text."""
    attempt["channel_data"]["carrier"] = "Tigo \ud83d"
    attempt["account_sid"] = attempt["account_sid"].upper()


def _bare_price(attempt: dict[str, Any]) -> None:
    attempt["price"] = 0.005


def _empty_channel_data(attempt: dict[str, Any]) -> None:
    attempt["channel_data"] = {}


def _new_channel(attempt: dict[str, Any]) -> None:
    attempt["channel"] = "SILENT_NETWORK_AUTH"


def _no_sid(attempt: dict[str, Any]) -> None:
    attempt["sid"] = None


def _no_date(attempt: dict[str, Any]) -> None:
    attempt["date_created"] = "soon"


_ODD: dict[str, Callable[[dict[str, Any]], None]] = {
    "unknown_keys": _unknown_keys,
    "missing_keys": _missing_keys,
    "nulls": _nulls,
    "numbers": _numbers,
    "odd_text": _odd_text,
    "bare_price": _bare_price,
    "empty_channel_data": _empty_channel_data,
    "new_channel": _new_channel,
    "no_sid": _no_sid,
    "no_date": _no_date,
}
