"""Restores a warehouse from a backup. What a run repairs by itself: recovery."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

from pipelines.errors import Misuse
from pipelines.warehouse.connections import Damaged
from pipelines.warehouse.files import copied, keep_aside, put
from pipelines.warehouse.folder import Warehouse
from pipelines.warehouse.recovery import Foreign, loads_of
from pipelines.warehouse.upgrade import refuse_newer
from pipelines.warehouse.views import apply_views


def restore(warehouse: Warehouse, backup: Path) -> list[Path]:
    """Replaces the warehouse by `backup`, a copy of a published file. Later reads are due again.

    Returns the new names of the replaced files. Raises Misuse if `backup` is not a warehouse, or
    holds another account. If it is interrupted, the next run undoes it.
    """
    _check_backup(backup)
    refuse_newer(backup)
    with warehouse.locked(warehouse.lock, warehouse.run.wait):
        if warehouse.settings.credentials:
            warehouse.contents.check_account(warehouse.settings.credentials.account_sid, backup)
        there = [file for file in (warehouse.published, warehouse.loading) if file.exists()]
        for file in there:
            with suppress(Damaged):  # may be replaced, unlike an open or a foreign file
                loads_of(file)
        fresh = copied(backup, warehouse.loading)
        kept = [keep_aside(file) for file in there]
        if warehouse.working_folder.exists():  # a pending package belongs to the old database
            shutil.rmtree(warehouse.working_folder)
        put(fresh, warehouse.loading)
        with warehouse.connected():
            apply_views(warehouse.database, warehouse.settings)
            warehouse.publisher.publish(warehouse.run.now)
    return kept


def _check_backup(file: Path) -> None:
    try:
        found = loads_of(file) if file.is_file() else None
    except (Damaged, Foreign):
        found = None
    if found is None:
        what = "is not a warehouse" if file.exists() else "is missing"
        raise Misuse(f"{file} {what}: give a copy of a published verify.duckdb")
