"""Finds out how an account's API really behaves, where its documentation is silent.

Sends at most 20 requests, stores nothing, and tells no phone number and no SID. Printing: the
command `probe`.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from pipelines.errors import Failure, masked
from pipelines.text import counted
from pipelines.twilio.clock import instant_of
from pipelines.twilio.connection import Answer
from pipelines.twilio.limits import MAX_PAGE_SIZE, RETENTION
from pipelines.twilio.query import format_instant
from pipelines.twilio.raw import (
    Listed,
    Parameters,
    form_of_code,
    good,
    is_code,
    letters,
    listed,
    marked,
    number,
    object_of,
    told_of,
    value_at,
    values_at,
)

MOST_REQUESTS = 20
_WINDOW = 40  # attempts in the window that is read in several ways
_LIST, _SUMMARY, _NOBODY = "", "/Summary", "/VL" + "0" * 32
_NO_ERROR = {"absent", "null", '""', '"0"', "0"}
_DAY = timedelta(days=1)
Ask = Callable[[str, Mapping[str, str]], Answer]


class Finding(NamedTuple):
    """A question, the API's answer, and what verify-sync assumes. `holds`: None if unknown."""

    question: str
    answer: str
    assumed: str
    holds: bool | None = True


def findings(ask: Ask, now: datetime) -> Iterator[Finding]:
    """Asks the API by `ask`, which sends a path below the list and its parameters.

    Raises Failure if an answer that must be good is not.
    """
    ask = _at_most(MOST_REQUESTS, ask)
    whole = _bounds(now - RETENTION + timedelta(hours=1), now)
    answer = ask(_LIST, {**whole, "PageSize": str(MAX_PAGE_SIZE)})
    yield _page_size(answer)
    size = {"PageSize": str(MAX_PAGE_SIZE)} if answer.status == 200 else {}
    if answer.status != 200:
        answer = good(ask(_LIST, whole))
    yield from _head(answer, now)
    sample = listed(answer)
    yield from _values(sample)
    yield _larger_page(ask(_LIST, {**whole, "PageSize": str(MAX_PAGE_SIZE + 1)}))
    times = sorted(set(sample.created))
    if len(times) < 3:
        yield Finding("bounds, pages, Summary", "too few attempts to tell", "", None)
    else:
        first, last = times[-min(len(times), _WINDOW)], times[-1]
        within = [at for at in sample.created if first <= at <= last]
        found = listed(good(ask(_LIST, {**_bounds(first, last), **size})))
        yield from _window(ask, first, last, found, len(within))
        yield _fraction(ask, first, last)
    yield from _nothing(ask, now)
    yield from _mistakes(ask, whole)


def _at_most(requests: int, ask: Ask) -> Ask:
    left = itertools.count(requests, -1)

    def limited(path: str, parameters: Mapping[str, str]) -> Answer:
        if not next(left):
            raise Failure(f"more than {requests} requests would be needed: report this")
        return ask(path, parameters)

    return limited


def _page_size(answer: Answer) -> Finding:
    question, assumed = "a page of 1000 attempts", "accepted; smaller ones are asked for otherwise"
    if answer.status != 200:
        return Finding(question, told_of(answer), assumed, False)
    page = listed(answer)
    more = "more follow" if page.following else "no more"
    return Finding(question, f"accepted: {counted(len(page.rows), 'attempt')}, {more}", assumed)


def _larger_page(answer: Answer) -> Finding:
    told = told_of(answer)
    if answer.status == 200:
        told = f"accepted: {counted(len(listed(answer).rows), 'attempt')}"
    return Finding("a page of 1001 attempts", told, "never asked for")


def _head(answer: Answer, now: datetime) -> Iterator[Finding]:
    limits = [name for name in answer.headers if "limit" in name.lower() or "retry" in name.lower()]
    told = ", ".join(masked(f"{name}: {answer.headers[name]}") for name in limits)
    yield Finding("headers about the rate limit", told or "none", "none are needed")
    date = instant_of(answer.headers.get("Date"))
    if date is None:
        yield Finding("Date header", "none", "sent, to check this machine's clock", False)
    else:
        off = abs((date - now).total_seconds())
        told = f"sent; this machine's clock differs by {off:.0f} s"
        yield Finding("Date header", told, "sent, and at most 60 s off", off <= 60)


def _values(sample: Listed) -> Iterator[Finding]:
    """What the rows of the first page say."""
    rows, created = sample.rows, sample.created
    if not rows:
        yield Finding("attempts of the last 30 days", "none, so most cannot be told", "", None)
        return
    steps = {
        (before < after) - (before > after) for before, after in itertools.pairwise(created)
    } - {0}
    order = {(1,): "oldest first", (-1,): "newest first", (-1, 1): "in no order"}
    told = order.get(tuple(sorted(steps)), "cannot be told")
    yield Finding("order of the list", told, "any order")
    fractions = sum(at.microsecond > 0 for at in created)
    told = f"{counted(fractions, 'attempt')} with a fraction" if fractions else "whole seconds"
    yield Finding("precision of date_created", told, "whole seconds", not fractions)
    yield Finding("rows that are no attempts", str(sample.others), "0, or stored apart")
    for name in ("conversion_status", "channel", "channel_data.status",
                 "channel_data.message_status", "price.currency"):  # fmt: skip
        yield Finding(f"letters of {name}", letters(values_at(rows, name)), "any letters")
    forms = {form_of_code(row) for row in rows if not is_code(row)}
    told = ", ".join(sorted(forms)) or "cannot be told"
    yield Finding("error_code without an error", told, 'null, absent, "" or 0', forms <= _NO_ERROR)
    old = [row for row, at in zip(rows, created, strict=True) if at < max(created) - _DAY]
    priced = sum(value_at(row, "price.value") is not None for row in old)
    told = f"{priced} of {len(old)} that are a day older than the newest" if old else "too early"
    yield Finding("attempts with a price", told, "the price comes within a day, or never")
    yield Finding("what a conversion marks", marked(rows), "all attempts of it, or the last")
    told = ", ".join(masked(key[:40]) for key in sorted(sample.new_keys)[:20]) or "none"
    yield Finding("keys that have no column", told, "kept in extra")


def _window(
    ask: Ask, first: datetime, last: datetime, found: Listed, within: int
) -> Iterator[Finding]:
    """Compares the attempts `found` from `first` to `last` with those on several pages and with the
    Summary. With both bounds they are `within`."""
    bounds = _bounds(first, last)
    inner = sum(first < at < last for at in found.created)
    for name, bound in (("DateCreatedAfter", first), ("DateCreatedBefore", last)):
        told = "included" if bound in found.created else "excluded"
        yield Finding(f"attempts of exactly {name}", told, "either: 1 s more is asked for")
    outside = sum(not first <= at <= last for at in found.created)
    told = counted(outside, "attempt") + " outside" if outside else "heeded"
    yield Finding("bounds of the list", told, "heeded", not outside)
    yield from _paged(ask, bounds, found)
    total = object_of(good(ask(_SUMMARY, bounds)))
    told = f"{total.get('total_attempts')} where the list has {len(found.rows)}"
    holds = inner <= number(total, "total_attempts") <= within + found.others
    yield Finding("Summary's total_attempts", told, "those of the list", holds)
    converted = sum(str(row.get("conversion_status")).lower() == "converted" for row in found.rows)
    told = f"{total.get('total_converted')} where the list has {converted}"
    differs = abs(number(total, "total_converted") - converted)
    yield Finding(
        "Summary's total_converted", told, "those of the list", differs <= 2 + found.others
    )
    middle = sorted(found.created)[len(found.created) // 2] if found.created else last
    halves = [object_of(good(ask(_SUMMARY, part))) for part in
              (_bounds(first, middle), _bounds(middle, last))]  # fmt: skip
    both = sum(number(half, "total_attempts") for half in halves)
    at_middle = found.created.count(middle)
    differs = abs(both - number(total, "total_attempts"))
    told = "heeded" if differs <= at_middle else f"{both} in two halves of {len(found.rows)}"
    yield Finding("bounds of the Summary", told, "heeded", differs <= at_middle)
    rate = total.get("conversion_rate_percentage")
    kind = "a number" if isinstance(rate, (int, float)) else "text"
    yield Finding("Summary's rate", kind if rate is not None else "null", "not used")


def _paged(ask: Ask, bounds: Parameters, found: Listed) -> Iterator[Finding]:
    """Reads the window again in about three pages."""
    size = str(max(len(found.rows) // 3, 1))
    pages = [listed(good(ask(_LIST, {**bounds, "PageSize": size})))]
    while pages[-1].following and len(pages) < 5:
        pages.append(listed(good(ask(_LIST, pages[-1].following))))
    sids = [str(row.get("sid")) for page in pages for row in page.rows]
    missed = len({str(row.get("sid")) for row in found.rows} - set(sids))
    doubled = len(sids) - len(set(sids))
    told = f"{missed} missing, {doubled} twice in {counted(len(pages), 'page')}"
    yield Finding("attempts on several pages", told, "none is missing", not missed)


def _fraction(ask: Ask, first: datetime, last: datetime) -> Finding:
    bounds = _bounds(first, last)
    bounds["DateCreatedAfter"] = bounds["DateCreatedAfter"].replace("Z", ".500Z")
    answer = ask(_LIST, bounds)
    told = told_of(answer)
    if answer.status == 200:
        told = "accepted, as after" if first not in listed(answer).created else "cut off"
    return Finding("a bound with a fraction of a second", told, "never sent")


def _nothing(ask: Ask, now: datetime) -> Iterator[Finding]:
    """An hour of the future, where nothing can be."""
    bounds = _bounds(now + _DAY, now + _DAY + timedelta(hours=1))
    answer = ask(_LIST, bounds)
    told, is_empty = told_of(answer), False
    if answer.status == 200:
        page = listed(answer)
        is_empty = not page.rows and page.following is None
        told = "no attempts, no next page" if is_empty else counted(len(page.rows), "attempt")
    yield Finding("a window without attempts", told, "no attempts, no next page", is_empty)
    answer = ask(_SUMMARY, bounds)
    told, is_zero = told_of(answer), False
    if answer.status == 200:
        total = object_of(answer)
        is_zero = total.get("total_attempts") == 0
        rate = json.dumps(total.get("conversion_rate_percentage"))
        told = f"{total.get('total_attempts')} attempts, rate {masked(rate)}"
    yield Finding("its Summary", told, "0 attempts", is_zero)


def _mistakes(ask: Ask, whole: Parameters) -> Iterator[Finding]:
    for name, value in (("Country", "ZZ"), ("Channel", "pigeon"), ("Status", "maybe")):
        answer = ask(_LIST, {**whole, name: value, "PageSize": "1"})
        told, is_heeded = told_of(answer), True
        if answer.status == 200:
            is_heeded = not listed(answer).rows
            told = "no attempts" if is_heeded else "ignored"
        yield Finding(f"{name}={value}", told, "refused, or no attempts", is_heeded)
    answer = ask(_LIST, {**whole, "Contry": "CO", "PageSize": "1"})
    yield Finding(
        "a parameter that does not exist", told_of(answer), "ignored", answer.status == 200
    )
    answer = ask(_NOBODY, {})
    yield Finding("a SID that does not exist", told_of(answer), "404", answer.status == 404)


def _bounds(after: datetime, before: datetime) -> Parameters:
    return {"DateCreatedAfter": format_instant(after), "DateCreatedBefore": format_instant(before)}
