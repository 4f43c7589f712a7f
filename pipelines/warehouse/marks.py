"""Marks: what runs remember of each other's work, in a table of the database itself.

A mark goes back together with the rows when an older copy of the database is restored.
"""

from __future__ import annotations

import duckdb

from pipelines.warehouse.connections import Connection
from pipelines.warehouse.tables import SCHEMA

TABLE = f"{SCHEMA}._marks"
KEPT = "kept"  # the loads that the kept tables have seen
CHECKED = "checked"  # the loads that were there when the checks last passed
CHECKED_IN_FULL = "checked_in_full"  # when all rows were last checked, as an ISO time
FAILING = "failing"  # names of the checks that failed on all rows, as JSON
WARNING = "warning"  # names of the checks that warn, as JSON
COMPACTED = "compacted"  # when the file was last compacted, as an ISO time


def create_marks(connection: Connection) -> None:
    connection.execute(f"create table if not exists {TABLE} (name varchar, value varchar)")


def mark(connection: Connection, name: str) -> str | None:
    """Returns the value of the mark, or None if it was never set."""
    try:
        found = connection.execute(mark_sql(name)).fetchall()
    except duckdb.CatalogException:  # a file of an earlier release
        return None
    return str(found[0][0]) if found else None


def mark_sql(name: str) -> str:
    """Returns SQL for the value of the mark."""
    return f"select value from {TABLE} where name = '{name}'"


def forget(connection: Connection, name: str) -> None:
    connection.execute(f"delete from {TABLE} where name = ?", [name])


def set_mark(connection: Connection, name: str, value: str) -> None:
    """Sets the mark, as part of the transaction that is open, if one is."""
    forget(connection, name)
    connection.execute(f"insert into {TABLE} values (?, ?)", [name, value])
