"""Answers of the API as they came, for `probe`: rows, created times, values. A sync: decode."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from pipelines.errors import Failure, Unreadable, masked
from pipelines.twilio.connection import Answer
from pipelines.twilio.decode import decode, read_object

Attempt = dict[str, Any]
Parameters = dict[str, str]
_NEVER = datetime(1970, 1, 1, tzinfo=timezone.utc)  # these rows are not stored


class Listed(NamedTuple):
    """A list answer: its attempts with their created times, what is no attempt, the keys without a
    column, and the parameters of the next page."""

    rows: list[Attempt]
    created: list[datetime]
    others: int
    new_keys: frozenset[str]
    following: Parameters | None


def good(answer: Answer) -> Answer:
    if answer.status != 200:
        raise Failure(f"Twilio answered {told_of(answer)}; run again later")
    return answer


def told_of(answer: Answer) -> str:
    """Status and code of an answer."""
    body = object_of(answer)
    code = f", code {masked(str(body['code']))}" if body.get("code") else ""
    return f"{answer.status}{code}"


def object_of(answer: Answer) -> dict[str, Any]:
    try:
        return read_object(answer.content, "an object")
    except Unreadable:
        return {}


def listed(answer: Answer) -> Listed:
    body = object_of(answer)
    rows, meta = body.get("attempts"), body.get("meta")
    if not isinstance(rows, list) or not isinstance(meta, dict):
        raise Failure("Twilio answered 200 with something that is not a page of attempts")
    page = decode(rows, _NEVER)
    dates = dict(
        zip(*(page.attempts[name].to_pylist() for name in ("sid", "date_created")), strict=True)
    )
    attempts = [row for row in rows if isinstance(row, dict) and row.get("sid") in dates]
    created = [dates[row["sid"]] for row in attempts]
    link = meta.get("next_page_url")
    following = dict(parse_qsl(str(link).partition("?")[2])) if link else None
    others = len(rows) - len(attempts)
    return Listed(attempts, created, others, page.unknown_keys, following)


def number(total: Mapping[str, Any], name: str) -> int:
    value = total.get(name)
    return value if isinstance(value, int) else -1


def value_at(row: Attempt, path: str) -> Any:
    place: Any = row
    for key in path.split("."):
        place = place.get(key) if isinstance(place, dict) else None
    return place


def values_at(rows: Iterable[Attempt], path: str) -> set[str]:
    return {value for row in rows if isinstance(value := value_at(row, path), str) and value}


def letters(values: set[str]) -> str:
    kinds = {"lower": str.lower, "upper": str.upper}
    found = [name for name, as_ in kinds.items() if all(value == as_(value) for value in values)]
    return (found or ["mixed"])[0] if values else "no values"


def is_code(row: Attempt) -> bool:
    return str(value_at(row, "channel_data.error_code")) not in ("None", "", "0")


def form_of_code(row: Attempt) -> str:
    data = row.get("channel_data")
    if not isinstance(data, dict) or "error_code" not in data:
        return "absent"
    return masked(json.dumps(data["error_code"]))


def marked(rows: Iterable[Attempt]) -> str:
    """Which attempts of a converted verification are converted."""
    verifications = defaultdict(list)
    for row in rows:
        is_converted = str(row.get("conversion_status")).lower() == "converted"
        verifications[row.get("verification_sid")].append(is_converted)
    several = [marks for marks in verifications.values() if len(marks) > 1 and any(marks)]
    if not several:
        return "cannot be told"
    return "all attempts" if all(map(all, several)) else "only some attempts"
