"""The API's JSON pages as Arrow tables: every value as text, instants as timestamps.

Nothing the API says is dropped or guessed at: a key nobody knows is kept in `extra`, a known key
with a surprising type is kept as its JSON text. A page without surprises is parsed by Arrow, which
costs a third of going through Python objects and leaves the interpreter to other threads.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import orjson
import pendulum
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

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
_META = pa.struct(
    [(name, pa.string()) for name in ("key", "url")]
    + [(f"{name}_page_url", pa.string()) for name in ("first", "previous", "next")]
    + [(name, pa.int64()) for name in ("page", "page_size")]
)
_PAGE = pj.ParseOptions(
    explicit_schema=pa.schema([("attempts", pa.list_(_USUAL)), ("meta", _META)]),
    newlines_in_values=True,
    unexpected_field_behavior="error",
)


def read_page(content: bytes, read_at: datetime) -> tuple[pa.Table, Any]:
    """A response's body as a table like `decode`'s, and its `next_page_url`.

    Raises Failure when it is not a page of attempts.
    """
    found = _usual_page(content, read_at)
    if found is not None:
        return found
    try:
        body = orjson.loads(content)
        attempts, next_page_url = body["attempts"], body["meta"]["next_page_url"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        attempts, next_page_url = None, None
    if not isinstance(attempts, list):
        raise Failure("Twilio answered 200 with something that is not a page of attempts")
    return decode(attempts, read_at), next_page_url


def _usual_page(content: bytes, read_at: datetime) -> tuple[pa.Table, Any] | None:
    """The page, if it has just the documented keys and types and no attempt twice."""
    if not content.startswith(b"{"):
        return None  # Arrow takes an object for granted
    options = pj.ReadOptions(use_threads=False, block_size=len(content) + 1)
    try:
        content.decode()  # nor does it look whether text is UTF-8
        page = pj.read_json(pa.BufferReader(content), options, _PAGE)
    except (UnicodeDecodeError, pa.ArrowInvalid):
        return None
    metas, lists = page["meta"].to_pylist(), page["attempts"].combine_chunks()
    if len(metas) != 1 or metas[0] is None or lists.null_count:
        return None
    records = lists.flatten()
    sids = set(records.field("sid").to_pylist())
    if len(sids) < len(records) or not all(sids):
        return None
    extras = pa.nulls(len(records), pa.string())
    return _table(records, extras, read_at), metas[0]["next_page_url"]


def decode(attempts: Sequence[Any], read_at: datetime) -> pa.Table:
    """Attempts as a table of `SCHEMA`; of doubles among them the last one stays.

    Raises Failure for an attempt without a usable sid or date_created.
    """
    rows = list({_sid(row): row for row in attempts}.values())
    try:
        records = pa.array(rows, _USUAL)
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        records = pa.array([_as_text(row) for row in rows], _TEXT)
    return _table(records, pa.array([_extra(row) for row in rows], pa.string()), read_at)


def _table(records: pa.StructArray, extras: pa.Array, read_at: datetime) -> pa.Table:
    columns = [
        _instants(records.field(name)) if name in _INSTANTS else records.field(name) for name in TOP
    ]
    for name in NESTED:
        columns += [part.cast(pa.string()) for part in records.field(name).flatten()]
    columns += [extras, pa.array([read_at] * len(records), _TIMESTAMP)]
    table = pa.Table.from_arrays(columns, schema=SCHEMA)
    if table["date_created"].null_count:
        raise Failure("Twilio listed an attempt without a usable date_created")
    return table


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


def _extra(row: Attempt) -> str | None:
    """What has no column, as a JSON object by dotted path; None when there is nothing."""
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
