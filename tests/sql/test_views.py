"""The views: given rows, expected rows; and whole accounts, recomputed in plain Python."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st

from pipelines.reading.defaults import DEFAULT_SCHEDULE, SETTLED_AFTER
from pipelines.twilio.limits import RETENTION
from tests.conftest import Emptied
from tests.sql.given import CONVERTED, READ_EARLY, READ_LATE, Row, given, rows
from tests.worlds import NOW, World


def test_values_are_normalised(database: duckdb.DuckDBPyConnection) -> None:
    given(
        database,
        {
            "channel": "SMS",
            "conversion_status": "CONVERTED",
            "price": {"value": "0.0050", "currency": "Usd"},
            "data": {"message_status": "UNDELIVERED", "error_code": "30008", "mnc": "05",
                     "country": "co", "status": "Confirmed", "code_length": 6},
        },
    )  # fmt: skip
    query = (
        "select channel, conversion_status, is_converted, price, currency, message_status,"
        " error_code, error_name, mnc, country, verification_status, code_length,"
        " delivery_outcome, destination_prefix from verification_attempts"
    )
    assert rows(database, query) == [
        ("sms", "converted", True, Decimal("0.005000"), "USD", "undelivered", "30008",
         "Unknown error", "05", "CO", "confirmed", 6, "failed", "+57300123"),
    ]  # fmt: skip


@pytest.mark.parametrize("space", [" ", "  ", "\t", "\n", "\r\n", " \t \n"])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (0, 1), (1, 0)])
def test_white_space_around_a_word_does_not_count(
    database: duckdb.DuckDBPyConnection, space: str, before: int, after: int
) -> None:
    def spaced(text: str) -> str:
        return before * space + text + after * space

    given(
        database,
        {
            "channel": spaced("sms"),
            "conversion_status": spaced("Converted"),
            "price": {"value": spaced("0.05"), "currency": spaced("usd")},
            "data": {"message_status": spaced("read"), "error_code": spaced("30008"),
                     "country": spaced("co"), "status": spaced("confirmed")},
        },
        {
            "channel": space,
            "conversion_status": space,
            "price": {"value": space, "currency": space},
            "data": dict.fromkeys(("message_status", "error_code", "country", "status"), space),
        },
    )  # fmt: skip
    query = (
        "select channel, conversion_status, is_converted, price, currency, message_status, receipt,"
        " error_code, country, verification_status from stg_attempts order by attempt_sid"
    )
    assert rows(database, query) == [
        ("sms", "converted", True, Decimal("0.05"), "USD", "read", "delivered", "30008", "CO",
         "confirmed"),
        (None, None, False, *(None,) * 7),
    ]  # fmt: skip


@pytest.mark.parametrize("status", ["read", "failed", "no-answer", "in-progress"])
def test_a_status_is_one_word_however_it_is_written(
    database: duckdb.DuckDBPyConnection, status: str
) -> None:
    spellings = (status, status.upper(), status.title(), f" {status}", f"{status.upper()}\n")
    given(database, *({"data": {"message_status": spelling}} for spelling in spellings))
    assert len(rows(database, "select distinct message_status, receipt from stg_attempts")) == 1


NOTHING = (
    None, "", "0", 0, "absent", 0.0, "0.0", "0.00", "null", "NULL", "None", "nan", "NaN", " null ",
    " 0.0\n",
)  # fmt: skip


@pytest.mark.parametrize("nothing", NOTHING)
def test_no_error_is_null_however_it_is_written(
    database: duckdb.DuckDBPyConnection, nothing: object
) -> None:
    data = {} if nothing == "absent" else {"error_code": nothing}
    given(database, {"data": data})
    assert rows(database, "select error_code, error_name from verification_attempts") == [
        (None, None)
    ]


@pytest.mark.parametrize("written", [30008, 30008.0, "30008.0", "30008.00", "30008.", " 30008.0 "])
def test_an_error_code_is_one_code_however_it_is_written(
    database: duckdb.DuckDBPyConnection, written: object
) -> None:
    given(database, {"data": {"error_code": written}})
    query = "select error_code, error_name from verification_attempts"
    assert rows(database, query) == [("30008", "Unknown error")]


@pytest.mark.parametrize("code", ["30000", "60410.5", "Blocked.0x", "nullable"])
def test_an_unknown_error_code_stays_as_it_is(
    database: duckdb.DuckDBPyConnection, code: str
) -> None:
    given(database, {"data": {"error_code": code}})
    assert rows(database, "select error_code from stg_attempts") == [(code,)]


@pytest.mark.parametrize(
    ("to", "destination", "prefix"),
    [
        ("whatsapp:+573001234567", "+573001234567", "+57300123"),
        ("WhatsApp:+573001234567", "+573001234567", "+57300123"),
        ("sms:+573001234567", "+573001234567", "+57300123"),
        ("rcs:+12345", "+12345", "+1"),
        ("messenger:+573001234567 ", "+573001234567", "+57300123"),
        (" whatsapp:+573001234567", "+573001234567", "+57300123"),
        (" +573001234567", "+573001234567", "+57300123"),
        ("messenger:1234567", "messenger:1234567", "messenger:123"),
        ('"a:+1"@example.com', '"a:+1"@example.com', "example.com"),
        ("+1@example.com", "+1@example.com", "example.com"),
        ("sip:+573001234567@example.com", "sip:+573001234567@example.com", "example.com"),
        (" someone@example.com ", "someone@example.com", "example.com"),
        ("whatsapp:+", "+", None),
        (" ", None, None),
    ],
)
def test_a_number_is_the_same_over_each_channel(
    database: duckdb.DuckDBPyConnection, to: str, destination: str, prefix: str
) -> None:
    given(database, {"data": {"to": to}})
    query = "select destination, destination_prefix from stg_attempts"
    assert rows(database, query) == [(destination, prefix)]


def test_what_is_unknown_says_so(database: duckdb.DuckDBPyConnection) -> None:
    given(
        database,
        {"channel": None, "service_sid": None, "verification_sid": None, "price": None,
         "conversion_status": None,
         "data": {"to": None, "country": None, "message_status": None}},
    )  # fmt: skip
    query = (
        "select channel, service_sid, country, carrier, mcc, mnc, locale, destination,"
        " destination_prefix, message_status, conversion_status from verification_attempts"
    )
    assert rows(database, query) == [("unknown",) * 11]
    query = "select verification_sid, is_converted, price, currency from verification_attempts"
    assert rows(database, query) == [("VL0", False, None, None)]


def test_an_empty_text_is_unknown_as_well(database: duckdb.DuckDBPyConnection) -> None:
    data = dict.fromkeys(("to", "country", "carrier", "mcc", "message_status"), "")
    given(database, {"channel": "", "service_sid": "", "verification_sid": "", "data": data})
    query = (
        "select channel, service_sid, country, carrier, mcc, destination, destination_prefix,"
        " message_status, verification_sid from verification_attempts"
    )
    assert rows(database, query) == [(*("unknown",) * 8, "VL0")]


@pytest.mark.parametrize(
    ("to", "prefix"),
    [
        ("someone@example.com", "example.com"),
        ("Someone@Example.COM", "example.com"),
        ("some@one@example.com", "example.com"),
        ("someone@", "unknown"),
        ("+573001234567", "+57300123"),
        ("+12345", "+1"),
        ("+1234", "unknown"),
        ("1234", "unknown"),
        ("123", "unknown"),
    ],
)
def test_a_prefix_is_a_numbers_beginning_or_a_domain(
    database: duckdb.DuckDBPyConnection, to: str, prefix: str
) -> None:
    given(database, {"channel": "email", "data": {"to": to, "country": None}})
    query = "select destination_prefix, country from verification_attempts"
    assert rows(database, query) == [(prefix, "unknown")]


@pytest.mark.parametrize(
    ("status", "age", "outcome"),
    [
        ("delivered", READ_EARLY, "delivered"),
        ("read", READ_EARLY, "delivered"),
        ("completed", READ_EARLY, "delivered"),
        ("failed", READ_EARLY, "failed"),
        ("no-answer", READ_EARLY, "failed"),
        ("busy", READ_EARLY, "failed"),
        ("canceled", READ_EARLY, "failed"),
        ("sent", READ_EARLY, "pending"),
        ("sent", READ_LATE, "unknown"),
        (None, READ_EARLY, "pending"),
        (None, READ_LATE, "unknown"),
        ("in-progress", timedelta(days=3), "unknown"),
        ("in-progress", timedelta(days=3, seconds=-1), "pending"),
    ],
)
def test_delivery_outcome(
    database: duckdb.DuckDBPyConnection, status: str | None, age: timedelta, outcome: str
) -> None:
    given(database, {"age": age, "data": {"message_status": status}})
    assert rows(database, "select delivery_outcome from verification_attempts") == [(outcome,)]


@pytest.mark.parametrize(
    ("age", "mature", "settled"),
    [
        (timedelta(minutes=10, seconds=-1), False, False),
        (timedelta(minutes=10), True, False),
        (timedelta(days=3, seconds=-1), True, False),
        (timedelta(days=3), True, True),
    ],
)
def test_mature_and_settled_by_the_age_at_reading(
    database: duckdb.DuckDBPyConnection, age: timedelta, mature: bool, settled: bool
) -> None:
    given(database, {"age": age, **CONVERTED})
    query = "select is_mature, is_settled, read_age from verification_attempts"
    assert rows(database, query) == [(mature, settled, age.total_seconds())]
    assert rows(database, "select is_mature, is_settled from verifications") == [(mature, settled)]


@pytest.mark.parametrize("marked", ["all", "last"])
def test_a_rescued_verification_converts_once_whichever_attempts_are_marked(
    database: duckdb.DuckDBPyConnection, marked: str
) -> None:
    first = CONVERTED if marked == "all" else {}
    given(database, {**first}, {"channel": "call", **CONVERTED, "price": None})
    query = "select attempt_number, is_converting_attempt from verification_attempts order by 1"
    assert rows(database, query) == [(1, False), (2, True)]
    query = (
        "select attempts, channels, first_channel, last_channel, converted_channel, is_converted,"
        " has_fallback, is_rescued, channel_spend, currency from verifications"
    )
    assert rows(database, query) == [
        (2, ["sms", "call"], "sms", "call", "call", True, True, True, Decimal("0.05"), "USD")
    ]
    query = (
        "select channel, attempts, converted_attempts, verifications, converted_verifications,"
        " verification_success_rate, credited_conversions from daily_conversion order by 1"
    )
    assert rows(database, query) == [
        ("call", 1, 1, 0, 0, None, 1),
        ("sms", 1, int(marked == "all"), 1, 1, 1.0, 0),
    ]


def test_a_resend_is_no_fallback_and_ties_go_by_sid(database: duckdb.DuckDBPyConnection) -> None:
    same = {"date_created": "2026-11-01T10:00:00Z", **CONVERTED}
    given(database, same, same)
    query = "select attempt_sid from verification_attempts where is_converting_attempt"
    assert rows(database, query) == [("VL1",)]
    query = "select attempts, has_fallback, is_rescued, converted_channel from verifications"
    assert rows(database, query) == [(2, False, False, "sms")]


def test_two_currencies_are_not_added_up(database: duckdb.DuckDBPyConnection) -> None:
    given(database, {}, {"price": {"value": "0.04", "currency": "EUR"}})
    query = "select channel_spend, currency from verifications"
    assert rows(database, query) == [(None, "mixed")]


def test_an_amount_has_a_currency_beside_it(database: duckdb.DuckDBPyConnection) -> None:
    given(database, {"price": {"value": "0.04"}}, {"price": None})
    query = "select price, currency from verification_attempts order by attempt_number"
    assert rows(database, query) == [(Decimal("0.04"), "unknown"), (None, None)]
    query = "select channel_spend, currency from verifications"
    assert rows(database, query) == [(Decimal("0.04"), "unknown")]


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York"])
def test_an_age_is_the_same_in_every_zone(database: duckdb.DuckDBPyConnection, zone: str) -> None:
    """Across the night when a zone's clocks change, DuckDB counts 71 or 73 hours for three days."""
    ages = [timedelta(days=3), timedelta(days=3, seconds=-1)]
    created = ["2026-10-23T12:00:00Z", "2026-03-27T12:00:00Z", "2026-03-06T12:00:00Z"]
    given(database, *({"date_created": at, "age": age} for at in created for age in ages))
    database.execute(f"set timezone = '{zone}'")
    query = "select read_age, is_settled from verification_attempts"
    seconds = [age.total_seconds() for age in ages]
    assert sorted(rows(database, query)) == sorted([(seconds[0], True), (seconds[1], False)] * 3)


AGES = (timedelta(), *DEFAULT_SCHEDULE)
MARCH = datetime(2026, 3, 20, tzinfo=timezone.utc)
starts, lengths = (
    st.integers(least, 60 * 24 * 4).map(lambda quarters: timedelta(minutes=15 * quarters))
    for least in (0, 1)
)


WINDOWS = st.lists(st.tuples(starts, lengths, st.booleans(), st.booleans()), max_size=8)


def read_by(database: duckdb.DuckDBPyConnection, windows: list[Any]) -> dict[str, list[Any]]:
    """Records windows as read seven minutes after their end. Returns by filters the (after, before,
    read_at) of those whose package was loaded."""
    database.execute("insert into twilio_verify._dlt_loads values ('complete', 0), ('failed', 1)")
    counted: dict[str, list[Any]] = {"a": [], "b": []}
    for start, length, is_a, complete in windows:
        name, bounds = "a" if is_a else "b", (MARCH + start, MARCH + start + length)
        read = (*bounds, bounds[1] + timedelta(minutes=7))
        database.execute(
            "insert into twilio_verify.windows_read by name select ? as created_after,"
            " ? as created_before, ? as read_at, ? as filters_hash, ? as _dlt_load_id",
            [*read, name, "complete" if complete else "failed"],
        )
        if complete:
            counted[name].append(read)
    return counted


def beside(reads: list[tuple[datetime, ...]], ages: Iterable[timedelta]) -> list[datetime]:
    """Each instant at which anything changes, and the seconds before and after it."""
    edges = {edge for after, before, _ in reads for edge in (after, before)}
    edges |= {read - age for _, _, read in reads for age in ages}
    return [edge + timedelta(seconds=n) for edge in edges for n in (-1, 0, 1)]


@given_any(windows=WINDOWS)
def test_gaps_and_missed_revisits_are_what_no_window_has_served(
    emptied: Emptied, windows: list[Any]
) -> None:
    """Compares instant by instant, in a zone whose clocks change in between."""
    database = emptied()
    database.execute("set timezone = 'Europe/Berlin'")
    counted = read_by(database, windows)
    gaps = "select filters_hash, 0, lost_after, lost_before from gaps"
    missed = "select filters_hash, age, created_after, created_before from missed_revisits"
    found = [
        (name, timedelta(seconds=age), after, before)
        for name, age, after, before in rows(database, f"{gaps} union all {missed}")
    ]
    for name, reads in counted.items():
        for instant in beside(reads, (*AGES, RETENTION)):
            for age in AGES:
                lost = any(
                    (n, a) == (name, age) and after < instant <= before
                    for n, a, after, before in found
                )
                assert lost == is_lost(reads, instant, age), (name, instant, age)


@given_any(windows=WINDOWS)
def test_a_day_is_settled_when_all_of_it_was_read_late(
    emptied: Emptied, windows: list[Any]
) -> None:
    """All of the day must be read late by one set of filters. A window may be less than a day, and
    only a part of it may be old enough."""
    database = emptied()
    database.execute("set timezone = 'Europe/Berlin'")
    counted = read_by(database, windows)
    for day, is_settled in rows(database, "select created_date, is_settled from coverage"):
        # A second earlier: a window excludes its start, but the day includes its first second.
        start = datetime(day.year, day.month, day.day, tzinfo=timezone.utc) - timedelta(seconds=1)
        end = start + timedelta(days=1)
        covered = []
        for reads in counted.values():
            instants = [i for i in beside(reads, [SETTLED_AFTER]) if start < i <= end]
            covered.append(
                all(
                    any(a < i <= b and r - i >= SETTLED_AFTER for a, b, r in reads)
                    for i in (start + timedelta(seconds=1), *instants, end)
                )
            )
        assert is_settled == any(covered), day


def is_lost(reads: list[tuple[datetime, ...]], instant: datetime, age: timedelta) -> bool:
    """Whether an instant had left retention by the newest read, lies after the first window's
    start, and was never read at that age."""
    if not reads:
        return False
    first = min(max(after, read - RETENTION) for after, _, read in reads)
    gone = first < instant <= max(read for _, _, read in reads) - RETENTION
    ages = [read - instant for after, before, read in reads if after < instant <= before]
    return gone and not any(age <= at < RETENTION for at in ages)


def test_attempts_of_one_second_are_numbered_by_their_sids(
    database: duckdb.DuckDBPyConnection,
) -> None:
    """The API's dates have no fractions of a second. The order of storage must not matter."""
    same = {"verification_sid": "VE1", "date_created": "2026-11-01T10:00:00Z", **CONVERTED}
    given(database, *({**same, "sid": f"VL{number}"} for number in (3, 5, 1, 4, 2)))
    found = rows(
        database,
        "select attempt_sid, attempt_number, is_converting_attempt from stg_resends order by 1",
    )
    assert found == [(f"VL{number}", number, number == 5) for number in range(1, 6)]


def test_rates_count_only_mature_attempts(database: duckdb.DuckDBPyConnection) -> None:
    """A conversion that is known early must not count before the failures of its time can."""
    given(
        database,
        {"verification_sid": "VE1", **CONVERTED},
        {"verification_sid": "VE2", "data": {"message_status": "failed"}},
        {"verification_sid": "VE3", "age": READ_EARLY, **CONVERTED},
    )
    query = (
        "select attempts, mature_attempts, converted_attempts, attempt_conversion_rate,"
        " verifications, converted_verifications, verification_success_rate,"
        " credited_conversions, delivered_attempts, failed_attempts, delivery_rate"
        " from daily_conversion"
    )
    assert rows(database, query) == [(3, 2, 1, 0.5, 2, 1, 0.5, 2, 2, 1, pytest.approx(2 / 3))]


def test_rates_are_null_where_nothing_counts(database: duckdb.DuckDBPyConnection) -> None:
    given(database, {"age": READ_EARLY, "data": {"message_status": "sent"}})
    query = (
        "select attempt_conversion_rate, verification_success_rate, delivery_rate"
        " from daily_conversion"
    )
    assert rows(database, query) == [(None, None, None)]


@pytest.mark.parametrize(
    ("created", "day"),
    [
        ("2026-03-29T00:30:00Z", date(2026, 3, 29)),  # the day Berlin's clocks go forward
        ("2026-03-28T23:00:00Z", date(2026, 3, 29)),
        ("2026-03-29T21:59:59Z", date(2026, 3, 29)),
        ("2026-03-29T22:00:00Z", date(2026, 3, 30)),
        ("2026-10-24T22:00:00Z", date(2026, 10, 25)),  # the day they go back
        ("2026-10-25T22:59:59Z", date(2026, 10, 25)),
        ("2026-10-25T23:00:00Z", date(2026, 10, 26)),
    ],
)
def test_a_day_is_a_day_in_the_settings_zone(
    database: duckdb.DuckDBPyConnection, created: str, day: date
) -> None:
    given(database, {"date_created": created}, timezone="Europe/Berlin")
    assert rows(database, "select created_date from daily_conversion") == [(day,)]


@pytest.mark.usefixtures("synced")
def test_daily_conversion_of_an_account_is_what_python_counts(world: World) -> None:
    """All attempts of the sandbox, mature and young, by every dimension."""
    expected: dict[tuple[Any, ...], list[int]] = defaultdict(lambda: [0] * 6)
    attempts = sorted(world.truth().values(), key=lambda r: (r["date_created"], r["sid"]))
    of: dict[str, list[Row]] = defaultdict(list)
    for row in attempts:
        of[row["verification_sid"]].append(row)
    for sends in of.values():
        mature = [NOW - row["date_created"] >= timedelta(minutes=10) for row in sends]
        converted = [row["conversion_status"] == "converted" for row in sends]
        last = max((n for n, yes in enumerate(converted) if yes), default=None)
        for number, row in enumerate(sends):
            cell = expected[
                row["date_created"].date(), row["service_sid"], row["channel"],
                row["channel_data__country"] or "unknown",
            ]  # fmt: skip
            cell[0] += 1
            cell[1] += mature[number]
            cell[2] += mature[number] and converted[number]
            cell[3] += number == 0 and all(mature)
            cell[4] += number == 0 and all(mature) and any(converted)
            cell[5] += number == last
    found = world.query(
        "select created_date, service_sid, channel, country, attempts, mature_attempts,"
        " converted_attempts, verifications, converted_verifications, credited_conversions"
        " from daily_conversion"
    )
    assert {tuple(r.values())[:4]: list(r.values())[4:] for r in found} == expected
