"""What changed since some load package. Kept tables and checks ask here, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone

from pipelines.reading.raw_tables import CHANGED_IN, LOAD_ID
from pipelines.warehouse.connections import Connection, escaped
from pipelines.warehouse.recovery import Loads
from pipelines.warehouse.tables import SCHEMA

_DAY = timedelta(days=1)
_EARLIEST, _LATEST = date(1900, 1, 1), date(9000, 1, 1)  # else a span may not fit the calendar
_MOST_SPANS = 30  # more of them take longer than one that spans them all
_OLDER = f"""
    select count(*) from {SCHEMA}._dlt_loads
    where status = 0 and inserted_at <= (
        select max(inserted_at) from {SCHEMA}._dlt_loads where status = 0 and load_id = ?
    )
"""
_NEWER = f"""
    select load_id from {SCHEMA}._dlt_loads
    where status = 0 and inserted_at > (
        select max(inserted_at) from {SCHEMA}._dlt_loads where status = 0 and load_id = ?
    )
"""
_ATTEMPTS = f"""
    create or replace temp table changed_attempts as
    with brought as (
        select sid, read_at, coalesce({CHANGED_IN} in (select load_id from new_loads), false) as
            is_changed
        from {SCHEMA}.attempts
        where {LOAD_ID} between '{{first}}' and '{{last}}'
            and {LOAD_ID} in (select load_id from new_loads)
    )
    select a.attempt_sid, a.verification_sid, a.created_at, a.read_at, b.is_changed
    from stg_attempts as a
    inner join brought as b on a.attempt_sid = b.sid and a.read_at = b.read_at
"""


@dataclass(frozen=True)
class Changes:
    """What the load packages `loads` have brought. The rest is in temporary tables.

    `changed_attempts` has a row for each attempt that they brought and that no later package
    brought again: attempt_sid, verification_sid, created_at, read_at, and is_changed. That is false
    if the attempt was only read again: no value but `read_at` has changed.
    """

    loads: tuple[str, ...]
    attempts: int
    changed: int
    days: tuple[date, ...]  # UTC days on which these attempts were created


def changes_since(connection: Connection, seen: Loads) -> Changes | None:
    """Returns what has changed since `seen` were the loads of the database; None if it cannot be
    told, or an attempt has an odd date. Then everything may have changed. Needs the view
    stg_attempts."""
    ((older,),) = connection.execute(_OLDER, [seen.newest]).fetchall()
    if older != seen.number:  # such as a restored file, or a clock that was set back
        return None
    loads = tuple(load for (load,) in connection.execute(_NEWER, [seen.newest]).fetchall())
    with made_once(connection, "changed_attempts", f"{seen} {loads}") as is_missing:
        if is_missing:
            connection.execute("create or replace temp table new_loads (load_id varchar)")
            if loads:
                connection.execute("insert into new_loads select unnest(?)", [list(loads)])
            first, last = (min(loads), max(loads)) if loads else ("", "")
            connection.execute(_ATTEMPTS.format(first=escaped(first), last=escaped(last)))
    attempts, changed = connection.execute(
        "select count(*), count(*) filter (is_changed) from changed_attempts"
    ).fetchall()[0]
    days = days_of(connection, "changed_attempts")
    if have_odd(days):
        return None
    return Changes(loads, attempts, changed, days)


@contextmanager
def made_once(connection: Connection, table: str, version: str) -> Iterator[bool]:
    """Yields whether the temporary table must be made: this version of it is not there yet."""
    made = connection.execute("select getvariable($1)", [table]).fetchall()
    yield made != [(version,)]
    connection.execute(f"set variable {table} = '{escaped(version)}'")


def days_of(connection: Connection, relation: str) -> tuple[date, ...]:
    """Returns the UTC days of `created_at`, in order."""
    found = connection.execute(
        "select distinct cast(created_at at time zone 'UTC' as date) as day"
        f" from {relation} where created_at is not null order by day"
    ).fetchall()
    return tuple(day for (day,) in found)


def have_odd(days: Sequence[date]) -> bool:
    """Whether one of the days, which are in order, lies where no attempt can."""
    return bool(days) and not _EARLIEST <= days[0] <= days[-1] <= _LATEST


Span = tuple[datetime, datetime]  # from the first instant to before the second


def within(spans: Sequence[Span], column: str = "created_at") -> str:
    """Returns SQL for `column` lying in one of the spans.

    It names constants, so that DuckDB skips the row groups of other times.
    """
    parts = (f"({column} >= '{begin}' and {column} < '{end}')" for begin, end in spans)
    return f"({' or '.join(parts) or 'false'})"


def spans_of(days: Iterable[date], margin: timedelta = timedelta()) -> list[Span]:
    """Returns the spans of UTC days, each `margin` longer at both ends."""
    return [
        (_midnight(first) - margin, _midnight(last) + _DAY + margin)
        for first, last in stretches(days, 1 + 2 * margin // _DAY)
    ]


def stretches(days: Iterable[date], apart: int = 1) -> list[tuple[date, date]]:
    """Returns the first and the last day of each stretch: its days are at most `apart` days apart.

    If there are many, returns one that spans them all.
    """
    found: list[tuple[date, date]] = []
    for day in sorted(days):
        if found and day <= found[-1][1] + apart * _DAY:
            found[-1] = (found[-1][0], day)
        else:
            found.append((day, day))
    return found if len(found) <= _MOST_SPANS else [(found[0][0], found[-1][1])]


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=timezone.utc)
