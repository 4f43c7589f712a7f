"""Run all checks on the data that the last run left."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.errors import Failure
from pipelines.text import counted

if TYPE_CHECKING:
    from pipelines.settings import Settings


def add_arguments(_: argparse.ArgumentParser) -> None:
    """This command has no options of its own."""


def run(_: argparse.Namespace, settings: Settings, now: datetime) -> None:
    from pipelines.warehouse.checks import FAIL, check
    from pipelines.warehouse.folder import Warehouse

    warehouse = Warehouse(settings)
    warehouse.refuse_newer()
    warehouse.contents.require()
    answers = check(warehouse.database, now, settings.sql)
    for answer in answers:
        print(f"{answer.verdict:6}{answer if answer.count != 0 else answer.name}")
        for row in answer.rows:
            print(f"{'':6}{row}")
        if answer.count and answer.count > len(answer.rows):
            print(f"{'':6}… and {answer.count - len(answer.rows):,} more")
    failed = [answer for answer in answers if answer.verdict == FAIL]
    if failed:
        raise Failure(f"{counted(len(failed), 'check')} of {len(answers)} failed")
