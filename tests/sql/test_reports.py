"""The reports: a few rows written by hand, and the expected rows of each view."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import duckdb
import pytest

from pipelines.warehouse.views import view_files
from tests.sql.given import CONVERTED, READ_EARLY, Row, given, rows

NOVEMBER = date(2026, 11, 1)
EURO = {"price": {"value": "0.10", "currency": "EUR"}}
FREE = {"price": None}


def sends(
    verification: int, *channels: str, converted: int | None = None, **more: Any
) -> list[Row]:
    """The attempts of a verification in order. The one at index `converted` converts."""
    return [
        {
            "sid": f"VL{verification}{number}",
            "verification_sid": f"VE{verification}",
            "channel": channel,
            **(CONVERTED if number == converted else {}),
            **more,
        }
        for number, channel in enumerate(channels)
    ]


def failing(error: str | None, **more: Any) -> Row:
    data = {"message_status": "undelivered", "error_code": error, **more.pop("data", {})}
    return {"verification_sid": None, "data": data, **more}


def test_an_empty_account_has_empty_views(database: duckdb.DuckDBPyConnection) -> None:
    given(database)
    for file in view_files():
        if file.stem != "error_codes":
            assert rows(database, f"from {file.stem}") == [], file.stem


def test_one_attempt_is_enough_for_every_view(database: duckdb.DuckDBPyConnection) -> None:
    given(database, {})
    of_cells = ["daily_conversion", "conversion_cost", "carrier_delivery", "channel_conversion"]
    for view in (*of_cells, "country_conversion", "retry_funnel", "verifications", "coverage"):
        assert len(rows(database, f"from {view}")) == 1, view


def test_channel_and_country_conversion(database: duckdb.DuckDBPyConnection) -> None:
    """8 of 10: Wilson's interval is 0.490 to 0.943 (Newcombe, Stat. Med. 17, 1998, method 3)."""
    of = [n for number in range(10) for n in sends(number, "sms", converted=0 if number < 8 else 1)]
    resent = sends(10, "sms", "call", converted=1, age=READ_EARLY)  # not mature
    given(database, *of, *resent)
    expected = (
        10, 8, 0.8, pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4), 11, 0.8,
    )  # fmt: skip
    calls = (0, 0, None, None, None, 1, None)
    assert rows(database, "from channel_conversion order by channel") == [
        (NOVEMBER, "call", *calls), (NOVEMBER, "sms", *expected),
    ]  # fmt: skip
    assert rows(database, "from country_conversion order by channel") == [
        (NOVEMBER, "CO", "call", *calls), (NOVEMBER, "CO", "sms", *expected),
    ]  # fmt: skip


@pytest.mark.parametrize(("converted", "low", "high"), [(0, 0.0, 0.7935), (1, 0.2065, 1.0)])
def test_an_interval_stays_between_0_and_1(
    database: duckdb.DuckDBPyConnection, converted: int, low: float, high: float
) -> None:
    given(database, *sends(1, "sms", converted=0 if converted else None))
    query = "select success_rate, success_rate_low, success_rate_high from channel_conversion"
    ((rate, *interval),) = rows(database, query)
    assert rate == converted
    assert interval == pytest.approx([low, high], abs=1e-4)


def test_carrier_delivery(database: duckdb.DuckDBPyConnection) -> None:
    claro = {"mcc": "732", "mnc": "05", "carrier": "Claro"}
    given(
        database,
        {"verification_sid": "VE1", "data": claro, **CONVERTED},
        failing("30005", data=claro),
        failing("30003", data=claro),
        failing("30003", data=claro),
        {"verification_sid": "VE2", "data": {**claro, "message_status": "sent"}},
        {"verification_sid": "VE3", "age": READ_EARLY,
         "data": {**claro, "message_status": "queued"}},
        {"verification_sid": "VE4", "channel": "email",
         "data": {"to": "a@example.com", "country": None, "message_status": "read"}},
    )  # fmt: skip
    assert rows(database, "from carrier_delivery order by mcc") == [
        (NOVEMBER, "CO", "732", "05", "Claro", "sms", 6, 1, 3, 1, 1, 0.25, 5, 1, 0.2, "30003"),
        (NOVEMBER, "unknown", "unknown", "unknown", "unknown", "email", 1, 1, 0, 0, 0, 1.0, 1, 0,
         0.0, None),
    ]  # fmt: skip


def test_delivery_errors(database: duckdb.DuckDBPyConnection) -> None:
    given(
        database,
        {},
        failing("30003"),
        failing("30003", **FREE),
        failing("99999", **EURO),
        failing("99999"),
        failing("0", channel="call", data={"message_status": "busy"}, **FREE),
    )
    assert rows(database, "from delivery_errors order by channel, error_code") == [
        (NOVEMBER, "call", "CO", "unknown", "unknown", 1, 1.0, None, None),
        (NOVEMBER, "sms", "CO", "30003", "Unreachable destination handset", 2, 0.4,
         Decimal("0.05"), "USD"),
        (NOVEMBER, "sms", "CO", "99999", "unknown", 2, 0.4, None, "mixed"),
    ]  # fmt: skip


@pytest.mark.parametrize("marked", ["all", "last"])
def test_retry_funnel(database: duckdb.DuckDBPyConnection, marked: str) -> None:
    resent = sends(2, "sms", "sms", converted=1)
    if marked == "all":
        resent[0] |= CONVERTED
    given(
        database,
        *sends(1, "sms", converted=0),
        *resent,
        *sends(3, "sms", "call", "sms"),
        *sends(4, "call"),
        *sends(5, "sms", converted=0, age=READ_EARLY),
    )
    third = pytest.approx(1 / 3)
    assert rows(database, "from retry_funnel order by first_channel, attempt_number") == [
        (NOVEMBER, "call", 1, 1, 1.0, 0, 0.0, 0, 0.0),
        (NOVEMBER, "sms", 1, 3, 1.0, 1, third, 2, pytest.approx(2 / 3)),
        (NOVEMBER, "sms", 2, 2, pytest.approx(2 / 3), 1, 0.5, 1, 0.5),
        (NOVEMBER, "sms", 3, 1, third, 0, 0.0, 0, 0.0),
    ]


def test_channel_fallback(database: duckdb.DuckDBPyConnection) -> None:
    given(
        database,
        *sends(1, "sms", "sms"),  # a resend is not a fallback
        *sends(2, "sms", "call", converted=1),
        *sends(3, "sms", "sms", "call", "whatsapp", converted=3),  # converts, but not by the call
        *sends(4, "sms", "call", "sms", converted=2),  # converts on the first channel again
        *sends(5, "call", "sms", converted=1),
    )
    assert rows(database, "from channel_fallback order by first_channel") == [
        (NOVEMBER, "call", "sms", 1, 1, 1.0),
        (NOVEMBER, "sms", "call", 3, 1, pytest.approx(1 / 3)),
    ]
    query = "select verification_sid from verifications where is_rescued order by 1"
    assert rows(database, query) == [("VE2",), ("VE3",), ("VE5",)]


def test_conversion_cost(database: duckdb.DuckDBPyConnection) -> None:
    """Two currencies, and one price that never came. A pending price is estimated as the mean of
    0.04 and 0.06: of the channel and country, or of the currency if too few are known."""
    given(
        database,
        *sends(1, "sms", converted=0, price={"value": "0.04", "currency": "usd"}),
        *sends(2, "sms", price={"value": "0.06", "currency": "USD"}),
        *sends(3, "sms", converted=0, age=timedelta(hours=1), **FREE),
        *sends(4, "sms", **FREE),
        *sends(5, "sms", converted=0, **EURO),
        *sends(6, "call", age=timedelta(hours=1), **FREE),
    )
    money = [Decimal(text) for text in ("0.1", "0.06", "0.1", "0.2", "0.25", "0.1")]
    zero, mean = Decimal(0), Decimal("0.05")
    query = "select * exclude (created_date, service_sid, country) from conversion_cost"
    assert rows(database, f"{query} order by channel, currency desc") == [
        ("call", "USD", 1, 0, 1, 0, zero, zero, 0, zero, zero, mean, None),
        ("sms", "USD", 4, 2, 1, 1, money[0], money[1], 2, money[2], money[3], money[4], money[5]),
        ("sms", "EUR", 1, 1, 0, 0, money[0], zero, 1, Decimal("0.05"), None, None, None),
    ]


def test_a_pending_price_is_estimated_by_the_nearest_that_are_known(
    database: duckdb.DuckDBPyConnection,
) -> None:
    """No sum of estimates is below the sum of the known prices."""
    pending, elsewhere = {"age": timedelta(hours=1), **FREE}, {"data": {"country": "US"}}
    given(
        database,
        *sends(1, "sms", price={"value": "0.04", "currency": "USD"}),
        *sends(2, "call", price={"value": "0.20", "currency": "USD"}),
        *sends(3, "sms", **pending),
        *sends(4, "sms", **pending, **elsewhere),
        *sends(5, "email", **pending),
    )
    query = "select channel, country, total_cost_estimate from conversion_cost order by all"
    assert rows(database, query) == [
        ("call", "CO", Decimal("0.2")),
        ("email", "CO", Decimal("0.12")),
        ("sms", "CO", Decimal("0.08")),
        ("sms", "US", Decimal("0.04")),
    ]


def test_an_absurd_price_leaves_the_others_readable(database: duckdb.DuckDBPyConnection) -> None:
    absurd = {"price": {"value": "600000000000", "currency": "USD"}}
    given(database, *sends(1, "sms", "sms", converted=0, **absurd), *sends(2, "call"))
    query = "select channel, total_cost, cost_per_conversion from conversion_cost order by channel"
    assert rows(database, query) == [
        ("call", Decimal("0.05"), None),
        ("sms", Decimal("1200000000000.05"), None),
    ]


def test_costs_where_nothing_is_priced_yet(database: duckdb.DuckDBPyConnection) -> None:
    given(database, {**FREE, **CONVERTED, "age": READ_EARLY})
    query = "select currency, channel_spend, total_cost, total_cost_estimate from conversion_cost"
    assert rows(database, query) == [("unknown", Decimal(0), None, None)]


def test_the_fee_and_its_currency_are_settings(database: duckdb.DuckDBPyConnection) -> None:
    given(database, {**EURO, **CONVERTED}, fee_currency="EUR", verification_fee=Decimal("0.045"))
    query = "select verification_fees, total_cost, cost_per_conversion from conversion_cost"
    assert rows(database, query) == [(Decimal("0.045"), Decimal("0.145"), Decimal("0.145"))]


def test_unsettled_attempts_count_ages_from_the_newest_read(
    database: duckdb.DuckDBPyConnection,
) -> None:
    """The newest read is 80 hours after `start`."""
    start = datetime(2026, 11, 1, tzinfo=timezone.utc)
    given(
        database,
        *(
            {"verification_sid": None, "age": timedelta(minutes=5), **changes,
             "date_created": f"{start + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"}
            for hours, changes in (
                (0, FREE),
                (20, {}),
                (60, {"data": {"message_status": "sent"}}),
                (79.75, {**FREE, "data": {"message_status": None}}),
                (79.9, {"age": timedelta(minutes=6)}),
                (1, {"age": timedelta(days=3)}),  # settled
                (80 - 721, {"data": {"message_status": "sent"}}),
            )
        ),
    )  # fmt: skip
    assert rows(database, "from unsettled_attempts order by age_bucket") == [
        ("sms", "CO", "0 to 1 h", 2, 1, 1),
        ("sms", "CO", "1 to 24 h", 1, 0, 1),
        ("sms", "CO", "24 to 72 h", 1, 0, 0),
        ("sms", "CO", "72 h to 30 d", 1, 1, 0),
        ("sms", "CO", "over 30 d", 1, 0, 1),
    ]


def at(day: int, hour: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, tzinfo=timezone.utc)


def eve(day: int) -> datetime:
    """The last second before a day. A window excludes the instant it starts at."""
    return at(day) - timedelta(seconds=1)


def test_coverage(database: duckdb.DuckDBPyConnection) -> None:
    """Days 1 and 4 are settled. A window whose package failed does not count."""
    database.execute("insert into twilio_verify._dlt_loads values ('1', 0), ('2', 1)")
    read_early = eve(10) - timedelta(seconds=1)
    for load, *window in (
        ("1", eve(1), eve(2), at(2, 1)),
        ("1", eve(1), eve(2), at(5)),
        ("2", eve(2), eve(3), at(6)),
        ("1", eve(3), at(3, 12), at(8)),  # half of the day
        ("1", eve(3), at(3, 6), at(9)),
        ("1", at(3, 12), eve(4), at(6, 12)),  # the other half, read too early
        ("1", eve(4), at(4, 12), at(7, 12)),  # all of the day, in two parts, each at three days
        ("1", at(4, 11), eve(5), eve(8)),
        ("1", at(5), eve(6), at(9)),  # all but the day's first second
        ("1", eve(6), eve(7), read_early),  # too early by a second
    ):
        database.execute(
            "insert into twilio_verify.windows_read by name select ? as _dlt_load_id,"
            " 'a' as filters_hash, ? as created_after, ? as created_before, ? as read_at",
            [load, *window],
        )
    for filters, reconciled, attempts, converted in (
        ("all", at(4), 11, 1),
        ("all", at(5), 9, None),
        ("one country", at(6), 3, 2),
    ):
        database.execute(
            "insert into twilio_verify.reconciliations by name select ? as filters_hash,"
            " ? as created_after, ? as created_before, ? as reconciled_at, ? as api_attempts,"
            " ? as api_converted",
            [filters, at(1), at(2), reconciled, attempts, converted],
        )
    given(database, {"date_created": "2026-11-01T10:00:00Z", "age": timedelta(days=3, hours=14)})
    assert rows(database, "from coverage order by created_date") == [
        (date(2026, 11, 1), 1, at(2, 1), at(5), True, 0.0, 9, None),
        (date(2026, 11, 2), 0, None, None, False, 0.0, None, None),
        (date(2026, 11, 3), 0, at(6, 12), at(9), False, 0.0, None, None),
        (date(2026, 11, 4), 0, at(7, 12), eve(8), True, 0.0, None, None),
        (date(2026, 11, 5), 0, at(9), at(9), False, 0.0, None, None),
        (date(2026, 11, 6), 0, read_early, read_early, False, 0.0, None, None),
    ]


def test_coverage_counts_the_seconds_of_a_gap(database: duckdb.DuckDBPyConnection) -> None:
    """From 6:00:01 on the 2nd to 12:00:00 on the 3rd nothing was read before Twilio forgot it."""
    database.execute("insert into twilio_verify._dlt_loads values ('1', 0)")
    later = at(4) + timedelta(days=40)
    for window in ((at(1), at(2, 6), at(3)), (at(3, 12), at(4), at(4)), (at(4), later, later)):
        database.execute(
            "insert into twilio_verify.windows_read by name select '1' as _dlt_load_id,"
            " 'a' as filters_hash, ? as created_after, ? as created_before, ? as read_at",
            window,
        )
    given(database)
    query = (
        "select created_date, gap_seconds from coverage where gap_seconds > 0 order by 1 limit 2"
    )
    assert rows(database, query) == [
        (date(2026, 11, 2), 18 * 3600 - 1.0), (date(2026, 11, 3), 12 * 3600 + 1.0),
    ]  # fmt: skip


def test_sync_history(database: duckdb.DuckDBPyConnection) -> None:
    for number, (finished, outcome) in enumerate([(at(1, 1), "done"), (None, None)]):
        database.execute(
            "insert into twilio_verify.sync_runs by name select ? as run_id, 'sync' as command,"
            " ? as started_at, ? as finished_at, ? as outcome, 7 as requests",
            [str(number), at(1), finished, outcome],
        )
    given(database)
    query = "select run_id, seconds, outcome, requests from sync_history order by run_id"
    assert rows(database, query) == [("0", 3600.0, "done", 7), ("1", None, "running", 7)]


@pytest.mark.parametrize(
    ("zone", "created", "month"),
    [
        ("UTC", "2026-10-31T23:30:00Z", date(2026, 10, 1)),
        ("Europe/Berlin", "2026-10-31T23:30:00Z", date(2026, 11, 1)),
        ("America/New_York", "2026-11-01T03:59:59Z", date(2026, 10, 1)),
        ("America/New_York", "2026-11-01T04:00:00Z", date(2026, 11, 1)),
    ],
)
def test_a_month_is_a_month_in_the_settings_zone(
    database: duckdb.DuckDBPyConnection, zone: str, created: str, month: date
) -> None:
    first, second = sends(1, "sms", "call", converted=1, date_created=created)
    given(database, first, second, timezone=zone)
    for view in ("channel_conversion", "country_conversion", "retry_funnel", "channel_fallback"):
        assert {r[0] for r in rows(database, f"select created_month from {view}")} == {month}, view
