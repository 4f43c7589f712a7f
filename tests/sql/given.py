"""Helpers for the tests of views: store attempts written by hand, and query the views."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb

from pipelines.settings import Settings
from pipelines.twilio.decode import decode
from pipelines.warehouse.checks import check_files
from pipelines.warehouse.scope import Scope
from pipelines.warehouse.views import create_views
from tests.worlds import make_kept_tables

CREATED = datetime(2026, 11, 1, 10, 0, tzinfo=timezone.utc)
READ_LATE, READ_EARLY = timedelta(days=4), timedelta(minutes=2)
CONVERTED = {"conversion_status": "converted"}
Row = dict[str, Any]


_applied: Settings | None = None  # settings of the views in the shared database


def given(database: duckdb.DuckDBPyConnection, *attempts: Row, **settings: Any) -> None:
    """Stores the attempts and creates the views with these settings."""
    add(database, *attempts)
    apply_views(database, **settings)


def apply_views(database: duckdb.DuckDBPyConnection, **settings: Any) -> None:
    """Creates the views, unless they have these settings already. Always resets the time zone,
    because a test may change it in the table `settings`."""
    global _applied
    wanted = Settings(directory=Path(), **settings)
    if wanted != _applied:
        create_views(database, wanted)
        _applied = wanted
    database.execute("update settings set timezone = ?", [wanted.timezone])
    make_kept_tables(database)


def add(database: duckdb.DuckDBPyConnection, *attempts: Row) -> None:
    """Stores attempts as the API would list them. `age` is an attempt's age when it is read."""
    for number, changes in enumerate(attempts):
        data = {"to": "+573001234567", "country": "CO", "message_status": "delivered"}
        attempt = {
            "sid": f"VL{number}",
            "verification_sid": "VE1",
            "service_sid": "VA1",
            "account_sid": "AC1",
            "channel": "sms",
            "conversion_status": "unconverted",
            "date_created": f"{CREATED + timedelta(minutes=number):%Y-%m-%dT%H:%M:%SZ}",
            "price": {"value": "0.05", "currency": "usd"},
            **{k: v for k, v in changes.items() if k not in ("age", "data")},
            "channel_data": {**data, **changes.get("data", {})},
        }
        created = datetime.fromisoformat(attempt["date_created"].replace("Z", "+00:00"))
        page = decode([attempt], created + changes.get("age", READ_LATE)).attempts
        database.register("page", page)
        database.execute("insert into twilio_verify.attempts select * from page")


def rows(database: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return database.execute(query).fetchall()


def found_by(connection: duckdb.DuckDBPyConnection, name: str) -> list[tuple[Any, ...]]:
    """The rows that a check finds when it looks at all attempts."""
    (query,) = [file.read_text() for file in check_files() if file.stem == name]
    return [
        row
        for _ in Scope(0).passes(query, connection)
        for row in connection.execute(query).fetchall()
    ]
