"""Write every view and raw table as a file, Parquet or CSV."""

from __future__ import annotations

import argparse
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands._output import shown
from pipelines.text import counted

if TYPE_CHECKING:
    from pipelines.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="created if missing")
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")


def run(arguments: argparse.Namespace, settings: Settings, _: datetime) -> None:
    from pipelines.warehouse.export import export
    from pipelines.warehouse.published import open_published

    with open_published(settings.published, writes_files=True) as connection:
        written = export(connection, arguments.folder, arguments.format)
    print(
        f"wrote {counted(len(written), 'file')} to {shown(arguments.folder.absolute())}; they "
        "hold phone numbers"
    )
