"""How fresh and how complete a warehouse is, for people and monitors; nothing is written."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from pipelines.errors import Failure
from pipelines.lock import Holder
from pipelines.losses import time_left
from pipelines.progress import counted, duration
from pipelines.recovery import SCHEMA, Damaged, Locked
from pipelines.runs import KILLED, NEWEST_SYNC
from pipelines.settings import Settings
from pipelines.warehouse import Warehouse
from pipelines.windows import RETENTION, SETTLED_AFTER

_NEWEST_RUN = f"""
    select command, outcome, coalesce(finished_at, started_at), error
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
    """Instants are aware, ages and lengths in seconds, sizes in bytes.

    Of progress it is that of the configured filters. `pending` attempts will be read again,
    `forgotten` ones no more: Twilio forgot them before they were settled.
    """

    warehouse: str
    last_success: datetime | None
    age: float | None
    newest_run: dict[str, Any] | None
    running: list[Holder]
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
    as_published: bool
    files: dict[str, int]

    @classmethod
    def of(cls, settings: Settings, now: datetime) -> Status:
        """Of the run's own database, unless a run has it open: then of the published file.

        Raises Failure when there is neither, Misuse when a newer release made them.
        """
        warehouse = Warehouse(settings)
        warehouse.refuse_newer()
        for file in (warehouse.loading, warehouse.published):
            if not file.exists():
                continue
            try:
                return cls._of(warehouse, file, now)
            except (Locked, Damaged):
                if file == warehouse.published:
                    raise
        holder = warehouse.lock.holder()
        raise Failure(
            f"{warehouse.directory} holds nothing that can be read yet"
            + (f", {holder} is at work" if holder else ": run `make sync` first")
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
            is_alive = any(holder.command == run[0] for holder in running)
            run = (run[0], "running since" if is_alive else KILLED, *run[2:])
        covered = first(_COVERED.format(filters_hash=filters_hash), None, None)
        gaps = first(_GAPS.format(filters_hash=filters_hash), 0, 0.0)
        oldest, settled_after = (now - RETENTION).isoformat(), SETTLED_AFTER.total_seconds()
        shares = first(_SHARES.format(oldest=oldest, settled_after=settled_after), 0, 0, 0)
        reconciled = first(_RECONCILED.format(filters_hash=filters_hash, oldest=oldest), None, 0, 0)
        (account,) = first(f"select any_value(account_sid) from {SCHEMA}.windows_read", None)
        read = warehouse.windows_read(account or "", now, file)
        left = time_left(read, now)
        if left is None and len(read.before):
            left = RETENTION  # all was read: what comes now has its 30 days yet
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
            as_published=file == warehouse.published,
            files=_sizes(warehouse.directory),
        )

    def require_success(self, max_age: timedelta | None) -> None:
        """Raises Failure unless a sync has succeeded so lately."""
        if max_age is None:
            return
        most = duration(max_age.total_seconds())
        if self.age is None:
            raise Failure(f"no sync has succeeded yet, let alone in the last {most}")
        if self.age > max_age.total_seconds():
            raise Failure(
                f"the newest sync that succeeded ended {duration(self.age)} ago, more than {most}"
            )

    def as_json(self) -> dict[str, Any]:
        plain = asdict(self)
        if self.newest_run:
            plain["newest_run"]["at"] = _iso(self.newest_run["at"])
        times = ("last_success", "covered_after", "covered_before", "reconciled_at")
        return {**plain, **{name: _iso(plain[name]) for name in times}}

    def lines(self) -> list[str]:
        """A line for each answer, as people read it."""
        told = {
            "last successful sync": self._success(),
            "newest run": self._newest_run(),
            "running now": ", ".join(map(str, self.running)),
            "attempts": f"{self.attempts:,}",
            "created": self._covered(),
            "gaps": self._gaps(),
            "settled": self._shares(),
            "next loss": self._loss(),
            "reconciled": self._reconciled(),
            "files": ", ".join(f"{name} {_size(size)}" for name, size in self.files.items()),
        }
        note = "as published; the run's own database is in use" if self.as_published else ""
        return [f"{name:22}{text}" for name, text in {**told, "this is": note}.items() if text]

    def _success(self) -> str:
        if self.last_success is None or self.age is None:
            return "none"
        return f"{_utc(self.last_success)}, {duration(max(self.age, 0))} ago"

    def _newest_run(self) -> str:
        if self.newest_run is None:
            return ""
        run = self.newest_run
        error = f": {run['error']}" if run["error"] else ""
        return f"{run['command']}, {run['outcome']} {_utc(run['at'])}{error}"

    def _covered(self) -> str:
        if self.covered_after is None or self.covered_before is None:
            return "nothing was read by these filters"
        return f"from {_utc(self.covered_after)[:-4]} to {_utc(self.covered_before)}"

    def _gaps(self) -> str:
        if not self.gaps:
            return "none"
        return f"{counted(self.gaps, 'gap')}, {duration(self.gap_seconds)} in all (view gaps)"

    def _shares(self) -> str:
        if not self.attempts:
            return ""
        parts = ((self.settled, ""), (self.pending, "pending "), (self.forgotten, "forgotten "))
        return ", ".join(
            f"{name}{number / self.attempts:.1%}" for number, name in parts if number or not name
        )

    def _loss(self) -> str:
        if self.seconds_until_loss is None:
            return ""
        return f"in {self.seconds_until_loss / 3600:,.0f} h, if nothing is read until then"

    def _reconciled(self) -> str:
        if self.reconciled_at is None:
            return "never"
        days = counted(self.days_compared, "day")
        differ = f"{self.days_differing} of them differ" if self.days_differing else "all agree"
        return f"{_utc(self.reconciled_at)}, {days}: {differ}"


def _running(warehouse: Warehouse) -> list[Holder]:
    """A backfill has both locks at times."""
    holders = (warehouse.lock.holder(), warehouse.backfill_lock.holder())
    return list({holder.pid: holder for holder in holders if holder}.values())


def _last_success(holder: Holder) -> datetime | None:
    return datetime.fromisoformat(holder.last_success) if holder.last_success else None


def _sizes(directory: Path) -> dict[str, int]:
    """Of the two databases, with their logs, and of all files; a run may remove some meanwhile."""
    sizes: dict[str, int] = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                size = os.stat(os.path.join(folder, name)).st_size
                sizes[name] = sizes.get(name, 0) + size
    named = {
        name: sizes.get(name, 0) + sizes.get(f"{name}.wal", 0)
        for name in ("verify.duckdb", "loading.duckdb")
    }
    return {**named, "in all": sum(sizes.values())}


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"


def _utc(instant: datetime) -> str:
    return f"{instant.astimezone(timezone.utc):%F %T} UTC"


def _iso(instant: datetime | None) -> str | None:
    return f"{instant.astimezone(timezone.utc):%FT%TZ}" if instant else None
