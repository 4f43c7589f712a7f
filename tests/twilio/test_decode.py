"""Decoding pages into Arrow: what the API may send, and what must be kept of it."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.errors import Unreadable
from pipelines.twilio.columns import ATTEMPTS, NESTED, TOP
from pipelines.twilio.decode import _usual_page, decode, read_page, within
from tests.worlds import NOW, World, as_columns

READ_AT = datetime(2026, 1, 2, tzinfo=timezone.utc)
ATTEMPT: dict[str, Any] = {
    "sid": "VL1",
    "account_sid": "AC1",
    "service_sid": "VA1",
    "verification_sid": "VE1",
    "date_created": "2026-01-01T00:00:00Z",
    "date_updated": "2026-01-01T00:00:05Z",
    "conversion_status": "unconverted",
    "channel": "sms",
    "price": {"value": "0.005", "currency": "usd"},
    "channel_data": {"to": "+573003003030", "mnc": "05", "code_length": 6, "error_code": None},
    "url": "https://verify.twilio.com/v2/Attempts/VL1",
}


def page(attempts: list[Any]) -> pa.Table:
    """Decodes a page with `read_page` and with `decode`, which must agree."""
    body = {"attempts": attempts, "meta": {"page": 0, "next_page_url": "https://next"}}
    found = read_page(json.dumps(body).encode(), READ_AT)
    assert found.next_page_url == "https://next"
    assert found.attempts.to_pylist() == decode(attempts, READ_AT).attempts.to_pylist()
    return found.attempts


def row(**changes: Any) -> dict[str, Any]:
    """One decoded attempt with some of its keys changed, without its null columns."""
    (found,) = page([{**ATTEMPT, **changes}]).to_pylist()
    return {name: value for name, value in found.items() if value is not None}


def test_a_page_of_the_sandbox_is_decoded_like_by_hand(world: World) -> None:
    attempts = world.sandbox.truth()
    table = page(attempts)
    assert table.schema == ATTEMPTS
    expected = [{**as_columns(attempt), "read_at": READ_AT} for attempt in attempts]
    assert table.to_pylist() == expected


def test_values_are_text_with_their_zeros() -> None:
    found = row()
    assert found["channel_data__mnc"] == "05"
    assert found["channel_data__code_length"] == "6"
    assert found["price__value"] == "0.005"
    assert "extra" not in found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"price": 0.005}, {"price__value": "0.005"}),
        ({"price": "0.005"}, {"price__value": "0.005"}),
        ({"price": {"value": 0.25, "currency": "usd"}}, {"price__value": "0.25"}),
        ({"channel_data": {"error_code": 0}}, {"channel_data__error_code": "0"}),
        ({"channel_data": {"mcc": 732}}, {"channel_data__mcc": "732"}),
        ({"channel_data": {"carrier": ["a", 1]}}, {"channel_data__carrier": '["a",1]'}),
        ({"channel_data": {"code_length": "6"}}, {"channel_data__code_length": "6"}),
        ({"channel": True}, {"channel": "true"}),
        ({"brand": {"id": 7}}, {"extra": '{"brand":{"id":7}}'}),
        ({"price": {"value": "1", "tax": "0.1"}}, {"extra": '{"price.tax":"0.1"}'}),
        ({"channel_data": {"seen": None}}, {"extra": '{"channel_data.seen":null}'}),
        ({"channel_data": "none"}, {"extra": '{"channel_data":"none"}'}),
        ({"price": ["0.005"]}, {"extra": '{"price":["0.005"]}'}),
    ],
)
def test_surprises_are_kept(changes: dict[str, Any], expected: dict[str, str]) -> None:
    found = row(**changes)
    assert {name: found[name] for name in expected} == expected


@pytest.mark.parametrize("empty", [{"price": None}, {"channel_data": None}, {"channel_data": {}}])
def test_nothing_is_nothing(empty: dict[str, Any]) -> None:
    found = row(**empty)
    assert "extra" not in found
    assert not any(name.startswith(next(iter(empty)) + "__") for name in found)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({**ATTEMPT, "sid": None}, "no usable sid"),
        ({**ATTEMPT, "sid": ""}, "no usable sid"),
        ({**ATTEMPT, "sid": 5}, "no usable sid"),
        ({**ATTEMPT, "date_created": "soon"}, "no usable date_created"),
        ({**ATTEMPT, "date_created": None}, "no usable date_created"),
        ({**ATTEMPT, "date_created": 17672256}, "no usable date_created"),
        ({**ATTEMPT, "date_created": 1767225600000000}, "no usable date_created"),
        ({**ATTEMPT, "date_created": "2" * 1_000_000}, "no usable date_created"),
        *(
            ({**ATTEMPT, "date_created": half}, "no usable date_created")
            for half in (
                "10",
                "12:30",
                "23:",
                "Monday",
                "2026",
                "now",
                "2026-01",
                "2026-13-01T00:00:00Z",
                "2026-01-01T00:00:00+99:99",
                "0000-01-01T00:00:00Z",
                "9999-12-31T23:59:59-01:00",
            )
        ),
        ({}, "no usable sid"),
        (7, "not an object"),
        (None, "not an object"),
    ],
)
def test_what_cannot_be_an_attempt_is_rejected_and_the_rest_is_not(bad: Any, reason: str) -> None:
    others = [{**ATTEMPT, "sid": "VL2"}, {**ATTEMPT, "sid": "VL3"}]
    body = {"attempts": [others[0], bad, others[1]], "meta": {"next_page_url": None}}
    found = read_page(json.dumps(body).encode(), READ_AT)
    assert found.attempts["sid"].to_pylist() == ["VL2", "VL3"]
    (rejected,) = found.rejected.to_pylist()
    assert (rejected["reason"], rejected["read_at"]) == (reason, READ_AT)
    assert json.loads(rejected["attempt"]) == bad


def test_a_double_without_a_date_does_not_replace_the_one_that_has_it() -> None:
    found = decode([ATTEMPT, {**ATTEMPT, "date_created": None}], READ_AT)
    assert found.attempts["sid"].to_pylist() == ["VL1"]
    assert found.rejected["reason"].to_pylist() == ["no usable date_created"]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (r'"Tigo \ud83d"', "Tigo \ufffd"),
        (r'"\ud83d\ude00"', "\U0001f600"),
        ("1e999", "inf"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("[" * 400 + "]" * 400, '"nested too deeply to keep"'),
    ],
)
def test_json_that_other_software_would_refuse_is_read(text: str, kept: str) -> None:
    whole = json.dumps({"attempts": [ATTEMPT], "meta": {"next_page_url": None}})
    for other in ("1e999", "1"):  # with and without another odd value
        content = whole.replace('"mnc": "05"', f'"mnc": {text}, "x": {other}').encode()
        (found,) = read_page(content, READ_AT).attempts.to_pylist()
        assert found["channel_data__mnc"] == kept


def test_extra_is_the_same_text_whatever_the_order_of_its_keys() -> None:
    found = row(zone="b", brand={"y": 2, "x": 1})["extra"]
    assert (
        found
        == row(brand={"x": 1, "y": 2}, zone="b")["extra"]
        == '{"brand":{"x":1,"y":2},"zone":"b"}'
    )


def test_of_doubles_in_a_page_the_last_stays() -> None:
    doubles = [ATTEMPT, {**ATTEMPT, "sid": "VL2"}, {**ATTEMPT, "channel": "call"}]
    assert page(doubles).to_pydict()["channel"] == ["call", "sms"]


def test_a_window_is_open_below_and_closed_above(world: World) -> None:
    table = decode(world.sandbox.truth(), READ_AT).attempts
    created = sorted(set(table["date_created"].to_pylist()))
    lower, upper = created[3], created[-3]
    found = within(table, lower, upper)["date_created"].to_pylist()
    assert min(found) == created[4]
    assert max(found) == upper
    assert within(table, NOW, NOW).num_rows == 0


def test_an_empty_page_is_an_empty_table() -> None:
    assert page([]).schema == ATTEMPTS


def test_the_usual_page_does_not_go_through_python_objects(world: World) -> None:
    """A page with an unknown key does. So the fast path is really used."""
    body: dict[str, Any] = {"attempts": world.sandbox.truth(), "meta": {"next_page_url": None}}
    assert _usual_page(json.dumps(body, indent=1).encode(), READ_AT) is not None
    body["attempts"][7]["channel_data"]["new"] = 1
    assert _usual_page(json.dumps(body).encode(), READ_AT) is None


@pytest.mark.parametrize(
    "content",
    [b"", b"<html>", b"[]", b"{}", b'{"attempts":[]}', b'{"attempts":{},"meta":{}}', b"null",
     b'{"attempts":null,"meta":{"next_page_url":null}}', b'{"attempts":[],"meta":null}',
     b'{"attempts":[],"meta":{"next_page_url":null}} {}', b'{"attempts":[7],"meta":{}}',
     b'{"attempts":[],"meta":{"next_page', b'{"attempts":[],"meta":{"page":0}}',
     b'{"attempts":[{"sid":"VL1","date_created":"2026-01-01T00:00:00Z"}],"meta":{}}'],
)  # fmt: skip
def test_what_is_no_page_is_a_failure(content: bytes) -> None:
    with pytest.raises(Unreadable, match="not a page"):
        read_page(content, READ_AT)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=3,
)
keys = st.sampled_from([*TOP, "price", "channel_data", "new"])
inner_keys = st.sampled_from([*NESTED["price"], *NESTED["channel_data"], "new"])
objects = st.dictionaries(inner_keys, json_values, max_size=6)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.dictionaries(keys, json_values | objects, max_size=4), max_size=4))
def test_no_json_crashes_the_decoder_or_loses_a_row(changes: list[dict[str, Any]]) -> None:
    fixed = {"date_created": ATTEMPT["date_created"]}
    attempts = [{**ATTEMPT, **c, **fixed, "sid": f"VL{n}"} for n, c in enumerate(changes)]
    found = page(attempts).to_pylist()
    assert [r["sid"] for r in found] == [a["sid"] for a in attempts]
    for attempt, columns in zip(attempts, found, strict=True):
        data = attempt["channel_data"]
        if isinstance(data, dict) and isinstance(data.get("carrier"), str):
            assert columns["channel_data__carrier"] == data["carrier"]
        if "new" in attempt:
            assert json.loads(columns["extra"])["new"] == attempt["new"]


sids = st.sampled_from(["VL1", "VL2", "VL3"]) | json_values
dates = st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-02T00:00:00.5+01:00"]) | json_values
anything = st.dictionaries(keys, json_values | objects, max_size=5)
rows = json_values | st.builds(
    lambda rest, sid, date: {**rest, "sid": sid, "date_created": date}, anything, sids, dates
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(rows, max_size=6), st.booleans())
def test_every_row_of_any_page_is_an_attempt_or_rejected(listed: list[Any], ascii: bool) -> None:
    """Values of any JSON type in any place: no crash, and rows with a sid and a date are kept."""
    body = {"attempts": listed, "meta": {"next_page_url": None}}
    found = read_page(json.dumps(body, ensure_ascii=ascii).encode(), READ_AT)
    whole = {
        row["sid"]
        for row in listed
        if isinstance(row, dict)
        and isinstance(row.get("sid"), str)
        and row["sid"]
        and str(row.get("date_created")).startswith("2026-01-0")
    }
    kept = found.attempts["sid"].to_pylist()
    assert whole <= set(kept)
    assert len(kept) == len(set(kept))
    doubles = [row for row in listed if isinstance(row, dict) and row.get("sid") in kept]
    assert len(listed) - len(doubles) <= found.rejected.num_rows <= len(listed) - len(kept)
    rejected = [json.loads(text) for text in found.rejected["attempt"].to_pylist()]
    assert all(row in listed for row in rejected)
    assert found.attempts.schema == ATTEMPTS
    assert found.attempts["date_created"].null_count == 0


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_bytes_crash_the_decoder(content: bytes) -> None:
    with pytest.raises(Unreadable):
        read_page(content, READ_AT)
