"""The layout of a database: upgrades an older one, refuses a newer one. Views: views."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from pathlib import Path

from pipelines import release
from pipelines.errors import Misuse
from pipelines.reading.raw_tables import PACKAGES, TABLES, attempts_columns
from pipelines.warehouse.connections import STORAGE, Connection, ask
from pipelines.warehouse.files import copied, put
from pipelines.warehouse.marks import KEPT, create_marks, forget
from pipelines.warehouse.tables import SCHEMA, TYPES, create_table

# Add 1 in each release whose tables an earlier release cannot use. Layout 1 has no stamp.
LAYOUT = 3
_STAMP = f"{SCHEMA}._verify_sync"
_FORMAT = "select tags['storage_version'] from duckdb_databases() where database_name = 'asked'"

log = logging.getLogger("verify_sync")


def refuse_newer(file: Path) -> None:
    """Raises Misuse if only a newer release knows the layout of the database."""
    found = ask(file, f"select layout, release from {_STAMP}", Connection.fetchone, None)
    if found is not None and found[0] > LAYOUT:
        raise Misuse(
            f"{file} was made by a newer verify-sync, {found[1]} (layout {found[0]}, this release "
            f"knows up to {LAYOUT}): install that release again, or set WAREHOUSE__DIR to another "
            "folder"
        )


def bring_to_format(loading: Path) -> None:
    """Rewrites the closed database once in the storage format of this release.

    Its bytes are published, and DuckDB 1.3 must be able to read them.
    """
    found = ask(loading, _FORMAT, Connection.fetchone, None)
    if found is None or found[0].startswith(STORAGE):
        return
    size = f"{loading.stat().st_size >> 20:,} MB"
    log.info("rewriting %s once, in a format that can be published: %s", loading, size)
    put(copied(loading, loading), loading)


def bring_along(connection: Connection) -> None:
    """Upgrades a new database or one of an earlier release: adds what it lacks, and the stamp.

    Looks at the columns too: an earlier release may have written to the file since it was stamped.
    """
    lacking = _lacking(connection)
    if _layout(connection) == LAYOUT and not lacking:
        return
    connection.execute(f"create schema if not exists {SCHEMA}")
    # Some releases of DuckDB cannot alter and update a table in one transaction. Without the stamp,
    # the next run does all this again if this one is killed.
    connection.execute(f"drop table if exists {_STAMP}")
    # The first load creates the other tables. A run that fails before it must be recorded too.
    create_table(connection, "sync_runs")
    create_marks(connection)
    for table, column, kind in lacking:
        connection.execute(f"alter table {SCHEMA}.{table} add column {column} {kind}")
    forget(connection, KEPT)  # what follows changes rows without a load package
    if _columns(connection)["attempts"]:
        for column, hint in attempts_columns().items():
            if column not in ("extra", "read_at"):
                _fill_from_extra(connection, column, TYPES[str(hint["data_type"])])
    connection.begin()
    connection.execute(f"create table {_STAMP} (layout bigint, release varchar)")
    connection.execute(f"insert into {_STAMP} values (?, ?)", [LAYOUT, release()])
    connection.commit()


def _fill_from_extra(connection: Connection, column: str, kind: str) -> None:
    """Moves the values of a key that was unknown so far from `extra` to its own column. Replaces no
    value: an odd key at the top level may be spelled like a nested one."""
    key = column.replace("__", ".")
    patch = json.dumps({key: None})  # null removes the key
    connection.execute(
        f"""
        update {SCHEMA}.attempts set
            {column} = try_cast(extra ->> '$."{key}"' as {kind}),
            extra = nullif(json_merge_patch(extra, '{patch}')::varchar, '{{}}')::json
        where extra is not null and {column} is null and json_exists(extra, '$."{key}"')
        """
    )


def _lacking(connection: Connection) -> list[tuple[str, str, str]]:
    """Returns table, name and type of each column that a table of ours lacks."""
    there = _columns(connection)
    return [
        (table, column, TYPES[str(hint["data_type"])])
        for table, columns in {"attempts": attempts_columns() | PACKAGES, **TABLES}.items()
        for column, hint in columns.items()
        if there[table] and column not in there[table]
    ]


def _columns(connection: Connection) -> dict[str, set[str]]:
    """Returns the columns of each table in our schema; an empty set for a table that is missing."""
    there: dict[str, set[str]] = defaultdict(set)
    for table, column in connection.execute(
        "select table_name, column_name from duckdb_columns()"
        f" where database_name = current_database() and schema_name = '{SCHEMA}'"
    ).fetchall():
        there[table].add(column)
    return there


def _layout(connection: Connection) -> int | None:
    is_stamped = connection.execute(
        "select 1 from duckdb_tables() where database_name = current_database()"
        f" and schema_name || '.' || table_name = '{_STAMP}'"
    ).fetchone()
    if not is_stamped:
        return None
    found = connection.execute(f"select layout from {_STAMP}").fetchone()
    return found[0] if found else None
