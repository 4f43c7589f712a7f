"""Marks: what runs remember of each other's work, in a table of the database itself.

A mark goes back together with the rows when an older copy of the database is restored.
"""

from __future__ import annotations

from pipelines.warehouse.connections import Connection
from pipelines.warehouse.tables import SCHEMA

TABLE = f"{SCHEMA}._marks"


def create_marks(connection: Connection) -> None:
    connection.execute(f"create table if not exists {TABLE} (name varchar, value varchar)")


def mark(connection: Connection, name: str) -> str | None:
    """Returns the value of the mark, or None if it was never set."""
    found = connection.execute(f"select value from {TABLE} where name = ?", [name]).fetchone()
    return str(found[0]) if found else None


def set_mark(connection: Connection, name: str, value: str) -> None:
    """Sets the mark, as part of the transaction that is open, if one is."""
    connection.execute(f"delete from {TABLE} where name = ?", [name])
    connection.execute(f"insert into {TABLE} values (?, ?)", [name, value])
