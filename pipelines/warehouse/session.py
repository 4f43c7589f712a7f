"""Begins and ends a run: account, record, views, checks, publishing. Reading: ingest."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from pipelines.errors import Failure
from pipelines.settings import require_credentials
from pipelines.text import typed
from pipelines.warehouse.checks import FAIL, check
from pipelines.warehouse.folder import Warehouse
from pipelines.warehouse.runs import DONE, record
from pipelines.warehouse.views import apply_views

_FOR_THE_RECORD = 10.0  # seconds that a run which failed waits for another to write that down

log = logging.getLogger("verify_sync")


@contextmanager
def session(warehouse: Warehouse, patient: bool = False) -> Iterator[None]:
    """The warehouse to load into: of this account, rid of what an interrupted run left; what its
    run does is written down.

    `patient`: it waits for others however long they take. Raises Failure or Misuse.
    """
    credentials = require_credentials(warehouse.settings)
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own keeps what pages no longer need
    with warehouse.opened(float("inf") if patient else None):
        warehouse.loader.finish_pending()
        warehouse.contents.check_account(credentials.account_sid)
        _record(warehouse)
        with recorded(warehouse):
            yield


@contextmanager
def recorded(warehouse: Warehouse) -> Iterator[None]:
    """A run that fails in here is written down as one that did."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        _record_failure(warehouse, error)
        raise


def finish(warehouse: Warehouse, now: datetime, publish_every: timedelta = timedelta()) -> None:
    """The end of a run: views, and the published file unless there is no need for it."""
    run = warehouse.run
    if run.rejected:
        log.warning(
            "%s rows that Twilio listed are no attempts: they have no usable sid or "
            "date_created, see twilio_verify.rejected_attempts",
            f"{run.rejected:,}",
        )
    if run.outcome is None:
        run.end(DONE)
    _record(warehouse)  # before it is published, so that readers see it
    if not warehouse.contents.is_begun():
        run.unpublished = "there was nothing to read"
        return
    started = time.monotonic()
    apply_views(warehouse.database, warehouse.settings)
    run.unpublished = warehouse.publisher.reason_to_keep(publish_every)
    if run.unpublished is None:
        publish(warehouse, now)
        run.publishing = time.monotonic() - started


def publish(warehouse: Warehouse, now: datetime) -> None:
    """Publishes what passes the checks. Raises Failure if one with severity fail finds anything."""
    found = check(warehouse.database, now, warehouse.settings.sql)
    answers = [answer for answer in found if answer.verdict != "ok"]
    for answer in answers:
        log.warning("check %s: %s", answer.verdict, answer)
    failed = [answer.name for answer in answers if answer.verdict == FAIL]
    if failed:
        name, why = warehouse.published.name, ", ".join(failed)
        held = "stays as it was" if warehouse.published.exists() else "is not published"
        raise Failure(
            f"{name} {held}, because of {why}; what was read is kept, `{typed('check')}` shows the "
            "rows"
        )
    warehouse.publisher.publish()


def _record(warehouse: Warehouse) -> None:
    """Writes down what the run did by now, in `sync_runs`."""
    backfill = warehouse.backfill_lock.holder()
    goes_on = backfill is not None and backfill.pid != os.getpid()
    record(warehouse.connection, warehouse.run, goes_on)


def _record_failure(warehouse: Warehouse, error: BaseException) -> None:
    """The same of a run that failed, if it had been written down and that is possible."""
    warehouse.run.fail(error)
    if not warehouse.run.is_recorded:
        return
    with suppress(Failure, OSError, duckdb.Error):
        if warehouse.database.is_open:
            with suppress(duckdb.Error):
                warehouse.connection.rollback()  # what failed may have been a transaction
            _record(warehouse)
        else:
            with warehouse.opened(_FOR_THE_RECORD):
                _record(warehouse)
