"""Restore the warehouse from a backup of the published file."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands._arguments import add_run
from pipelines.commands._output import shown, tell
from pipelines.text import typed

if TYPE_CHECKING:
    from pipelines.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="a copy of verify.duckdb")


def run(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    from pipelines.warehouse.folder import Warehouse
    from pipelines.warehouse.restore import restore
    from pipelines.warehouse.runs import Run

    warehouse = Warehouse(settings, Run("restore", now, arguments.wait))
    for file in restore(warehouse, arguments.file):
        tell(arguments, f"the replaced file is kept as {shown(file)}")
    tell(
        arguments,
        f"published {shown(settings.published)} from {shown(arguments.file)}; "
        f"run `{typed('sync')}` to read newer attempts",
    )
