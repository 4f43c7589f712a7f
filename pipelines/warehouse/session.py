"""Begins and ends a run: account, record, views, checks, publishing. Reading: ingest."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta

import duckdb
import pyarrow as pa

from pipelines.errors import Failure
from pipelines.interrupt import held
from pipelines.settings import require_credentials
from pipelines.text import typed
from pipelines.warehouse.checks import FAIL, KEPT_TABLES, check
from pipelines.warehouse.folder import Warehouse
from pipelines.warehouse.runs import DONE, record
from pipelines.warehouse.verdicts import Verdicts, note, seen_today
from pipelines.warehouse.views import apply_views

_FOR_THE_RECORD = 10.0  # seconds that a failed run waits for another run, to record its failure

log = logging.getLogger("verify_sync")


@contextmanager
def session(warehouse: Warehouse, patient: bool = False) -> Iterator[None]:
    """Opens the warehouse for loading. Finishes or drops a pending package, checks the account.

    Records the run in `sync_runs`, at the start and when it fails. `patient`: waits for other runs
    without limit. Raises Failure or Misuse.
    """
    credentials = require_credentials(warehouse.settings)
    pa.set_memory_pool(pa.system_memory_pool())  # Arrow's own pool does not return freed memory
    with warehouse.opened(float("inf") if patient else None):
        warehouse.loader.finish_pending()
        warehouse.contents.check_account(credentials.account_sid)
        with recorded(warehouse):
            with held():  # a signal must not leave the run's row without an outcome
                _record(warehouse)
            yield


@contextmanager
def recorded(warehouse: Warehouse) -> Iterator[None]:
    """If the run fails in here, records that in `sync_runs`."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        with held():
            _record_failure(warehouse, error)
        raise


def finish(warehouse: Warehouse, now: datetime, publish_every: timedelta = timedelta()) -> None:
    """Ends a run: records it, applies the views, and publishes if there is a need."""
    run = warehouse.run
    if run.rejected:
        log.warning(
            "%s rows from Twilio are not attempts: they have no usable sid or date_created; "
            "see twilio_verify.rejected_attempts",
            f"{run.rejected:,}",
        )
    if run.outcome is None:
        run.end(DONE)
    _record(warehouse)  # before it is published, so that readers see it
    if not warehouse.contents.is_begun():
        run.unpublished = "there was nothing to publish"
        return
    started = time.monotonic()
    apply_views(warehouse.database, warehouse.settings)
    run.unpublished = warehouse.publisher.reason_to_keep(publish_every)
    if run.unpublished is None:
        publish(warehouse, now)
        run.publishing = time.monotonic() - started


def publish(warehouse: Warehouse, now: datetime) -> None:
    """Runs the checks, then publishes. Raises Failure if a check of severity fail does not pass.

    The checks look at what has changed since they last passed, and once a day at all rows. A
    warning is said when it is new, and when it is over.
    """
    verdicts = _verdicts(warehouse, now)
    for answer in (*verdicts.failed, *verdicts.begun):
        log.warning("check %s: %s", answer.verdict, answer)
    for name in verdicts.ended:
        log.warning("check ok: %s no longer warns", name)
    if verdicts.failed:
        name, why = warehouse.published.name, ", ".join(one.name for one in verdicts.failed)
        held = "stays as it was" if warehouse.published.exists() else "is not published"
        raise Failure(
            f"{name} {held}, because checks failed: {why}; all attempts read are kept, run "
            f"`{typed('check', '--all')}` to see the rows"
        )
    warehouse.publisher.publish(now)


def _verdicts(warehouse: Warehouse, now: datetime) -> Verdicts:
    """Runs the checks that are due. If a part of the rows fails, all rows decide.

    If kept tables may be the reason, they are made again first: attempts of one verification may
    lie further apart than Twilio allows, and then a load refreshes less than it should.
    """
    database, own = warehouse.database, warehouse.settings.sql
    scope, answers = check(database, now, own, lambda connection: seen_today(connection, now))
    failed = {answer.name for answer in answers if answer.verdict == FAIL}
    is_of_kept = bool(failed & {KEPT_TABLES, "sums_agree"})
    if is_of_kept:
        log.warning("making the kept tables again, because %s failed", ", ".join(sorted(failed)))
        apply_views(database, warehouse.settings, again=True)
    if failed and (is_of_kept or scope.changes is not None):
        scope, answers = check(database, now, own)
    return note(warehouse.connection, answers, scope, now)


def _record(warehouse: Warehouse) -> None:
    """Stores in `sync_runs` what the run has done so far."""
    backfill = warehouse.backfill_lock.holder()
    goes_on = backfill is not None and backfill.run_id != warehouse.run.run_id
    record(warehouse.connection, warehouse.run, goes_on)


def _record_failure(warehouse: Warehouse, error: BaseException) -> None:
    """Records the failure, if the run is in `sync_runs` and the warehouse can be opened."""
    warehouse.run.fail(error)
    if not warehouse.run.is_recorded:
        return
    with suppress(Failure, OSError, duckdb.Error):
        if warehouse.database.is_open:
            with suppress(duckdb.Error):
                warehouse.connection.rollback()  # a transaction may still be open
            _record(warehouse)
        else:
            with warehouse.opened(_FOR_THE_RECORD):
                _record(warehouse)
