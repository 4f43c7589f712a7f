"""Compares a day with Twilio's own totals, and reads it again. The report: commands.reconcile."""

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

# 24 hours that a code may be valid at most, and two until Twilio counts it.
CONVERSIONS_SETTLE = timedelta(hours=26)
_DAY = timedelta(days=1)
# Of a comparison; the second one is for a day whose first one has it read again.
AGREES, READ_AGAIN, DIFFERS = "agrees", "read again", "differs"
# What lies on a bound may be counted by Twilio or not, and an unknown status may be either.
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
_COUNTS = {  # by `Summary`'s fields, of certain ones and of all
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
    """What the warehouse holds of a window: counts of the day, and between which Twilio's may be.

    `read_age` is that of the attempt that was youngest when it was last read; None without any.
    """

    day: Summary
    least: Summary
    most: Summary
    read_age: timedelta | None


@dataclass(frozen=True)
class Comparison:
    """A window of created time; whether Twilio's bounds belong to it is unknown."""

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
        """The date; of a part of a day also its end."""
        after, before = self.window.after, self.window.before
        return f"{after:%F}" + ("" if self.is_whole_day else f" to {before:%T}")


def days_of(now: datetime, reach: datetime, number: int) -> list[Window]:
    """The last `number` whole UTC days that Twilio still has, and today, up to `reach`."""
    midnight = now.astimezone(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
    starts = [midnight - ago * _DAY for ago in range(number, -1, -1)]
    return [
        Window(start, min(start + _DAY, reach))
        for start in starts
        if now - RETENTION <= start < reach
    ]


def differing(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Of each window the last comparison, if it differs."""
    last = {comparison.window: comparison for comparison in comparisons}
    return [comparison for comparison in last.values() if not comparison.agrees]


def windows_of(warehouse: Warehouse, days: int, now: datetime) -> list[Window]:
    """The last so many days, as far as they were read. Raises Failure where nothing was."""
    read = windows_read(warehouse, now)
    if not len(read.before):
        raise Failure(
            f"{warehouse.directory} holds nothing that was read by this configuration's account "
            f"and filters: run `{typed('sync')}` first"
        )
    return days_of(now, datetime.fromtimestamp(read.reach(0), timezone.utc), days)


def compared(warehouse: Warehouse, client: Client, window: Window) -> Iterator[Comparison]:
    """One comparison, or two if the first one differs; none of what Twilio forgets meanwhile. Each
    is kept in `reconciliations`."""
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
    """Twilio's count may have moved from the first of `summaries` to the last. `rejected` rows,
    known once it was read again, are attempts to Twilio, if not to us."""
    held = held_in(warehouse.connection, window, warehouse.settings.filters)
    judged = held.read_age is None or held.read_age >= CONVERSIONS_SETTLE
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
    is_whole = window.before - window.after == _DAY  # then its last second is the one before
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
        "_dlt_load_id": warehouse.run.run_id,  # of no load package
        "_dlt_id": uuid4().hex,
    }
    insert(warehouse.connection, "reconciliations", row)


def _is_forgotten(window: Window, client: Client) -> bool:
    return window.after < client.clock() - RETENTION


def _told(summary: Summary) -> str:
    return f"{counted(summary.attempts, 'attempt')}, {summary.converted:,} converted"
