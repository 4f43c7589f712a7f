"""Apply the views of sql/ again and publish."""

from __future__ import annotations

import argparse
from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.commands._arguments import add_run
from pipelines.commands._output import shown, tell

if TYPE_CHECKING:
    from pipelines.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)


def run(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    from pipelines.warehouse.folder import Warehouse
    from pipelines.warehouse.runs import Run
    from pipelines.warehouse.session import publish
    from pipelines.warehouse.views import apply_views

    warehouse = Warehouse(settings, Run("views", now, arguments.wait))
    warehouse.contents.require()
    with warehouse.opened():
        apply_views(warehouse.database, settings, again=True)
        publish(warehouse, now)
    tell(arguments, f"views applied; published {shown(settings.published)}")
