"""How fresh and complete a warehouse is, in numbers. Writes nothing. As text: commands.status."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipelines.errors import Failure
from pipelines.reading.defaults import SETTLED_AFTER
from pipelines.reading.gaps import time_left
from pipelines.settings import Settings
from pipelines.text import typed
from pipelines.twilio.limits import RETENTION
from pipelines.warehouse.connections import Damaged, OpenElsewhere
from pipelines.warehouse.folder import Warehouse
from pipelines.warehouse.lock import LockHolder
from pipelines.warehouse.marks import FAILING, WARNING, mark_sql
from pipelines.warehouse.runs import KILLED, NEWEST_SYNC
from pipelines.warehouse.tables import SCHEMA

_NEWEST_RUN = f"""
    select command, outcome, coalesce(finished_at, started_at), error, run_id
    from {SCHEMA}.sync_runs order by started_at desc, rowid desc limit 1
"""
_COVERED = f"""
    select min(created_after), max(created_before) from {SCHEMA}.windows_read
    where filters_hash = '{{filters_hash}}'
        and _dlt_load_id in (select load_id from {SCHEMA}._dlt_loads where status = 0)
"""
_GAPS = """
    select count(*), coalesce(sum(epoch(lost_before) - epoch(lost_after)), 0)
    from gaps where filters_hash = '{filters_hash}'
"""
_SHARES = f"""
    select count(*), count(*) filter (where is_settled),
        count(*) filter (where not is_settled and not is_forgotten)
    from (
        select
            epoch(read_at) - epoch(date_created) >= {{settled_after}} as is_settled,
            date_created <= timestamptz '{{oldest}}' as is_forgotten
        from {SCHEMA}.attempts
    ) as attempts
"""
_RECONCILED = f"""
    with days as (
        select max(reconciled_at) as reconciled_at, arg_max(outcome, reconciled_at) as outcome
        from {SCHEMA}.reconciliations
        where filters_hash = '{{filters_hash}}' and created_after > timestamptz '{{oldest}}'
        group by created_after
    )

    select max(reconciled_at), count(*), count(*) filter (where outcome != 'agrees') from days
"""


@dataclass(frozen=True)
class Status:
    """Times are aware, ages and durations in seconds, sizes in bytes.

    Coverage, gaps and loss are those of the configured filters. `pending` attempts will be read
    again. `forgotten` ones will not: they left retention before they were settled. `checks` has the
    names of the checks that warn, and of those that fail on all rows.
    """

    warehouse: str
    last_success: datetime | None
    age: float | None
    newest_run: dict[str, Any] | None
    running: list[LockHolder]
    attempts: int
    covered_after: datetime | None
    covered_before: datetime | None
    gaps: int
    gap_seconds: float
    settled: int
    pending: int
    forgotten: int
    seconds_until_loss: float | None
    reconciled_at: datetime | None
    days_compared: int
    days_differing: int
    checks: dict[str, list[str]]
    as_published: bool
    files: dict[str, int]

    @classmethod
    def of(cls, settings: Settings, now: datetime) -> Status:
        """Queries the run's own database; if that cannot be read, the published file.

        Raises Failure if neither can be read, Misuse if a newer release made them.
        """
        warehouse = Warehouse(settings)
        warehouse.refuse_newer()
        for file in (warehouse.loading, warehouse.published):
            if not file.exists():
                continue
            try:
                return cls._of(warehouse, file, now)
            except (OpenElsewhere, Damaged):
                if file == warehouse.published:
                    raise
        holder = warehouse.lock.holder()
        raise Failure(
            f"{warehouse.directory} holds nothing that can be read yet: "
            + (f"{holder} is running" if holder else f"run `{typed('sync')}` first")
        )

    @classmethod
    def _of(cls, warehouse: Warehouse, file: Path, now: datetime) -> Status:
        filters_hash = warehouse.settings.filters.hash

        def first(query: str, *nothing: Any) -> tuple[Any, ...]:
            rows = warehouse.database.rows(query, file)
            return rows[0] if rows else nothing

        running = _running(warehouse)
        successes = [*first(NEWEST_SYNC, None), *map(_last_success, running)]
        success = max(filter(None, successes), default=None)
        run = first(_NEWEST_RUN)
        if run and run[1] is None:
            is_alive = any(holder.run_id == run[4] for holder in running)
            run = (run[0], "running since" if is_alive else KILLED, *run[2:])
        covered = first(_COVERED.format(filters_hash=filters_hash), None, None)
        gaps = first(_GAPS.format(filters_hash=filters_hash), 0, 0.0)
        oldest, settled_after = (now - RETENTION).isoformat(), SETTLED_AFTER.total_seconds()
        shares = first(_SHARES.format(oldest=oldest, settled_after=settled_after), 0, 0, 0)
        reconciled = first(_RECONCILED.format(filters_hash=filters_hash, oldest=oldest), None, 0, 0)
        (account,) = first(f"select any_value(account_sid) from {SCHEMA}.windows_read", None)
        read = warehouse.contents.windows_read(account or "", now, file)
        left = time_left(read, now)
        if left is None and len(read.before):
            left = RETENTION  # all was read: the next attempt still has its 30 days
        return cls(
            warehouse=str(warehouse.directory),
            last_success=success,
            age=(now - success).total_seconds() if success else None,
            newest_run=dict(zip(("command", "outcome", "at", "error"), run, strict=False)) or None,
            running=running,
            attempts=shares[0],
            covered_after=covered[0],
            covered_before=covered[1],
            gaps=gaps[0],
            gap_seconds=gaps[1],
            settled=shares[1],
            pending=shares[2],
            forgotten=shares[0] - shares[1] - shares[2],
            seconds_until_loss=left.total_seconds() if left is not None else None,
            reconciled_at=reconciled[0],
            days_compared=reconciled[1],
            days_differing=reconciled[2],
            checks={
                "fail": json.loads(first(mark_sql(FAILING), "[]")[0]),
                "warn": json.loads(first(mark_sql(WARNING), "[]")[0]),
            },
            as_published=file == warehouse.published,
            files=_sizes(warehouse.directory),
        )

    def as_json(self) -> dict[str, Any]:
        plain = asdict(self)
        if self.newest_run:
            plain["newest_run"]["at"] = _iso(self.newest_run["at"])
        times = ("last_success", "covered_after", "covered_before", "reconciled_at")
        return {**plain, **{name: _iso(plain[name]) for name in times}}


def _running(warehouse: Warehouse) -> list[LockHolder]:
    """Returns who holds a lock, each process once: a backfill can hold both."""
    holders = (warehouse.lock.holder(), warehouse.backfill_lock.holder())
    return list({holder.run_id: holder for holder in holders if holder}.values())


def _last_success(holder: LockHolder) -> datetime | None:
    return datetime.fromisoformat(holder.last_success) if holder.last_success else None


def _sizes(directory: Path) -> dict[str, int]:
    """Returns the bytes of each database with its log (.wal), and of all files of the warehouse.

    Other warehouses may lie in subfolders: only dlt's belongs to this one.
    """
    files = [*directory.glob("*"), *(directory / "dlt").rglob("*")]
    sizes = {file: _size(file) for file in files}
    named = {
        name: sum(sizes.get(directory / f"{name}{log}", 0) for log in ("", ".wal"))
        for name in ("verify.duckdb", "loading.duckdb")
    }
    return {**named, "in all": sum(sizes.values())}


def _size(file: Path) -> int:
    """Returns the bytes of a file; 0 for a folder, and for a file that a run has deleted."""
    with suppress(OSError):
        return file.stat().st_size if file.is_file() else 0
    return 0


def _iso(instant: datetime | None) -> str | None:
    return f"{instant.astimezone(timezone.utc):%FT%TZ}" if instant else None
