"""Turns texts of dates into Arrow timestamps, in any form that names one instant. Pages: decode."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from email.utils import parsedate_to_datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.twilio.columns import TIMESTAMP

_ISO = re.compile(  # 2026-11-23T08:00:00Z, 20261123T080000Z, 2026-11-23 08:00:00.5 +0100
    r"(\d{4})(-?)(\d\d)\2(\d\d)[T ](\d\d)(?:(:?)(\d\d)(?:\6(\d\d)(?:[.,](\d+))?)?)?"
    r" ?(?:Z|UTC|GMT|([+-](?:[01]\d|2[0-3]))(?::?([0-5]\d))?)?",
    re.ASCII | re.IGNORECASE,
)
_EPOCH = re.compile(r"\d{9,13}(\.\d*)?", re.ASCII)
# A date in words without a zone. At another end there may be a zone that Python does not know: CET.
_ZONELESS = re.compile(r".* \d\d?:\d\d(:\d\d)?( \d{4})?( -0000)?", re.ASCII)
_MOST = 100  # characters of a date
_UNIX = datetime(1970, 1, 1, tzinfo=timezone.utc)
_CENTURY = range(946_684_800, 4_102_444_800)  # the years 2000 to 2099 in seconds
_FIRST = pa.scalar(datetime(1, 1, 1, tzinfo=timezone.utc), TIMESTAMP)
_LAST = pa.scalar(datetime(9999, 12, 31, 23, 59, 59, 999_999, timezone.utc), TIMESTAMP)


def instants(texts: pa.Array) -> pa.Array:
    """The instants of `texts`; null for what is not a date with a time.

    Arrow reads the documented form, 2026-11-23T08:00:00Z, but refuses the whole array for one other
    text. Then Python reads each text, and those that Arrow knows to the same instants.
    """
    try:
        found = texts.cast(TIMESTAMP)
    except pa.ArrowInvalid:
        return pa.array([_instant(text) for text in texts.to_pylist()], TIMESTAMP)
    # Arrow accepts the years 0 and 10000, which Python cannot hold.
    usable = pc.and_(pc.greater_equal(found, _FIRST), pc.less_equal(found, _LAST))
    return pc.if_else(usable, found, None)


def _instant(text: str | None) -> datetime | None:
    """Parses what Arrow does not: a date with a time in ISO 8601 or in words, seconds or
    milliseconds since 1970. Without a zone it is UTC. None if the text is neither of these."""
    if text is None or len(text) > _MOST:
        return None
    text = text.strip()
    try:
        return _of_iso(text) or _of_epoch(text) or _of_words(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _of_iso(text: str) -> datetime | None:
    found = _ISO.fullmatch(text)
    if not found:
        return None
    year, _, month, day, hour, _, minute, second, micro, hours, minutes = found.groups("0")
    there = datetime(
        int(year), int(month), int(day), int(hour), int(minute), int(second), tzinfo=timezone.utc
    )
    part = timedelta(microseconds=int(micro[:6].ljust(6, "0")))
    return there + part - timedelta(hours=int(hours), minutes=int(hours[0] + minutes))


def _of_epoch(text: str) -> datetime | None:
    if not _EPOCH.fullmatch(text):
        return None
    for thousand in (1, 1000):
        seconds = Decimal(text) / thousand
        if int(seconds) in _CENTURY:
            return _UNIX + timedelta(microseconds=int(seconds * 10**6))
    return None


def _of_words(text: str) -> datetime | None:
    """A date such as `Mon, 23 Nov 2026 08:00:00 GMT` or `Mon Nov 23 08:00:00 2026`."""
    parsed = parsedate_to_datetime(text)
    if parsed.tzinfo is None and not _ZONELESS.fullmatch(text):
        return None
    return parsed.replace(tzinfo=parsed.tzinfo or timezone.utc).astimezone(timezone.utc)
