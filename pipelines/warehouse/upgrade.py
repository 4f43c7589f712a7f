"""The layout of a database: an older one is brought along, a newer one refused. Views: views."""

from __future__ import annotations

from pathlib import Path

from pipelines import release
from pipelines.errors import Misuse
from pipelines.reading.raw_tables import TABLES, attempts_columns
from pipelines.warehouse.connections import Connection, ask
from pipelines.warehouse.tables import SCHEMA, TYPES, create_table

# One more with each release whose tables an earlier one cannot work with. 1: without a stamp.
LAYOUT = 2
_STAMP = f"{SCHEMA}._verify_sync"


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
    create_table(connection, "sync_runs")
    for table, columns in {"attempts": attempts_columns(), **TABLES}.items():
        for column, hint in columns.items():
            connection.execute(
                f"alter table if exists {SCHEMA}.{table}"
                f" add column if not exists {column} {TYPES[str(hint['data_type'])]}"
            )
    connection.execute(
        f"create or replace table {_STAMP} (layout bigint, release varchar, views varchar)"
    )
    connection.execute(f"insert into {_STAMP} values (?, ?, null)", [LAYOUT, release()])
    connection.commit()


def stamped_views(connection: Connection) -> str | None:
    """The fingerprint of the views as they were applied last."""
    found = connection.execute(f"select views from {_STAMP}").fetchone()
    return found[0] if found else None


def stamp_views(connection: Connection, fingerprint: str) -> None:
    connection.execute(f"update {_STAMP} set views = ?", [fingerprint])


def _layout(connection: Connection) -> int | None:
    is_stamped = connection.execute(
        "select 1 from duckdb_tables() where database_name = current_database()"
        f" and schema_name || '.' || table_name = '{_STAMP}'"
    ).fetchone()
    if not is_stamped:
        return None
    found = connection.execute(f"select layout from {_STAMP}").fetchone()
    return found[0] if found else None
