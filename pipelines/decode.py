"""The API's JSON attempts as Arrow tables: every value as text, instants as timestamps.

Nothing the API says is dropped or guessed at: a key nobody knows is kept in `extra`, a known key
with a surprising type is kept as its JSON text.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from itertools import chain
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
NESTED = {
    "price": ("value", "currency"),
    "channel_data": (
        "verification_sid", "to", "status", "message_status", "error_code", "country",
        "code_length", "locale", "mcc", "mnc", "carrier",
    ),
}  # fmt: skip
_INSTANTS = ("date_created", "date_updated")
_TIMESTAMP = pa.timestamp("us", tz="UTC")
_KEYS = frozenset((*TOP, *NESTED))
_NESTED_KEYS = {name: frozenset(keys) for name, keys in NESTED.items()}
Attempt = dict[str, Any]

SCHEMA = pa.schema(
    [pa.field(n, _TIMESTAMP if n in _INSTANTS else pa.string()) for n in TOP]
    + [pa.field(f"{n}__{key}", pa.string()) for n, keys in NESTED.items() for key in keys]
    + [pa.field("extra", pa.string()), pa.field("read_at", _TIMESTAMP, nullable=False)]
)


def _records(**types: pa.DataType) -> pa.DataType:
    """An attempt as a struct: text, but for the keys whose type is given."""
    nested = [
        (name, pa.struct([(key, types.get(key, pa.string())) for key in keys]))
        for name, keys in NESTED.items()
    ]
    return pa.struct([(name, pa.string()) for name in TOP] + nested)


_USUAL, _TEXT = _records(code_length=pa.int64()), _records()


def decode(attempts: Sequence[Any], read_at: datetime) -> pa.Table:
    """A page of attempts as a table of `SCHEMA`; of doubles within it the last one stays.

    Raises Failure for an attempt without a usable sid or date_created.
    """
    rows = list(attempts)
    records = _as_records(rows)
    sids = set(records.field("sid").to_pylist())
    if len(sids) < len(rows) or not all(sids):
        rows = list({_sid(row): row for row in rows}.values())
        records = _as_records(rows)
    columns = [
        _instants(records.field(name)) if name in _INSTANTS else records.field(name) for name in TOP
    ]
    for name in NESTED:
        columns += [part.cast(pa.string()) for part in records.field(name).flatten()]
    columns += [_extras(rows), pa.array([read_at] * len(rows), _TIMESTAMP)]
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    if table["date_created"].null_count:
        raise Failure("Twilio listed an attempt without a usable date_created")
    return table


def _as_records(rows: list[Any]) -> pa.StructArray:
    try:
        return pa.array(rows, _USUAL)  # nearly every page, at the speed of C
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.array([_as_text(row) for row in rows], _TEXT)


def within(table: pa.Table, after: datetime, before: datetime) -> pa.Table:
    """The rows created in `(after, before]`."""
    created = table["date_created"]
    lower, upper = pa.scalar(after, _TIMESTAMP), pa.scalar(before, _TIMESTAMP)
    return table.filter(pc.and_(pc.greater(created, lower), pc.less_equal(created, upper)))


def _sid(row: Any) -> str:
    sid = row.get("sid") if isinstance(row, dict) else None
    if not isinstance(sid, str) or not sid:
        raise Failure("Twilio listed an attempt without a sid")
    return sid


def _as_text(row: Attempt) -> Attempt:
    """The attempt with every known value as text, so that it fits the columns."""
    _sid(row)
    parts = {
        name: {key: _text(_object(row, name).get(key)) for key in NESTED[name]} for name in NESTED
    }
    return {**{name: _text(row.get(name)) for name in TOP}, **parts}


def _object(row: Attempt, name: str) -> Attempt:
    """A nested object; a bare price is its value."""
    value = row.get(name)
    if isinstance(value, dict):
        return value
    return {"value": value} if name == "price" and isinstance(value, (str, int, float)) else {}


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _extras(rows: list[Attempt]) -> pa.Array:
    """What has no column, as JSON objects by dotted path; null where there is nothing."""
    nested = {name: [row.get(name) or {} for row in rows] for name in NESTED}
    if _KEYS.issuperset(chain.from_iterable(rows)) and all(
        _are_known(parts, _NESTED_KEYS[name]) for name, parts in nested.items()
    ):  # nearly every page: found out for all its rows at once
        return pa.nulls(len(rows), pa.string())
    return pa.array([_extra(row) for row in rows], pa.string())


def _are_known(parts: list[Any], keys: frozenset[str]) -> bool:
    return set(map(type, parts)) <= {dict} and keys.issuperset(chain.from_iterable(parts))


def _extra(row: Attempt) -> str | None:
    found = {key: row[key] for key in row.keys() - _KEYS}
    for name, keys in _NESTED_KEYS.items():
        part = _object(row, name)
        found |= {f"{name}.{key}": part[key] for key in part.keys() - keys}
        if row.get(name) and not part:
            found[name] = row[name]
    return orjson.dumps(found, option=orjson.OPT_SORT_KEYS).decode() if found else None


def _instants(texts: pa.Array) -> pa.Array:
    try:
        return texts.cast(_TIMESTAMP)
    except pa.ArrowInvalid:
        return pa.array([_instant(text) for text in texts.to_pylist()], _TIMESTAMP)


def _instant(text: str | None) -> datetime | None:
    """Other spellings of a date than the documented one; None if it is none."""
    try:
        parsed = pendulum.parse(text, strict=False) if text else None
    except (ValueError, OverflowError):
        return None
    return parsed if isinstance(parsed, datetime) else None
