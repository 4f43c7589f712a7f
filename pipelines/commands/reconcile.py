"""Compare each day with Twilio's own totals; read days that differ again."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.commands._arguments import TEXT, add_run, between
from pipelines.commands._output import cost, tell, what_was_published
from pipelines.errors import Failure, Misuse
from pipelines.text import counted
from pipelines.twilio.limits import RETENTION

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from pipelines.warehouse.reconciliation import Comparison
    from pipelines.warehouse.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument(
        "--days",
        type=between(int, 1, RETENTION.days),
        default=RETENTION.days,
        help="compare the last DAYS whole days and today so far (default: 30, Twilio's retention)",
    )


def run(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    from pipelines.warehouse.reconciliation import differing

    done, comparisons = reconcile(settings, arguments.days, now, arguments.wait)
    differ = differing(comparisons)
    if arguments.log_format == TEXT and (differ or not arguments.quiet):
        print("\n".join(table(comparisons)))
    result = f"compared {_days(comparisons)} with {cost(done)}"
    tell(arguments, f"{result}; {what_was_published(settings, done)}", done)
    if differ:
        raise Failure(done.error or "")


def reconcile(
    settings: Settings, days: int, now: datetime, wait: float = 0.0
) -> tuple[Run, list[Comparison]]:
    """Compares the last `days` whole UTC days, and today as far as it was read, with Twilio.

    Costs one Summary per day. Days that differ are read again and compared once more. Each
    comparison is stored in `reconciliations`. If a day still differs, the run's `error` names it.
    Raises Misuse for filters that the Summary does not have, Failure before the first sync.
    """
    from pipelines.twilio.clock import Clock
    from pipelines.warehouse.folder import Warehouse
    from pipelines.warehouse.ingest import connect
    from pipelines.warehouse.reconciliation import compared, differing, windows_of
    from pipelines.warehouse.runs import FAILED, Run
    from pipelines.warehouse.session import finish, session
    from pipelines.warehouse.views import apply_views

    if not settings.filters.are_summarised:
        raise Misuse(
            "Twilio has no totals by `to` or `verification_sid`, which the configuration filters "
            "by: reconcile is not possible with these filters"
        )
    warehouse = Warehouse(settings, Run("reconcile", now, wait))
    found: list[Comparison] = []
    with session(warehouse), connect(settings, Clock(warehouse.run.now), warehouse.run) as client:
        now = warehouse.run.now
        windows = windows_of(warehouse, days, now)
        apply_views(warehouse.database, settings)  # those of an older release may differ
        for window in windows:
            found += compared(warehouse, client, window)
        differ = differing(found)
        if differ:
            named = ", ".join(comparison.day for comparison in differ)
            warehouse.run.end(
                FAILED,
                f"{counted(len(differ), 'day')} still different from Twilio's totals after reading "
                f"again: {named}; run this again later, and report it to Twilio if it persists",
            )
        finish(warehouse, now)
    return warehouse.run, found


def _days(comparisons: Sequence[Comparison]) -> str:
    """Says how many whole days were compared, and whether today was compared too."""
    days = {comparison.window: comparison.is_whole_day for comparison in comparisons}
    whole = counted(sum(days.values()), "whole day")
    return whole if all(days.values()) else f"{whole} and today so far"


def table(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """Yields a header and one line per comparison."""
    heads = ("attempts", "Twilio's", "converted", "Twilio's", "unconverted", "Twilio's")
    yield f"{'day':22}" + "".join(f"{head:>12}" for head in heads)
    for comparison in comparisons:
        pairs = zip(comparison.held.day, comparison.api, strict=True)
        numbers = "".join(f"{number:12,}" for pair in pairs for number in pair)
        yield f"{comparison.day:22}{numbers}  {_verdict(comparison)}"


def _verdict(comparison: Comparison) -> str:
    if not comparison.agrees:
        return "still differs" if comparison.is_second else "differs, so it was read again"
    judged = 3 if comparison.conversions_judged else 1  # of attempts, converted, unconverted
    same = comparison.held.day[:judged] == comparison.api[:judged]
    how = (
        "" if same else " but for attempts on the day's bounds, rejected rows or changes meanwhile"
    )
    still = "" if comparison.conversions_judged else "; conversions may still change"
    return f"agrees{how}{still}"
