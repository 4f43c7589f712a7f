"""The parameters of a list request, and the check of its answer. Sending: transport."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.errors import Failure, masked
from pipelines.twilio.filters import NO_FILTERS, Filters
from pipelines.twilio.limits import SECOND

DATES = ("DateCreatedAfter", "DateCreatedBefore")


@dataclass(frozen=True)
class ListQuery:
    """The window and the filters of a list request. Bounds are aware; None = open."""

    after: datetime | None = None
    before: datetime | None = None
    filters: Filters = NO_FILTERS

    def parameters(self) -> dict[str, str]:
        """The query parameters. Bounds are whole seconds, rounded outwards."""
        bounds = {}
        if self.after is not None:
            bounds["DateCreatedAfter"] = format_instant(self.after)
        if self.before is not None:
            up = SECOND if self.before.microsecond else timedelta()
            bounds["DateCreatedBefore"] = format_instant(self.before + up)
        return {**self.filters.parameters(), **bounds}

    def check(self, attempts: pa.Table) -> None:
        """Raises Failure for an attempt outside the window by over 2 s, or excluded by a filter."""
        _check_filters(self.filters, attempts)
        if not attempts.num_rows:
            return
        created = pc.min_max(attempts["date_created"]).as_py()
        early = self.after is not None and created["min"] < self.after - 2 * SECOND
        if early or (self.before is not None and created["max"] > self.before + 2 * SECOND):
            raise Failure(
                "Twilio answered with attempts outside the requested window: it ignores "
                "DateCreatedAfter or DateCreatedBefore, so nothing of this list is stored; "
                "report it to Twilio"
            )


def format_instant(instant: datetime) -> str:
    """Whole-second UTC as the API wants it, `2026-11-23T04:00:00Z`. Raises ValueError if naive."""
    if instant.tzinfo is None:
        raise ValueError("a datetime without a zone means a different instant on every machine")
    return instant.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _check_filters(filters: Filters, attempts: pa.Table) -> None:
    """Raises Failure for an attempt that does not match the filters.

    The API ignores parameters that it does not know. If it drops a filter, it answers with all
    attempts. An attempt without a value for the filter passes.
    """
    for parameter, column, wanted in filters.columns():
        found = pc.utf8_lower(pc.utf8_trim_whitespace(attempts[column]))
        # A destination may start with its channel, as in whatsapp:+…
        is_other = pc.invert(pc.ends_with(found, wanted.lower()))
        others = attempts.filter(is_other)  # drops nulls too
        if others.num_rows:
            sid = masked(others["sid"][0].as_py())
            raise Failure(
                f"Twilio answered with attempt {sid}, which does not match the filter {parameter}: "
                "it ignores that filter, so nothing of this list is stored; remove the filter, or "
                "report it to Twilio"
            )
