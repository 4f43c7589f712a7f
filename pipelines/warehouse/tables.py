"""Creates raw tables and inserts rows without dlt. Their columns: reading.raw_tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import duckdb

from pipelines.reading.raw_tables import TABLES
from pipelines.warehouse.connections import Connection

if TYPE_CHECKING:
    import pyarrow as pa

SCHEMA = "twilio_verify"
TYPES = {
    "text": "varchar",
    "timestamp": "timestamptz",
    "bigint": "bigint",
    "bool": "boolean",
    "json": "json",
}
_OF_DLT = {"_dlt_load_id": "varchar not null", "_dlt_id": "varchar not null"}


def create_table(connection: Connection, name: str) -> None:
    """Creates a raw table as dlt would, unless it exists."""
    columns = [
        f"{column} {TYPES[str(hint['data_type'])]}{'' if hint['nullable'] else ' not null'}"
        for column, hint in TABLES[name].items()
    ]
    columns += [f"{column} {kind}" for column, kind in _OF_DLT.items()]
    connection.execute(f"create table if not exists {SCHEMA}.{name} ({', '.join(columns)})")


def insert(connection: Connection, table: str, row: Mapping[str, object]) -> None:
    """Inserts a row into a raw table without dlt: for facts about runs, not about attempts."""
    places = ", ".join("?" * len(row))
    connection.execute(
        f"insert into {SCHEMA}.{table} ({', '.join(row)}) values ({places})", [*row.values()]
    )


def create_raw(connection: duckdb.DuckDBPyConnection, attempts: pa.Table) -> None:
    """Creates the raw tables that the views need, as a sync would, with each attempt once."""
    connection.execute(f"create schema {SCHEMA}")
    connection.register("given", attempts)
    connection.execute(f"create table {SCHEMA}.attempts as select distinct on (sid) * from given")
    connection.unregister("given")
    connection.execute(f"create table {SCHEMA}._dlt_loads (load_id varchar, status bigint)")
    for name, columns in TABLES.items():
        typed = [f"{column} {TYPES[str(hint['data_type'])]}" for column, hint in columns.items()]
        of_dlt = "_dlt_load_id varchar"
        connection.execute(f"create table {SCHEMA}.{name} ({', '.join([*typed, of_dlt])})")
