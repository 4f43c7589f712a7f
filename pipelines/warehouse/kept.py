"""Kept tables: what views would take long to compute. Each load refreshes what it touched.

A file in `sql/` that begins with `create or replace table` makes a kept table. Its query also
refreshes the table: it then reads, instead of its source, the part that was touched.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from pipelines.text import text_of
from pipelines.warehouse.changes import (
    Changes,
    Span,
    changes_since,
    days_of,
    made_once,
    spans_of,
    stretches,
    within,
)
from pipelines.warehouse.connections import Connection
from pipelines.warehouse.marks import KEPT, mark, set_mark
from pipelines.warehouse.recovery import Loads, loads_in

# Twilio lets a code live for a day at most, so the attempts of a verification lie this close
# together. If they ever do not, a check fails, and the run makes the tables anew.
_APART = timedelta(days=1)
_CLOCKS_CHANGE = timedelta(hours=3)  # and more than they ever do
_MOST = 0.2  # share of the attempts beyond which making a kept table anew is faster
_MAKES = re.compile(r"create or replace table (\w+) as\n(.+?);", re.DOTALL)


class KeptTable(NamedTuple):
    """A table, and its query."""

    name: str
    query: str

    def reading(self, source: str, part: str) -> str:
        """Returns the query, reading `part` instead of `source`."""
        return re.sub(rf"\b(from|join) {source}\b", rf"\1 {part}", self.query)


class Touched(NamedTuple):
    """What loads have touched, as SQL: the queries that give the touched rows of each kept table,
    and which rows of the table these replace."""

    queries: dict[str, str]
    rows: dict[str, str]


def kept_tables(files: list[Path]) -> dict[str, KeptTable]:
    found = (_MAKES.match(text_of(file)) for file in files)
    return {made[1]: KeptTable(made[1], made[2]) for made in found if made}


def noted(connection: Connection) -> Loads | None:
    """Returns the loads that the kept tables have seen."""
    return loads_of_mark(mark(connection, KEPT))


def loads_of_mark(text: str | None) -> Loads | None:
    newest, _, number = (text or "").partition(" ")
    return Loads(newest, int(number)) if number else None


def note_kept(connection: Connection) -> None:
    """Notes that the kept tables agree with all loads."""
    set_mark(connection, KEPT, " ".join(map(str, loads_in(connection) or ())))


def refresh(connection: Connection, tables: dict[str, KeptTable]) -> bool:
    """Brings the kept tables up to date with the loads that they have not seen, in one transaction.
    Returns whether it made them anew from all rows.

    The mark of what they have seen is part of it: dlt notes a load in a transaction of its own.
    """
    seen = noted(connection)
    if seen == loads_in(connection):
        return False
    changes = changes_since(connection, seen) if seen else None
    touched = (
        None
        if changes is None or is_much(connection, changes)
        else find_touched(connection, changes, tables)
    )
    connection.begin()
    for name, table in tables.items():
        if touched is None:
            connection.execute(f"delete from {name}")
            connection.execute(f"insert into {name} by name {table.query}")
        elif changes and changes.attempts:
            connection.execute(f"delete from {name} where {touched.rows[name]}")
            connection.execute(f"insert into {name} by name {touched.queries[name]}")
    note_kept(connection)
    connection.commit()
    return touched is None


def is_much(connection: Connection, changes: Changes) -> bool:
    ((stored,),) = connection.execute("select count(*) from twilio_verify.attempts").fetchall()
    return bool(changes.attempts > _MOST * stored)


def find_touched(connection: Connection, changes: Changes, tables: dict[str, KeptTable]) -> Touched:
    """Finds the verifications and days of `changes`, in temporary tables."""
    near = within(spans_of(changes.days, _APART))
    with made_once(connection, "touched_attempts", f"{changes}") as is_missing:
        if is_missing:
            connection.execute(_VERIFICATIONS.format(near=near))
            connection.execute(_ATTEMPTS_OF_VERIFICATIONS.format(near=near))
            days = within(spans_of(days_of(connection, "touched_attempts")))
            connection.execute(_SEVERAL.format(days=days))
            connection.execute(_DAYS)
            _make_attempts_of_days(connection)
    of_days = tables["daily_attempts"].reading("verification_attempts", "attempts_of_touched_days")
    in_days = "created_date in (select created_date from touched_days)"
    return Touched(
        {
            "stg_resends": tables["stg_resends"].reading("stg_attempts", "touched_resends"),
            "daily_attempts": f"from ({of_days}) where {in_days}",
        },
        {
            "stg_resends": f"verification_sid in (from touched_verifications) and {near}",
            "daily_attempts": in_days,
        },
    )


def _make_attempts_of_days(connection: Connection) -> None:
    """DuckDB applies one span to both sides of the view's join, but several of them to one side."""
    parts = [_ATTEMPTS_OF_DAYS.format(span=within([s])) for s in spans_of_touched_days(connection)]
    query = " union all ".join(parts) or _ATTEMPTS_OF_DAYS.format(span="false")
    connection.execute(f"create or replace temp view attempts_of_touched_days as {query}")


def spans_of_touched_days(connection: Connection) -> list[Span]:
    """Returns when the days in `touched_days` begin and end, and a few hours more.

    Where clocks change at midnight, it is not certain when a day begins.
    """
    days = connection.execute("from touched_days where created_date is not null").fetchall()
    ends = [
        connection.execute(_ENDS, [first, last]).fetchall()[0]
        for first, last in stretches(day for (day,) in days)
    ]
    return [(begin - _CLOCKS_CHANGE, end + _CLOCKS_CHANGE) for begin, end in ends]


_ENDS = """
    select
        cast($1 as timestamp) at time zone timezone,
        (cast($2 as timestamp) + interval 1 day) at time zone timezone
    from settings
"""
# Also the verifications that attempts belonged to before.
_VERIFICATIONS = """
    create or replace temp table touched_verifications as
    select verification_sid from changed_attempts
    union
    select verification_sid
    from stg_resends
    where {near} and attempt_sid in (select attempt_sid from changed_attempts)
"""
_ATTEMPTS_OF_VERIFICATIONS = """
    create or replace temp table touched_attempts as
    select attempt_sid, verification_sid, created_at
    from stg_attempts
    where {near} and verification_sid in (from touched_verifications)
    union
    select attempt_sid, verification_sid, created_at
    from changed_attempts
"""
_SEVERAL = """
    create or replace temp view touched_resends as
    select *
    from stg_attempts
    where {days} and attempt_sid in (
        select attempt_sid
        from touched_attempts
        where verification_sid in (
            select verification_sid
            from touched_attempts
            group by verification_sid
            having count(*) > 1
        )
    )
"""
_DAYS = """
    create or replace temp table touched_days as
    select distinct cast(t.created_at at time zone s.timezone as date) as created_date
    from touched_attempts as t
    cross join settings as s
"""
_ATTEMPTS_OF_DAYS = "select * from verification_attempts where {span}"


def differing(
    connection: Connection, tables: dict[str, KeptTable], touched: Touched | None
) -> list[tuple[str, int, int]]:
    """Compares kept tables with what their queries give now. Returns name, rows kept and rows
    expected of each table that differs.

    With `touched`, compares the touched rows, and only of the table that others are made from:
    the check `sums_agree` looks at the days.
    """
    found = []
    for name, table in tables.items():
        if touched and name == "daily_attempts":
            continue
        rows = touched.rows[name] if touched else "true"
        query = touched.queries[name] if touched else table.query
        kept = connection.execute(_SUM.format(query=f"from {name} where {rows}")).fetchall()
        expected = connection.execute(_SUM.format(query=query)).fetchall()
        if kept != expected:
            found.append((name, kept[0][0], expected[0][0]))
    return found


# The sum of the rows' hashes does not depend on their order.
_SUM = "select count(*), sum(cast(hash(row) as hugeint)) from ({query}) as row"
