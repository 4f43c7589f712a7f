"""Which tables a warehouse has by the release that made it: older ones are brought along."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pipelines.errors import Misuse
from pipelines.recovery import SCHEMA, Connection, ask
from pipelines.source import TABLES

# One more with each release whose tables an earlier one cannot work with. 1: without a stamp.
LAYOUT = 2
_STAMP = f"{SCHEMA}._verify_sync"
TYPES = {"text": "varchar", "timestamp": "timestamptz", "bigint": "bigint", "bool": "boolean"}
_OF_DLT = {"_dlt_load_id": "varchar not null", "_dlt_id": "varchar not null"}


def refuse_newer(file: Path) -> None:
    """Raises Misuse for a database whose layout only a later release knows."""
    found = ask(file, f"select layout, release from {_STAMP}", Connection.fetchone, None)
    if found is not None and found[0] > LAYOUT:
        raise Misuse(
            f"{file} was made by a newer verify-sync, {found[1]} (its layout is {found[0]}, this "
            f"one's {LAYOUT}): install that release again, or give this one another folder with "
            "WAREHOUSE__DIR"
        )


def bring_along(connection: Connection) -> None:
    """Gives a database that an earlier release made, or none did, what it lacks, and the stamp."""
    if _layout(connection) == LAYOUT:
        return
    connection.begin()
    connection.execute(f"create schema if not exists {SCHEMA}")
    # Before the first load creates the others, a run that fails is to be written down.
    _create_table(connection, "sync_runs")
    for table, columns in TABLES.items():
        for column, hint in columns.items():
            connection.execute(
                f"alter table if exists {SCHEMA}.{table}"
                f" add column if not exists {column} {TYPES[str(hint['data_type'])]}"
            )
    connection.execute(
        f"create or replace table {_STAMP} (layout bigint, release varchar, views varchar)"
    )
    connection.execute(f"insert into {_STAMP} values (?, ?, null)", [LAYOUT, _release()])
    connection.commit()


def _release() -> str:
    try:
        return version("verify-sync")
    except PackageNotFoundError:  # run from a checkout that was not set up
        return "unknown"


def stamped_views(connection: Connection) -> str | None:
    """The fingerprint of the views as they were applied last."""
    found = connection.execute(f"select views from {_STAMP}").fetchone()
    return found[0] if found else None


def stamp_views(connection: Connection, fingerprint: str) -> None:
    connection.execute(f"update {_STAMP} set views = ?", [fingerprint])


def _create_table(connection: Connection, name: str) -> None:
    """A raw table as dlt would create it, unless it is there."""
    columns = [
        f"{column} {TYPES[str(hint['data_type'])]}{'' if hint['nullable'] else ' not null'}"
        for column, hint in TABLES[name].items()
    ]
    columns += [f"{column} {kind}" for column, kind in _OF_DLT.items()]
    connection.execute(f"create table if not exists {SCHEMA}.{name} ({', '.join(columns)})")


def insert(connection: Connection, table: str, row: Mapping[str, object]) -> None:
    """Into a raw table, beside dlt: what is known of the account's runs, not of its attempts."""
    places = ", ".join("?" * len(row))
    connection.execute(
        f"insert into {SCHEMA}.{table} ({', '.join(row)}) values ({places})", [*row.values()]
    )


def _layout(connection: Connection) -> int | None:
    is_stamped = connection.execute(
        "select 1 from duckdb_tables() where database_name = current_database()"
        f" and schema_name || '.' || table_name = '{_STAMP}'"
    ).fetchone()
    if not is_stamped:
        return None
    found = connection.execute(f"select layout from {_STAMP}").fetchone()
    return found[0] if found else None
