"""Opens the published file for readers. Making it: publishing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from pipelines.errors import Failure
from pipelines.interrupt import cancelling
from pipelines.text import typed
from pipelines.warehouse.connections import connect


@contextmanager
def open_published(
    published: Path, writes_files: bool = False
) -> Iterator[duckdb.DuckDBPyConnection]:
    """Opens a read-only connection that shows times in UTC. A signal cancels its query.

    SQL on it cannot read or write other files, and cannot change that. `writes_files` allows it.
    Raises Failure if the file is missing or cannot be opened.
    """
    if not published.exists():
        raise Failure(
            f"{published} is missing: run `{typed('sync')}` first, which creates it or says why it "
            f"cannot (or `{typed('restore', 'FILE')}` with a backup; or `{typed('demo')}`, "
            f"and then `WAREHOUSE__DIR=warehouse/demo {typed('sql')}`)"
        )
    try:
        connection = connect(published, read_only=True)
    except duckdb.Error as error:
        raise Failure(
            f"{published} cannot be opened: {brief(error)} (if it is damaged, run "
            f"`{typed('sync')}` to publish it again)"
        ) from error
    with connection, cancelling(connection.interrupt):
        if not writes_files:
            connection.execute("set enable_external_access = false; set lock_configuration = true")
        yield connection


def brief(error: duckdb.Error) -> str:
    """Returns DuckDB's message on one line, without the excerpt of the query."""
    return " ".join(str(error).partition("\nLINE ")[0].split())
