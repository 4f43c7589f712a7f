"""Dates in any form that names one instant, in whatever zone the machine is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.twilio.columns import TIMESTAMP
from pipelines.twilio.dates import _instant, instants
from pipelines.twilio.decode import decode

THEN = datetime(2026, 11, 3, 8, 0, tzinfo=timezone.utc)


@pytest.fixture(autouse=True, params=["UTC", "America/New_York", "Asia/Kolkata"])
def zone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Sets the zone of the machine."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("TZ", request.param)
        time.tzset()
        yield
    time.tzset()


def created(value: Any) -> datetime | None:
    """The instant that a row of the API with this date has in its table; None if rejected."""
    page = decode([{"sid": "VL1", "date_created": value}], THEN)
    return next(iter(page.attempts["date_created"].to_pylist()), None)


@pytest.mark.parametrize(
    "value",
    [
        "2026-11-03T08:00:00Z", "2026-11-03T08:00:00+00:00", "2026-11-03T03:00:00-05:00",
        "2026-11-03T08:00:00.000Z", "2026-11-03T08:00:00.0000000Z", "2026-11-03T08:00:00,0Z",
        "2026-11-03t08:00:00z", "2026-11-03T08:00:00z", "2026-11-03 08:00:00Z",
        "2026-11-03T08:00:00", "2026-11-03 08:00:00", "2026-11-03T08:00", "2026-11-03T08:00:00.000",
        "2026-11-03 08:00:00 UTC", "2026-11-03 08:00:00 +0000", "2026-11-03 08:00:00+00",
        "2026-11-03T07:30:00-00:30", "20261103T080000Z", "20261103T0800Z", "20261103T080000",
        "20261103T080000.000Z", "20261103T100000+0200", " 2026-11-03T08:00:00Z\n",
        "Tue, 03 Nov 2026 08:00:00 +0000", "Tue, 03 Nov 2026 08:00:00 GMT",
        "Tue, 03 Nov 2026 09:00:00 +0100", "Tue, 03 Nov 2026 08:00:00 -0000",
        "Tue, 03 Nov 2026 08:00:00", "3 Nov 2026 08:00", "Tue, 03 Nov 2026 08:00 -0000",
        "Tue Nov  3 08:00:00 2026", "Tue Nov 03 08:00:00 2026", "Tue Nov  3 08:00:00 UTC 2026",
        1793692800, 1793692800.0, 1793692800000, 1793692800000.0, "1793692800", "1793692800.000",
        "1793692800000",
    ],
)  # fmt: skip
def test_each_form_of_a_date_is_the_same_instant(value: Any) -> None:
    assert created(value) == THEN


@pytest.mark.parametrize(
    "value",
    [
        "", "soon", "now", "2026", "2026-11", "2026-11-03", "20261103", "10", "12:30", "08:00:00Z",
        "2026-11-03T24:00:00Z", "2026-11-03T08:60:00Z", "2026-13-03T08:00:00Z", "2026-02-29T08:00Z",
        "2026-11-03T08:00:00+24:00", "2026-11-03T08:00:00+01:60", "2026-11-03T08:00:00Zz",
        "2026-1103T080000Z", "2026-11-03T0800:00Z", "2026-11-03T08:00:00Z/2026-11-04T08:00:00Z",
        "0000-01-01T00:00:00Z", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00",
        "Tue, 03 Nov 2026", "Tue, 03 Nov 2026 08:00:00 CET", "Tue, 03 Nov 2026 08:00:00 +01:00",
        "Tue Nov  3 08:00:00 PM 2026", "Tue, 03 Nov 2026 08:00:00 Europe/Berlin",
        "\u0662\u0660\u0662\u0666-11-03T08:00:00Z",
        0, 1, -1793692800, 17936928, 946684799, 4102444800, 4102444800000, 1793692800000000,
        pytest.param("1" * 1_000_000, id="a million digits"), "1793692800s", "1_793_692_800",
        "1.7936928e9", "0x6ae", "nan", True, None, [], {},
    ],
)  # fmt: skip
def test_what_names_no_instant_is_rejected(value: Any) -> None:
    assert created(value) is None


def test_a_machine_date_in_a_gap_of_its_zone_is_utc() -> None:
    """In New York the clock skips this hour."""
    assert created("Sun, 08 Mar 2026 02:30:00") == datetime(2026, 3, 8, 2, 30, tzinfo=timezone.utc)


moments = st.datetimes(datetime(2000, 1, 1), datetime(2099, 12, 31)).map(  # noqa: DTZ001
    lambda moment: moment.replace(tzinfo=timezone.utc)
)
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(moments, offsets)
def test_any_moment_is_read_from_each_form(moment: datetime, offset: timezone) -> None:
    whole, there = moment.replace(microsecond=0), moment.astimezone(offset)
    micro = round((moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) / timedelta(microseconds=1))
    for text in (
        moment.isoformat(), moment.isoformat(" ")[:-6], there.isoformat(),
        f"{there:%Y%m%dT%H%M%S.%f%z}", f"{micro // 10**6}.{micro % 10**6:06}",
        f"{micro // 1000}.{micro % 1000:03}",
    ):  # fmt: skip
        assert _instant(text) == moment, text
    for text in (
        format_datetime(whole), format_datetime(there.replace(microsecond=0)),
        format_datetime(whole.replace(tzinfo=None)), f"{whole:%a %b %d %H:%M:%S %Y}",
        f"{whole:%Y%m%dT%H%M%Sz}", str(micro // 10**6), str(micro // 10**6 * 1000),
    ):  # fmt: skip
        assert _instant(text) == whole, text


# The forms that Arrow reads, and nearly those.
arrow_like = st.from_regex(
    r"\A[0-9]{4}-[01][0-9]-[0-3][0-9][T ][0-2][0-9](:?[0-5][0-9](:?[0-6][0-9](\.[0-9]{1,7})?)?)?"
    r"(Z|z|[+-][0-2][0-9](:?[0-6][0-9])?)?\Z",
    fullmatch=True,
)


@given(st.lists(arrow_like | st.none(), max_size=4))
def test_arrow_reads_nothing_differently(texts: list[str | None]) -> None:
    slowly = [*map(_instant, texts)]
    assert instants(pa.array(texts, pa.string())).to_pylist() == slowly
    for text, instant in zip(texts, slowly, strict=True):
        assert instants(pa.array([text], pa.string())).to_pylist() == [instant], text


def test_arrow_reads_the_usual_form_by_itself() -> None:
    """One other text makes Python read them all, to the same instants."""
    texts = [f"2026-11-03T08:{minute:02}:00Z" for minute in range(60)]
    usual = pa.array(texts)
    assert usual.cast(TIMESTAMP).equals(instants(usual))
    mixed = instants(pa.array([*texts, "1793692800"]))
    assert mixed.to_pylist() == [*usual.cast(TIMESTAMP).to_pylist(), THEN]
