"""The API's JSON attempts as Arrow tables: every value as text, instants as timestamps.

Nothing the API says is dropped or guessed at: a key nobody knows is kept in `extra`, a known key
with a surprising type is kept as its JSON text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson
import pendulum
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import Failure

# Keys of an attempt in the API's JSON, by where they stand.
TOP = (
    "sid", "account_sid", "service_sid", "verification_sid", "date_created", "date_updated",
    "conversion_status", "channel", "url",
)  # fmt: skip
PRICE = ("value", "currency")
CHANNEL_DATA = (
    "verification_sid", "to", "status", "message_status", "error_code", "country", "code_length",
    "locale", "mcc", "mnc", "carrier",
)  # fmt: skip
_INSTANTS = ("date_created", "date_updated")
_TOP_KEYS = frozenset((*TOP, "price", "channel_data"))
_PRICE_KEYS, _CHANNEL_DATA_KEYS = frozenset(PRICE), frozenset(CHANNEL_DATA)
_TIMESTAMP = pa.timestamp("us", tz="UTC")

SCHEMA = pa.schema(
    [pa.field(n, _TIMESTAMP if n in _INSTANTS else pa.string()) for n in TOP]
    + [pa.field(f"price__{name}", pa.string()) for name in PRICE]
    + [pa.field(f"channel_data__{name}", pa.string()) for name in CHANNEL_DATA]
    + [pa.field("extra", pa.string()), pa.field("read_at", _TIMESTAMP, nullable=False)]
)


def decode(attempts: Sequence[dict[str, Any]], read_at: datetime) -> pa.Table:
    """A page of attempts as a table of `SCHEMA`; of doubles within it the last one stays."""
    rows = list({id_: row for row in attempts if (id_ := _sid(row))}.values())
    prices = [_member(row, "price") for row in rows]
    details = [_member(row, "channel_data") for row in rows]
    columns = [
        _instants([row.get(name) for row in rows])
        if name in _INSTANTS
        else _texts([row.get(name) for row in rows])
        for name in TOP
    ]
    columns += [_texts([price.get(name) for price in prices]) for name in PRICE]
    columns += [_texts([detail.get(name) for detail in details]) for name in CHANNEL_DATA]
    columns.append(pa.array(map(_extra, rows, prices, details), pa.string()))
    columns.append(pa.array([read_at] * len(rows), _TIMESTAMP))
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    if table["date_created"].null_count:
        raise Failure("Twilio listed an attempt without a usable date_created")
    return table


def within(table: pa.Table, after: datetime, before: datetime) -> pa.Table:
    """The rows created in `(after, before]`."""
    created = table["date_created"]
    lower, upper = pa.scalar(after, _TIMESTAMP), pa.scalar(before, _TIMESTAMP)
    return table.filter(pc.and_(pc.greater(created, lower), pc.less_equal(created, upper)))


def _sid(row: object) -> str:
    sid = row.get("sid") if isinstance(row, dict) else None
    if not isinstance(sid, str) or not sid:
        raise Failure("Twilio listed an attempt without a sid")
    return sid


def _member(row: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A nested object; a bare price is its value, anything else unexpected goes to `extra`."""
    value = row.get(name)
    if isinstance(value, dict):
        return value
    if name == "price" and isinstance(value, (str, int, float)):
        return {"value": value}
    return {}


def _extra(row: dict[str, Any], price: dict[str, Any], detail: dict[str, Any]) -> str | None:
    """What has no column, as a JSON object by dotted path; None when there is nothing."""
    surprising = {"channel_data": row["channel_data"]} if _lost(row, "channel_data", detail) else {}
    if _lost(row, "price", price):
        surprising["price"] = row["price"]
    if (
        not surprising
        and row.keys() <= _TOP_KEYS
        and price.keys() <= _PRICE_KEYS
        and detail.keys() <= _CHANNEL_DATA_KEYS
    ):
        return None
    found = {**surprising, **{key: row[key] for key in row.keys() - _TOP_KEYS}}
    found.update({f"price.{key}": price[key] for key in price.keys() - _PRICE_KEYS})
    found.update({f"channel_data.{key}": detail[key] for key in detail.keys() - _CHANNEL_DATA_KEYS})
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode()


def _lost(row: dict[str, Any], name: str, kept: dict[str, Any]) -> bool:
    """Whether a nested value was not an object and left no trace in the columns."""
    return not kept and row.get(name) not in (None, {})


def _texts(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.array([_text(value) for value in values], pa.string())


def _text(value: object) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _instants(values: list[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.string()).cast(_TIMESTAMP)
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.array([_instant(value) for value in values], _TIMESTAMP)


def _instant(value: object) -> datetime | None:
    try:
        parsed = pendulum.parse(value, strict=False) if isinstance(value, str) else None
    except (ValueError, OverflowError):
        return None
    return parsed if isinstance(parsed, datetime) else None
