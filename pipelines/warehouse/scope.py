"""`Scope`: the rows that checks look at. Running the checks: checks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

from pipelines.text import counted
from pipelines.warehouse.changes import Changes, Span, changes_since, stretches
from pipelines.warehouse.connections import Connection
from pipelines.warehouse.kept import (
    Touched,
    find_touched,
    is_much,
    kept_tables,
    spans_of_touched_days,
)
from pipelines.warehouse.recovery import Loads
from pipelines.warehouse.tables import SCHEMA
from pipelines.warehouse.views import view_files

_EARLIEST = """
    select coalesce(min(read_at), 'infinity'), coalesce(min(created_at), 'infinity')
    from changed_attempts
"""


@dataclass(frozen=True)
class Scope:
    """All rows, or those that `changes` has brought, with the days and verifications they touch.

    `days` are stretches of days in settings.timezone, `spans` when these begin and end; `stored` is
    the number of all attempts. `is_made_anew`: the kept tables were made from all rows just now.
    """

    stored: int
    changes: Changes | None = None
    touched: Touched | None = None
    days: tuple[tuple[date, date], ...] = ()
    spans: tuple[Span, ...] = ()
    is_made_anew: bool = False

    @classmethod
    def since(cls, connection: Connection, seen: Loads | None) -> Scope:
        """What has changed since `seen` were the loads; all rows if that is much, or unknown."""
        ((stored,),) = connection.execute(f"select count(*) from {SCHEMA}.attempts").fetchall()
        changes = changes_since(connection, seen) if seen else None
        if changes is None or is_much(connection, changes):
            return cls(stored)
        touched = find_touched(connection, changes, kept_tables(view_files()))
        days = connection.execute("from touched_days where created_date is not null").fetchall()
        stretched = tuple(stretches(day for (day,) in days))
        return cls(stored, changes, touched, stretched, tuple(spans_of_touched_days(connection)))

    def passes(self, query: str, connection: Connection) -> Iterator[None]:
        """Yields each time that `query` is to be run, with the variables that it asks for set.

        `changed_since` and `created_since`: attempts that changed were read and created then or
        later. A query that asks for `first_day` and `last_day` is run for each stretch of days;
        their attempts were created from `days_from` to before `days_until`.
        """
        changed = created = "-infinity"
        if self.changes is not None:
            ((changed, created),) = connection.execute(_EARLIEST).fetchall()
        _set(connection, "timestamptz", changed_since=changed, created_since=created)
        if "'first_day'" not in query:
            yield
            return
        if self.changes is None:
            _set(connection, "date", first_day="-infinity", last_day="infinity")
            _set(connection, "timestamptz", days_from="-infinity", days_until="infinity")
            yield
            return
        for (first, last), (begin, end) in zip(self.days, self.spans, strict=True):
            _set(connection, "date", first_day=first, last_day=last)
            _set(connection, "timestamptz", days_from=begin, days_until=end)
            yield

    def is_partial(self, query: str) -> bool:
        """Whether `query` sees only a part of the rows: it asks for what changed."""
        return self.changes is not None and ("_since'" in query or "'first_day'" in query)

    def __str__(self) -> str:
        if self.changes is None:
            return f"all {counted(self.stored, 'attempt')}"
        again = self.changes.attempts - self.changes.changed
        changed = counted(self.changes.changed, "changed attempt")
        return f"{changed} and {again:,} read again, of {self.stored:,}"


def _set(connection: Connection, kind: str, **values: object) -> None:
    for name, value in values.items():
        connection.execute(f"set variable {name} = {kind} '{value}'")
