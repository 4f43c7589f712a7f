"""Attempts as Twilio has them right now, printed and not stored."""

from __future__ import annotations

import logging
from datetime import datetime

import duckdb
import pyarrow as pa

from pipelines.clock import Clock
from pipelines.filters import Filters
from pipelines.query import run_query
from pipelines.settings import Settings
from pipelines.sync import connect
from pipelines.views import create_raw, create_views

log = logging.getLogger("verify_sync")

_COLUMNS = """channel, country, destination, conversion_status, message_status, error_code,
    price"""
_TABLE = f"attempt_sid, created_at::timestamp as created_at, {_COLUMNS}"
_DATA = f"""attempt_sid, created_at, {_COLUMNS}, currency, verification_status, code_length,
    carrier, verification_sid, service_sid"""


def show(
    settings: Settings,
    now: datetime,
    filters: Filters,
    window: tuple[datetime | None, datetime | None],
    limit: int,
    style: str,
) -> None:
    """Prints up to `limit` attempts in columns of `stg_attempts`, the newest first.

    A table has those that fit on a screen beside whole SIDs; csv and json have more, and zones.
    """
    with connect(settings, Clock(now)) as client:
        pages = client.read(*window, filters, limit)
    attempts = pa.concat_tables([page.attempts for page in pages])
    rejected = sum(page.rejected.num_rows for page in pages)
    if rejected:
        log.warning("%d more cannot be shown: they have no usable sid or date_created", rejected)
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        create_raw(connection, attempts)
        create_views(connection, settings)
        columns = _TABLE if style == "table" else _DATA
        ordered = f"from stg_attempts order by created_at desc, attempt_sid limit {limit}"
        run_query(connection, f"select {columns} {ordered}", style)
