"""The views of random attempts equal a recomputation in plain Python."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given as given_any
from hypothesis import settings
from hypothesis import strategies as st

from tests.conftest import Emptied
from tests.sql.given import Row, add, found_by, rows
from tests.worlds import make_kept_tables

FEE = Decimal("0.05")
NEARER_FIRST = (("channel", "country"), ("channel",), ())
CODE_VALIDITY, SETTLED_AFTER = timedelta(minutes=10), timedelta(days=3)
SECOND = timedelta(seconds=1)
DELIVERED = ("delivered", "read", "completed")
FAILED = ("undelivered", "failed", "canceled", "busy", "no-answer")
AROUND_A_SWITCH = {
    "UTC": datetime(2026, 11, 1, tzinfo=timezone.utc),
    "Europe/Berlin": datetime(2026, 3, 28, 12, tzinfo=timezone.utc),
    "America/New_York": datetime(2026, 10, 31, 20, tzinfo=timezone.utc),
}
DESTINATIONS = (
    "+573001234567", "+573001239999", "+4915112345678", "a@example.com", "b@c@Example.COM", "d@",
    "1234", "+1234", "whatsapp:+573001239999", " rcs:+4915112345678", None,
)  # fmt: skip
STATUSES = (
    *DELIVERED, *FAILED, "sent", "in-progress", "DELIVERED", "Undelivered", " read", "BUSY\n", None,
)  # fmt: skip
AGES = (
    timedelta(minutes=2), CODE_VALIDITY - SECOND, CODE_VALIDITY, timedelta(hours=1),
    SETTLED_AFTER - SECOND, SETTLED_AFTER, timedelta(days=5),
)  # fmt: skip

PRICES = st.one_of(
    st.none(),
    st.tuples(st.decimals(0, 2, places=6).map(str), st.sampled_from(["usd", "USD\n", "eur", None])),
)
ATTEMPT = st.fixed_dictionaries(
    {
        "verification_sid": st.sampled_from(["VE0", "VE1", "VE2", "VE3", None]),
        "service_sid": st.sampled_from(["VA0", "VA1", None]),
        "channel": st.sampled_from(["sms", "SMS ", "call", "whatsapp", "email", None]),
        "conversion_status": st.sampled_from(["converted", "\tCONVERTED", "unconverted", None]),
        "minutes": st.integers(0, 2 * 24 * 60),
        "price": PRICES,
        "age": st.sampled_from(AGES),
        "to": st.sampled_from(DESTINATIONS),
        "country": st.sampled_from(["CO", "co ", "US", None]),
        "message_status": st.sampled_from(STATUSES),
        "error_code": st.sampled_from(
            [None, "", "0", 0, 0.0, "null", "30008", " 30008.0", "99999"]
        ),
    }
)


def as_given(number: int, drawn: Row, start: datetime) -> Row:
    data = ("to", "country", "message_status", "error_code")
    price = drawn["price"]
    return {
        **{k: v for k, v in drawn.items() if k not in (*data, "minutes")},
        "sid": f"VL{number:02}",
        "date_created": f"{start + timedelta(minutes=drawn['minutes']):%Y-%m-%dT%H:%M:%SZ}",
        "price": price and {"value": price[0], "currency": price[1]},
        "data": {name: drawn[name] for name in data},
    }


def lower(text: str | None) -> str | None:
    return text and text.strip().lower()


def attempt_of(number: int, drawn: Row, start: datetime) -> Row:
    """The expected row of one attempt, without the columns that depend on other attempts."""
    status, error = lower(drawn["message_status"]), drawn["error_code"]
    final = "delivered" if status in DELIVERED else "failed" if status in FAILED else None
    is_settled = drawn["age"] >= SETTLED_AFTER
    to = drawn["to"] and drawn["to"].rpartition(":")[2]
    prefix = (to or "").rpartition("@")[2].lower() if "@" in (to or "") else (to or "")[:-4]
    error = None if error in (None, "", "0", 0, "null") else error.strip().removesuffix(".0")
    return {
        "attempt_sid": f"VL{number:02}",
        "verification_sid": drawn["verification_sid"] or f"VL{number:02}",
        "service_sid": drawn["service_sid"] or "unknown",
        "account_sid": "AC1",
        "created_at": start + timedelta(minutes=drawn["minutes"]),
        "channel": lower(drawn["channel"]) or "unknown",
        "country": (drawn["country"] or "unknown").strip().replace("co", "CO"),
        "destination": to or "unknown",
        "destination_prefix": (prefix.strip("+") and prefix) or "unknown",
        "conversion_status": lower(drawn["conversion_status"]) or "unknown",
        "is_converted": lower(drawn["conversion_status"]) == "converted",
        "message_status": status or "unknown",
        "delivery_outcome": final or ("unknown" if is_settled else "pending"),
        "error_code": error,
        "error_name": error and {"30008": "Unknown error"}.get(error, "unknown"),
        "price": drawn["price"] and Decimal(drawn["price"][0]),
        "currency": drawn["price"] and ((drawn["price"][1] or "").strip().upper() or "unknown"),
        "is_mature": drawn["age"] >= CODE_VALIDITY,
        "is_settled": is_settled,
        "read_age": drawn["age"].total_seconds(),
    }


def verification_of(sends: list[Row]) -> Row:
    """The expected row of a verification from its attempts in order. Adds to each attempt the
    columns that depend on the others."""
    converted = [n for n, send in enumerate(sends) if send["is_converted"]]
    last = converted[-1] if converted else None
    mature = all(send["is_mature"] for send in sends)
    for number, send in enumerate(sends):
        send |= {
            "attempt_number": number + 1,
            "is_converting_attempt": number == last,
            "is_verification_converted": bool(converted),
            "is_verification_mature": mature,
        }
    channels = [send["channel"] for send in sends]
    prices = [send["price"] for send in sends if send["price"] is not None]
    currencies = {send["currency"] for send in sends if send["price"] is not None}
    one = len(currencies) <= 1
    return {
        "verification_sid": sends[0]["verification_sid"],
        **{name: sends[0][name] for name in ("service_sid", "country", "destination")},
        "destination_prefix": sends[0]["destination_prefix"],
        "started_at": sends[0]["created_at"],
        "last_attempt_at": sends[-1]["created_at"],
        "attempts": len(sends),
        "channels": channels,
        "first_channel": channels[0],
        "last_channel": channels[-1],
        "converted_channel": None if last is None else channels[last],
        "converted_attempt_number": None if last is None else last + 1,
        "is_converted": bool(converted),
        "is_mature": mature,
        "is_settled": all(send["is_settled"] for send in sends),
        "is_undelivered": all(send["delivery_outcome"] == "failed" for send in sends),
        "has_fallback": len(set(channels)) > 1,
        "is_rescued": last is not None and channels[last] != channels[0],
        "channel_spend": sum(prices, Decimal()) if one and prices else None,
        "currency": next(iter(currencies), None) if one else "mixed",
    }


def ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def cells_of(attempts: list[Row], *dimensions: str) -> dict[tuple[Any, ...], list[Row]]:
    cells = defaultdict(list)
    for attempt in attempts:
        cells[tuple(attempt[name] for name in dimensions)].append(attempt)
    return cells


def count(cell: list[Row], *names: str) -> int:
    return sum(all(attempt[name] for name in names) for attempt in cell)


def daily_conversion(attempts: list[Row]) -> list[tuple[Any, ...]]:
    expected = []
    for key, cell in cells_of(attempts, "date", "service_sid", "channel", "country").items():
        mature, converted = count(cell, "is_mature"), count(cell, "is_mature", "is_converted")
        firsts = [a for a in cell if a["attempt_number"] == 1 and a["is_verification_mature"]]
        proved = count(firsts, "is_verification_converted")
        outcomes = Counter(attempt["delivery_outcome"] for attempt in cell)
        delivered, failed = outcomes["delivered"], outcomes["failed"]
        expected.append((
            *key, len(cell), mature, converted, ratio(converted, mature),
            len(firsts), proved, ratio(proved, len(firsts)),
            count(cell, "is_converting_attempt"),
            delivered, failed, outcomes["unknown"], ratio(delivered, delivered + failed),
        ))  # fmt: skip
    return expected


def mean_prices(attempts: list[Row], *dimensions: str) -> dict[tuple[Any, ...], Decimal]:
    return {
        key: sum(prices, Decimal()) / len(prices)
        for key, cell in cells_of(attempts, *dimensions).items()
        if (prices := [a["price"] for a in cell if a["price"] is not None])
    }


def conversion_cost(attempts: list[Row]) -> list[tuple[Any, ...]]:
    known = Counter(a["currency"] for a in attempts if a["price"] is not None)
    del known["unknown"]
    usual = min(known, key=lambda currency: (-known[currency], currency), default="unknown")
    for attempt in attempts:
        priced = attempt["price"] is not None
        attempt["row_currency"] = attempt["currency"] if priced else usual
    alike = [mean_prices(attempts, *names, "row_currency") for names in NEARER_FIRST]
    expected = []
    dimensions = ("date", "service_sid", "channel", "country", "row_currency")
    for key, cell in cells_of(attempts, *dimensions).items():
        prices = [a["price"] for a in cell if a["price"] is not None]
        unpriced = [a for a in cell if a["price"] is None]
        wasted = [
            a["price"] or Decimal()
            for a in cell
            if a["is_verification_mature"] and not a["is_verification_converted"]
        ]
        pending = len(unpriced) - count(unpriced, "is_settled")
        spend, credited = sum(prices, Decimal()), count(cell, "is_converting_attempt")
        total = spend + FEE * credited if key[-1] == "USD" else None
        estimate = total
        if total is not None and pending:
            _, _, *where, currency = key
            found = (
                means.get((*where[:known], currency))
                for means, known in zip(alike, (2, 1, 0), strict=True)
            )
            mean = next((mean for mean in found if mean is not None), None)
            estimate = total + pending * mean if mean is not None else None
        each = None if total is None or not credited else total / credited
        expected.append((
            *key, len(cell), len(prices), pending, len(unpriced) - pending, spend,
            sum(wasted, Decimal()), credited, FEE * credited, total,
            rounded(estimate), rounded(each),
        ))  # fmt: skip
    return expected


def rounded(amount: Decimal | None) -> object:
    """Allows for a dozen amounts that the view rounds to six decimals."""
    return amount if amount is None else pytest.approx(amount, abs=Decimal("0.00001"))


def same(found: list[tuple[Any, ...]], expected: list[tuple[Any, ...]]) -> None:
    def by_text(row: tuple[Any, ...]) -> str:
        return str(row[:5])

    assert sorted(found, key=by_text) == sorted(expected, key=by_text)


@settings(max_examples=settings.default.max_examples // 2)
@given_any(drawn=st.lists(ATTEMPT, max_size=12), zone=st.sampled_from([*AROUND_A_SWITCH]))
def test_views_are_what_python_makes_of_the_same_attempts(
    emptied: Emptied, drawn: list[Row], zone: str
) -> None:
    start, database = AROUND_A_SWITCH[zone], emptied()
    attempts = [attempt_of(n, attempt, start) for n, attempt in enumerate(drawn)]
    attempts.sort(key=lambda attempt: (attempt["created_at"], attempt["attempt_sid"]))
    verifications = [verification_of(s) for s in cells_of(attempts, "verification_sid").values()]
    add(database, *(as_given(n, attempt, start) for n, attempt in enumerate(drawn)))
    database.execute("update settings set timezone = ?", [zone])
    make_kept_tables(database)
    assert found_by(database, "sums_agree") == []
    for view, expected in (
        ("verification_attempts", attempts),
        ("verifications", verifications),
    ):
        names = [*(expected[0] if expected else ["attempts"])]
        if expected:
            found = rows(database, f"select {', '.join(names)} from {view}")
            same(found, [tuple(row[name] for name in names) for row in expected])
        else:
            assert rows(database, f"from {view}") == []
    for attempt in attempts:
        attempt["date"] = attempt["created_at"].astimezone(ZoneInfo(zone)).date()
    same(rows(database, "from daily_conversion"), daily_conversion(attempts))
    same(rows(database, "from conversion_cost"), conversion_cost(attempts))
