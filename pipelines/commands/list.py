"""Show attempts live from Twilio; nothing is stored."""

from __future__ import annotations

import argparse
import logging
from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.commands._arguments import add_format, add_window, between, instant
from pipelines.errors import Misuse
from pipelines.twilio.limits import RETENTION

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from pipelines.twilio.filters import Filters

# For each filter: its option and the help.
_FILTERS = {
    "verify_service_sid": ("--service", "SID of a Verify service (VA…)"),
    "country": ("--country", "destination country, ISO 3166 code such as CO"),
    "channel": ("--channel", "sms, call, email, whatsapp or rbm"),
    "to": ("--to", "phone number in E.164, or e-mail address"),
    "verification_sid": ("--verification", "SID of a verification (VE…), to show its attempts"),
    "status": ("--status", "converted or unconverted"),
}
_COLUMNS = """channel, country, destination, conversion_status, message_status, error_code,
    price"""
_TABLE = f"attempt_sid, created_at::timestamp as created_at, {_COLUMNS}"
_DATA = f"""attempt_sid, created_at, {_COLUMNS}, currency, verification_status, code_length,
    carrier, verification_sid, service_sid"""

log = logging.getLogger("verify_sync")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for name, (option, summary) in _FILTERS.items():
        parser.add_argument(option, dest=name, metavar=name.upper(), help=summary)
    add_window(parser)
    parser.add_argument(
        "--limit",
        type=between(int, 1, 10**7),
        default=20,
        help="most attempts to show (default: 20)",
    )
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    from pipelines.twilio.filters import Filters

    given = {name: getattr(arguments, name) for name in _FILTERS}
    filters = Filters.of(given, {name: option for name, (option, _) in _FILTERS.items()})
    after = instant(arguments.after, now, "--after")
    before = instant(arguments.before, now, "--before")
    if after and before and after >= before:
        raise Misuse("--after must be earlier than --before")
    if min(after or now, before or now) < now - RETENTION:
        log.warning("Twilio no longer has attempts older than 30 days")
    show(settings, now, filters, (after, before), arguments.limit, arguments.format)


def show(
    settings: Settings,
    now: datetime,
    filters: Filters,
    window: tuple[datetime | None, datetime | None],
    limit: int,
    style: str,
) -> None:
    """Prints up to `limit` attempts in columns of `stg_attempts`, the newest first.

    A table has only the columns that fit on a screen beside whole SIDs. csv and json have more
    columns, and times with a zone.
    """
    import pyarrow as pa

    from pipelines.commands._results import run_query
    from pipelines.twilio.clock import Clock
    from pipelines.twilio.newest import newest
    from pipelines.warehouse.connections import connect as connect_database
    from pipelines.warehouse.ingest import connect
    from pipelines.warehouse.tables import create_raw
    from pipelines.warehouse.views import create_views

    with connect(settings, Clock(now)) as client:
        pages = newest(client, *window, filters, limit)
    attempts = pa.concat_tables([page.attempts for page in pages])
    rejected = sum(page.rejected.num_rows for page in pages)
    if rejected:
        log.warning("%d rows are not shown: they have no usable sid or date_created", rejected)
    with connect_database() as connection:
        create_raw(connection, attempts)
        create_views(connection, settings)
        columns = _TABLE if style == "table" else _DATA
        ordered = f"from stg_attempts order by created_at desc, attempt_sid limit {limit}"
        run_query(connection, f"select {columns} {ordered}", style)
