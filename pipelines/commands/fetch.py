"""Read single attempts by their SIDs and merge them."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.commands._arguments import add_run
from pipelines.commands._output import tell, what_was_published
from pipelines.errors import Failure, Misuse, masked
from pipelines.text import counted

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from pipelines.warehouse.runs import Run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_run(parser)
    parser.add_argument("sid", nargs="+", metavar="SID", help="SID of an attempt (VL…)")


def run(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    from pipelines.twilio.filters import attempt_sid

    for sid in arguments.sid:
        try:
            attempt_sid(sid)
        except ValueError as error:
            raise Misuse(f"'{masked(sid)}': {error}") from None
    sids = dict.fromkeys(arguments.sid)  # each once
    done, missing = fetch(settings, sids, now, arguments.wait)
    merged = counted(done.attempts, "attempt")
    tell(arguments, f"merged {merged}; {what_was_published(settings, done)}", done)
    if missing:
        raise Failure(_not_there(missing))


def fetch(
    settings: Settings, sids: Iterable[str], now: datetime, wait: float = 0.0
) -> tuple[Run, list[str]]:
    """Reads and merges single attempts. Returns the run, and the SIDs that the API does not have.

    Costs one request per SID. Raises Failure if the API has none of them.
    """
    import pyarrow as pa

    from pipelines.reading.package import Package, latest
    from pipelines.twilio.clock import Clock
    from pipelines.twilio.transport import ApiError
    from pipelines.warehouse.folder import Warehouse
    from pipelines.warehouse.ingest import connect
    from pipelines.warehouse.runs import FAILED, Run
    from pipelines.warehouse.session import finish, session

    found, missing = [], []
    warehouse = Warehouse(settings, Run("fetch", now, wait))
    with session(warehouse), connect(settings, Clock(warehouse.run.now), warehouse.run) as client:
        for sid in sids:
            try:
                found.append(client.fetch(sid))
            except ApiError as error:
                if error.status != 404:
                    raise
                missing.append(sid)
        if not found:
            raise Failure(_not_there(missing))
        attempts = latest(pa.concat_tables([page.attempts for page in found]))
        rejected = pa.concat_tables([page.rejected for page in found])
        run = warehouse.run
        run.attempts_new = warehouse.loader.load(Package(attempts, rejected))
        run.attempts, run.rejected = attempts.num_rows, rejected.num_rows
        if missing:
            run.end(FAILED, _not_there(missing))
        finish(warehouse, run.now)
    return run, missing


def _not_there(sids: Iterable[str]) -> str:
    return (
        f"Twilio has no attempt {', '.join(sids)}: unknown, or older than 30 days; any copy in "
        "the warehouse is unchanged"
    )
