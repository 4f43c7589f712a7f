"""Compares days with Twilio's totals, reads differing days again. Report: commands.reconcile."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from uuid import uuid4

from pipelines.errors import Failure
from pipelines.reading.windows import Window
from pipelines.text import counted, typed
from pipelines.twilio.client import Client, Summary
from pipelines.twilio.filters import Filters
from pipelines.twilio.limits import RETENTION, SECOND
from pipelines.warehouse.connections import Connection
from pipelines.warehouse.folder import Warehouse
from pipelines.warehouse.ingest import read_windows, windows_read
from pipelines.warehouse.tables import insert

# A code is valid for 24 hours at most. Add 2 hours until Twilio counts the conversion.
CONVERSIONS_SETTLE = timedelta(hours=26)
_DAY = timedelta(days=1)
# Outcomes. READ_AGAIN: the first comparison of a day differs. DIFFERS: the second one differs too.
AGREES, READ_AGAIN, DIFFERS = "agrees", "read again", "differs"
# Twilio may or may not count attempts on a bound. An unknown status may be either status.
_HELD = """
    with possible as (
        select
            created_at <= $last as is_within,
            created_at > $after and created_at < $before as is_certain,
            coalesce(conversion_status, '') as status,
            read_age
        from stg_attempts
        where created_at >= $after and created_at <= $before and {matches}
    )

    select
        {counts},
        min(read_age)
    from possible
"""
_COUNTS = {  # per field of `Summary`, our condition: (counted for certain, possibly counted)
    "true": ("true", "true"),
    "status = 'converted'": ("status = 'converted'", "status != 'unconverted'"),
    "status = 'unconverted'": ("status = 'unconverted'", "status != 'converted'"),
}
_MATCHES = {
    "verify_service_sid": "lower(service_sid) = lower($verify_service_sid)",
    "country": "country = upper($country)",
    "channel": "channel = lower($channel)",
}

log = logging.getLogger("verify_sync")


@dataclass(frozen=True)
class Held:
    """The warehouse's counts for a window. Twilio's counts may be from `least` to `most`.

    `read_age` is the lowest age, in seconds, at which one of the attempts was last read; None
    without attempts.
    """

    day: Summary
    least: Summary
    most: Summary
    read_age: float | None


@dataclass(frozen=True)
class Comparison:
    """One comparison of a window. It is unknown whether Twilio's totals include its bounds."""

    window: Window
    reconciled_at: datetime
    api: Summary
    held: Held
    conversions_judged: bool
    agrees: bool
    is_second: bool

    @property
    def outcome(self) -> str:
        if self.agrees:
            return AGREES
        return DIFFERS if self.is_second else READ_AGAIN

    @property
    def is_whole_day(self) -> bool:
        return self.window.before - self.window.after == _DAY

    @property
    def day(self) -> str:
        """The date. For part of a day, also the time where it ends."""
        after, before = self.window.after, self.window.before
        return f"{after:%F}" + ("" if self.is_whole_day else f" to {before:%T}")


def days_of(now: datetime, reach: datetime, number: int) -> list[Window]:
    """Returns the last `number` whole UTC days within retention, and today, cut at `reach`."""
    midnight = now.astimezone(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [midnight - ago * _DAY for ago in range(number, -1, -1)]
    return [
        Window(start, min(start + _DAY, reach))
        for start in starts
        if now - RETENTION <= start < reach
    ]


def differing(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Returns the last comparison of each window, if it differs."""
    last = {comparison.window: comparison for comparison in comparisons}
    return [comparison for comparison in last.values() if not comparison.agrees]


def windows_of(warehouse: Warehouse, days: int, now: datetime) -> list[Window]:
    """Returns the last `days` days and today, as far as read. Raises Failure if nothing was."""
    read = windows_read(warehouse, now)
    if not len(read.before):
        raise Failure(
            f"{warehouse.directory} holds nothing for the configured account and filters: "
            f"run `{typed('sync')}` first"
        )
    return days_of(now, datetime.fromtimestamp(read.reach(0), timezone.utc), days)


def compared(warehouse: Warehouse, client: Client, window: Window) -> Iterator[Comparison]:
    """Yields one comparison, or two if the first differs. Stores each in `reconciliations`.

    Yields nothing more once the window has begun to leave retention.
    """
    for comparison in _compared(warehouse, client, window):
        _keep(warehouse, comparison)
        yield comparison


def _compared(warehouse: Warehouse, client: Client, window: Window) -> Iterator[Comparison]:
    filters = warehouse.settings.filters
    before = client.summary(window.after, window.before, filters)
    first = _comparison(warehouse, client, window, [before])
    if _is_forgotten(window, client):
        return
    yield first
    if first.agrees:
        return
    log.info(
        "%s: Twilio counts %s, the warehouse holds %s; reading it again",
        first.day, _told(before), _told(first.held.day),
    )  # fmt: skip
    rejected = warehouse.run.rejected
    oldest = client.clock().replace(microsecond=0) - RETENTION + SECOND
    read_windows(warehouse, client, [Window(max(window.after - SECOND, oldest), window.before)])
    rejected = warehouse.run.rejected - rejected
    after = client.summary(window.after, window.before, filters)
    second = _comparison(warehouse, client, window, [before, after], rejected)
    if not _is_forgotten(window, client):
        yield second


def _comparison(
    warehouse: Warehouse,
    client: Client,
    window: Window,
    summaries: Sequence[Summary],
    rejected: int | None = None,
) -> Comparison:
    """`summaries` are Twilio's counts before and after reading again, or only before.

    Twilio's count may have changed between the two, so any count between them is accepted. Twilio
    also counts `rejected` rows, which we do not. Their number is known only after reading again.
    """
    held = held_in(warehouse.connection, window, warehouse.settings.filters)
    judged = held.read_age is None or held.read_age >= CONVERSIONS_SETTLE.total_seconds()
    agrees = [
        least <= max(counts) and min(counts) <= most + (rejected or 0)
        for least, most, counts in zip(
            held.least, held.most, zip(*summaries, strict=True), strict=True
        )
    ]
    return Comparison(
        window,
        client.clock(),
        summaries[-1],
        held,
        judged,
        all(agrees if judged else agrees[:1]),
        rejected is not None,
    )


def held_in(connection: Connection, window: Window, filters: Filters) -> Held:
    given = {name: value for name in _MATCHES if (value := getattr(filters, name))}
    matches = " and ".join(["true", *(_MATCHES[name] for name in given)])
    conditions = [
        *(f"is_within and {within}" for within in _COUNTS),
        *(f"is_certain and {certain}" for certain, _ in _COUNTS.values()),
        *(most for _, most in _COUNTS.values()),
    ]
    counts = ", ".join(f"count(*) filter (where {condition})" for condition in conditions)
    query = _HELD.format(matches=matches, counts=counts)
    is_whole = window.before - window.after == _DAY  # its last second is the one before midnight
    last = window.before - is_whole * SECOND
    bounds = {"after": window.after, "before": window.before, "last": last}
    row = connection.execute(query, {**bounds, **given}).fetchone() or ()
    *numbers, read_age = row
    return Held(Summary(*numbers[:3]), Summary(*numbers[3:6]), Summary(*numbers[6:]), read_age)


def _keep(warehouse: Warehouse, comparison: Comparison) -> None:
    api, held = comparison.api, comparison.held.day
    row = {
        "run_id": warehouse.run.run_id,
        "filters_hash": warehouse.settings.filters.hash,
        "outcome": comparison.outcome,
        "created_after": comparison.window.after,
        "created_before": comparison.window.before,
        "reconciled_at": comparison.reconciled_at,
        **{f"api_{name}": count for name, count in api._asdict().items()},
        **held._asdict(),
        "conversions_judged": comparison.conversions_judged,
        "_dlt_load_id": warehouse.run.run_id,  # the row belongs to no load package
        "_dlt_id": uuid4().hex,
    }
    insert(warehouse.connection, "reconciliations", row)


def _is_forgotten(window: Window, client: Client) -> bool:
    return window.after < client.clock() - RETENTION


def _told(summary: Summary) -> str:
    return f"{counted(summary.attempts, 'attempt')}, {summary.converted:,} converted"
