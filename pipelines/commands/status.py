"""Show how fresh and how complete the warehouse is."""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

from pipelines.errors import Failure
from pipelines.text import counted, duration, length_of

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from pipelines.warehouse.status import Status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--max-age",
        type=_age,
        metavar="AGE",
        help="exit with 1 if the last successful sync ended longer ago than this: 90m, 26h, 2d",
    )


def _age(text: str) -> timedelta:
    try:
        return length_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    from pipelines.warehouse.status import Status

    status = Status.of(settings, now)
    print(json.dumps(status.as_json(), indent=1) if arguments.json else "\n".join(lines(status)))
    if arguments.max_age is not None:
        _require_success(status, arguments.max_age)


def _require_success(status: Status, max_age: timedelta) -> None:
    """Raises Failure unless a sync has succeeded within `max_age`."""
    most = duration(max_age.total_seconds())
    if status.age is None:
        raise Failure(f"no sync has succeeded yet; --max-age is {most}")
    if status.age > max_age.total_seconds():
        raise Failure(
            f"the last successful sync ended {duration(status.age)} ago, more than {most}"
        )


def lines(status: Status) -> list[str]:
    """Returns the status as text, one line per item."""
    told = {
        "last successful sync": _success(status),
        "newest run": _newest_run(status),
        "running now": ", ".join(map(str, status.running)),
        "attempts": f"{status.attempts:,}",
        "created": _covered(status),
        "gaps": _gaps(status),
        "settled": _shares(status),
        "next loss": _loss(status),
        "reconciled": _reconciled(status),
        "checks": _checks(status),
        "files": ", ".join(f"{name} {_size(size)}" for name, size in status.files.items()),
    }
    note = "verify.duckdb, because loading.duckdb cannot be read now" if status.as_published else ""
    return [f"{name:22}{text}" for name, text in {**told, "source": note}.items() if text]


def _success(status: Status) -> str:
    if status.last_success is None or status.age is None:
        return "none"
    return f"{_utc(status.last_success)}, {duration(max(status.age, 0))} ago"


def _newest_run(status: Status) -> str:
    if status.newest_run is None:
        return ""
    run = status.newest_run
    error = f": {run['error']}" if run["error"] else ""
    return f"{run['command']}, {run['outcome']} {_utc(run['at'])}{error}"


def _covered(status: Status) -> str:
    if status.covered_after is None or status.covered_before is None:
        return "nothing read yet with these filters"
    return f"from {_utc(status.covered_after)[:-4]} to {_utc(status.covered_before)}"


def _gaps(status: Status) -> str:
    if not status.gaps:
        return "none"
    return f"{counted(status.gaps, 'gap')}, {duration(status.gap_seconds)} in all (view gaps)"


def _shares(status: Status) -> str:
    if not status.attempts:
        return ""
    parts = ((status.settled, ""), (status.pending, "pending "), (status.forgotten, "forgotten "))
    return ", ".join(
        f"{name}{number / status.attempts:.1%}" for number, name in parts if number or not name
    )


def _loss(status: Status) -> str:
    if status.seconds_until_loss is None:
        return ""
    return f"in {status.seconds_until_loss / 3600:,.0f} h, if nothing is read until then"


def _reconciled(status: Status) -> str:
    if status.reconciled_at is None:
        return "never"
    days = counted(status.days_compared, "day")
    differ = f"{status.days_differing} of them differ" if status.days_differing else "all agree"
    return f"{_utc(status.reconciled_at)}, {days}: {differ}"


def _checks(status: Status) -> str:
    told = (f"{name} {verdict}s" for verdict, names in status.checks.items() for name in names)
    return ", ".join(told)


def _size(size: int) -> str:
    return f"{size / 2**20:,.1f} MB"


def _utc(instant: datetime) -> str:
    return f"{instant.astimezone(timezone.utc):%F %T} UTC"
