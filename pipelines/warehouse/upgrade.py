"""The layout of a database: upgrades an older one, refuses a newer one. Views: views."""

from __future__ import annotations

from pathlib import Path

from pipelines import release
from pipelines.errors import Misuse
from pipelines.reading.raw_tables import TABLES, attempts_columns
from pipelines.warehouse.connections import Connection, ask
from pipelines.warehouse.tables import SCHEMA, TYPES, create_table

# Add 1 in each release whose tables an earlier release cannot use. Layout 1 has no stamp.
LAYOUT = 2
_STAMP = f"{SCHEMA}._verify_sync"


def refuse_newer(file: Path) -> None:
    """Raises Misuse if only a newer release knows the layout of the database."""
    found = ask(file, f"select layout, release from {_STAMP}", Connection.fetchone, None)
    if found is not None and found[0] > LAYOUT:
        raise Misuse(
            f"{file} was made by a newer verify-sync, {found[1]} (layout {found[0]}, this release "
            f"knows up to {LAYOUT}): install that release again, or set WAREHOUSE__DIR to another "
            "folder"
        )


def bring_along(connection: Connection) -> None:
    """Upgrades a new database or one of an earlier release: adds what it lacks, and the stamp."""
    if _layout(connection) == LAYOUT:
        return
    connection.begin()
    connection.execute(f"create schema if not exists {SCHEMA}")
    # The first load creates the other tables. A run that fails before it must be recorded too.
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
    """Returns the fingerprint of the views that were applied last, or None."""
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
