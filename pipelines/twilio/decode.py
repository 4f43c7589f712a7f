"""Turns JSON pages into Arrow tables: values as text, instants as timestamps. Sending: transport.

No value is dropped or guessed. A key without a column goes into `extra`. A known key with an
unexpected type is stored as JSON text. Arrow itself parses pages with only documented keys and
types: this costs a third of going through Python objects, and other threads can run meanwhile.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj

from pipelines.errors import Unreadable
from pipelines.twilio.columns import ATTEMPTS, INSTANTS, NESTED, NUMBERS, REJECTED, TIMESTAMP, TOP
from pipelines.twilio.dates import instants

_LONG_NUMBER = re.compile(rb"[\[:,]\s*-?\d{19}")  # orjson rounds it to a float
_KEYS = frozenset((*TOP, *NESTED))
_NESTED_KEYS = {name: frozenset(keys) for name, keys in NESTED.items()}
Attempt = dict[str, Any]


def _records(numbers: Sequence[str] = ()) -> pa.DataType:
    """The Arrow type of an attempt: a struct of text, with int64 for the keys in `numbers`."""

    def typed(keys: Sequence[str]) -> list[tuple[str, pa.DataType]]:
        return [(key, pa.int64() if key in numbers else pa.string()) for key in keys]

    return pa.struct(typed(TOP) + [(name, pa.struct(typed(keys))) for name, keys in NESTED.items()])


_USUAL, _TEXT = _records(NUMBERS), _records()
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


@dataclass(frozen=True)
class Page:
    """A page: its attempts, its rejected rows, and the link to the next page.

    `attempts` has the schema `columns.ATTEMPTS`, and holds each SID once. `rejected` has the
    schema `columns.REJECTED`. `sids` are the SIDs of `attempts`. `unknown_keys` went to `extra`.
    `is_repaired`: some bytes were not UTF-8; they became U+FFFD.
    """

    attempts: pa.Table
    sids: AbstractSet[str]
    rejected: pa.Table = field(default_factory=REJECTED.empty_table)
    unknown_keys: frozenset[str] = frozenset()
    next_page_url: Any = None
    is_repaired: bool = False


def read_page(content: bytes, read_at: datetime) -> Page:
    """Decodes a list response's body. Raises Unreadable if it is not a page of attempts."""
    found = _usual_page(content, read_at)
    if found is not None:
        return found
    body = read_object(content, "a page of attempts")
    attempts, meta = body.get("attempts"), body.get("meta")
    if not isinstance(attempts, list) or not isinstance(meta, dict) or "next_page_url" not in meta:
        raise Unreadable("Twilio answered 200 with something that is not a page of attempts")
    page = decode(attempts, read_at, meta["next_page_url"])
    return replace(page, is_repaired=not _is_utf8(content))


def read_object(content: bytes, what: str) -> dict[str, Any]:
    """Parses a body. Raises Unreadable if it is not a JSON object; the message calls it `what`."""
    try:
        body = _odd_json(content) if _LONG_NUMBER.search(content) else orjson.loads(content)
    except orjson.JSONDecodeError:
        body = _odd_json(content)
    if not isinstance(body, dict):
        raise Unreadable(f"Twilio answered 200 with something that is not {what}")
    return body


def _usual_page(content: bytes, read_at: datetime) -> Page | None:
    """The page, parsed by Arrow. None if it has undocumented keys or types, or duplicates."""
    if not content.startswith(b"{"):
        return None  # Arrow does not check that this is an object
    options = pj.ReadOptions(use_threads=False, block_size=len(content) + 1)
    try:
        content.decode()  # Arrow does not check that text is UTF-8
        page = pj.read_json(pa.BufferReader(content), options, _PAGE)
    except (UnicodeDecodeError, pa.ArrowInvalid):
        return None
    metas, lists = page["meta"].to_pylist(), page["attempts"]
    if len(metas) != 1 or metas[0] is None or lists.null_count:
        return None
    records = lists.chunk(0).flatten()
    sids = set(records.field("sid").to_pylist())
    if len(sids) < len(records) or not all(sids):
        return None
    table = _table(records, pa.nulls(len(records), pa.string()), read_at)
    following = metas[0]["next_page_url"]
    # Arrow also returns null if the key is missing. Only a null that Twilio sent ends the list.
    is_told = following is not None or b'"next_page_url"' in content
    if table["date_created"].null_count or not is_told:
        return None
    return Page(table, sids, next_page_url=following)


def decode(attempts: Sequence[Any], read_at: datetime, next_page_url: Any = None) -> Page:
    """Decodes attempts of any shape. Of duplicates the last is kept; unusable rows are rejected."""
    whole = [row for row in attempts if _reason(row) is None]
    try:
        records = pa.array(whole, _USUAL)
    except (pa.ArrowTypeError, pa.ArrowInvalid, OverflowError):
        records = pa.array([_as_text(row) for row in whole], _TEXT)
    extras = [_extra(row) for row in whole]
    texts = [None if extra is None else _json(extra) for extra in extras]
    table = _table(records, pa.array(texts, pa.string()), read_at)
    dates = table["date_created"].to_pylist()
    kept = {row["sid"]: at for at, row in enumerate(whole) if dates[at] is not None}
    rejected = [(row, reason) for row in attempts if (reason := _reason(row)) is not None]
    undated = (row for at, row in enumerate(whole) if dates[at] is None)
    rejected += [(row, "no usable date_created") for row in undated]
    return Page(
        table.take(pa.array(list(kept.values()), pa.int64())),
        kept.keys(),
        pa.Table.from_pylist(
            [{"reason": why, "read_at": read_at, "attempt": _json(row)} for row, why in rejected],
            REJECTED,
        ),
        frozenset(key for extra in extras for key in extra or ()),
        next_page_url,
    )


def _table(records: pa.StructArray, extras: pa.Array, read_at: datetime) -> pa.Table:
    values = [(name, records.field(name)) for name in TOP]
    values += [("", part) for name in NESTED for part in records.field(name).flatten()]
    columns = [
        instants(column) if name in INSTANTS else column.cast(pa.string())
        for name, column in values
    ]
    columns += [extras, pa.repeat(pa.scalar(read_at, TIMESTAMP), len(records))]
    return pa.Table.from_arrays(columns, schema=ATTEMPTS)


def within(table: pa.Table, after: datetime, before: datetime) -> pa.Table:
    """The rows created in `(after, before]`."""
    created = table["date_created"]
    lower, upper = pa.scalar(after, TIMESTAMP), pa.scalar(before, TIMESTAMP)
    return table.filter(pc.and_(pc.greater(created, lower), pc.less_equal(created, upper)))


def _reason(row: Any) -> str | None:
    """Why a row of a page is not an attempt; None if it is one."""
    if not isinstance(row, dict):
        return "not an object"
    sid = row.get("sid")
    return None if isinstance(sid, str) and sid else "no usable sid"


def _as_text(row: Attempt) -> Attempt:
    """The attempt with every known value as text, so that it fits the columns."""
    parts = {
        name: {key: _text(_object(row, name).get(key)) for key in NESTED[name]} for name in NESTED
    }
    return {**{name: _text(row.get(name)) for name in TOP}, **parts}


def _object(row: Attempt, name: str) -> Attempt:
    """The nested object `name`, or {}. A price that is a bare value becomes {"value": price}."""
    value = row.get(name)
    if isinstance(value, dict):
        return value
    return {"value": value} if name == "price" and isinstance(value, (str, int, float)) else {}


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:  # orjson reads deeper nesting than it writes
        return '"nested too deeply to keep"'


def _extra(row: Attempt) -> Attempt | None:
    """The values that have no column, by dotted path; None if there are none."""
    found = {key: row[key] for key in row.keys() - _KEYS}
    for name, keys in _NESTED_KEYS.items():
        part = _object(row, name)
        found |= {f"{name}.{key}": part[key] for key in part.keys() - keys}
        if row.get(name) and not part:
            found[name] = row[name]
    return found or None


def _odd_json(content: bytes) -> Any:
    """Parses JSON that orjson cannot store: lone surrogates, numbers beyond 64 bits, bytes that are
    not UTF-8.

    A lone surrogate and such a byte become U+FFFD, such a number becomes text. None if it is not
    JSON at all.
    """
    text = content if _is_utf8(content) else content.decode(errors="replace")
    try:
        return _storable(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return None


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _storable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_storable(key): _storable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner) for inner in value]
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    is_beyond = isinstance(value, float) and not math.isfinite(value)
    is_long = isinstance(value, int) and not -(2**63) <= value < 2**64
    return str(value) if is_beyond or is_long else value
