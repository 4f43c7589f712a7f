"""Run the checks on the data that the last run left."""

from __future__ import annotations

import argparse
import json
from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.errors import Failure
from pipelines.text import counted

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from pipelines.warehouse.checks import CheckResult
    from pipelines.warehouse.scope import Scope


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--all",
        action="store_true",
        help="look at the whole history, not only at what changed since the checks last passed",
    )
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON")
    output.add_argument("--quiet", action="store_true", help="print only what is not ok")


def run(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    from pipelines.warehouse.checks import FAIL, check
    from pipelines.warehouse.folder import Warehouse
    from pipelines.warehouse.verdicts import seen

    warehouse = Warehouse(settings)
    warehouse.refuse_newer()
    warehouse.contents.require()
    since = (lambda _: None) if arguments.all else seen
    scope, answers = check(warehouse.database, now, settings.sql, since)
    if arguments.json:
        print(json.dumps(_as_json(scope, answers), indent=1))
    else:
        _print(scope, answers, arguments.quiet)
    failed = [answer for answer in answers if answer.verdict == FAIL]
    if failed:
        raise Failure(f"{counted(len(failed), 'check')} of {len(answers)} failed")


def _print(scope: Scope, answers: list[CheckResult], quiet: bool) -> None:
    if not quiet:
        print(f"looked at {scope}")
    for answer in answers:
        if quiet and answer.verdict == "ok":
            continue
        looked = "" if answer.is_partial or scope.changes is None else " (looked at all)"
        print(f"{answer.verdict:6}{answer if answer.count != 0 else answer.name}{looked}")
        for row in answer.rows:
            print(f"{'':6}{row}")
        if answer.count and answer.count > len(answer.rows):
            print(f"{'':6}… and {answer.count - len(answer.rows):,} more")


def _as_json(scope: Scope, answers: list[CheckResult]) -> dict[str, object]:
    changes = scope.changes
    return {
        "attempts": scope.stored,
        "attempts_changed": changes.changed if changes else None,
        "attempts_read_again": changes.attempts - changes.changed if changes else None,
        "checks": [
            {
                "name": answer.name,
                "verdict": answer.verdict,
                "looked_at": "changed" if answer.is_partial else "all",
                "meaning": answer.meaning,
                "found": answer.count,
                "rows": answer.rows,
            }
            for answer in answers
        ],
    }
