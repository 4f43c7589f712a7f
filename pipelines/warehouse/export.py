"""The published file as Parquet: one file a view or raw table. Opening it: published."""

from __future__ import annotations

from pathlib import Path

import duckdb

from pipelines.errors import Failure, Misuse, advised, first_line
from pipelines.reading.raw_tables import TABLES
from pipelines.warehouse.connections import quoted
from pipelines.warehouse.tables import SCHEMA

_RELATIONS = f"""
    select schema_name, name from (
        select schema_name, view_name as name from duckdb_views() where not internal
        union all
        select schema_name, table_name from duckdb_tables()
    ) as relations
    where schema_name = 'main' or (schema_name = '{SCHEMA}' and name in ?)
    order by schema_name, name
"""
_COLUMNS = """
    select column_name, data_type from duckdb_columns()
    where schema_name = ? and table_name = ? order by column_index
"""


def export(connection: duckdb.DuckDBPyConnection, folder: Path) -> list[Path]:
    """Writes `FOLDER/<view>.parquet` and `FOLDER/twilio_verify/<table>.parquet`, and says which.

    Each replaces an older one of its name when it is complete. Lengths of time become seconds,
    because few readers know Parquet's own. Raises Failure if the folder cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise Misuse(f"{folder} is a file: give a folder, which is made if it is not there")
    written = []
    relations = connection.execute(_RELATIONS, [["attempts", *TABLES]]).fetchall()
    try:
        for schema, name in relations:
            target = (folder if schema == "main" else folder / schema) / f"{name}.parquet"
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(connection, schema, name, target)
            written.append(target)
    except OSError as error:
        where = error.filename or folder
        raise Failure(f"{where}: {advised(error.strerror or str(error))}") from error
    except duckdb.Error as error:
        raise Failure(f"{folder}: {advised(first_line(error))}") from error
    return written


def _write(connection: duckdb.DuckDBPyConnection, schema: str, name: str, target: Path) -> None:
    columns = connection.execute(_COLUMNS, [schema, name]).fetchall()
    selected = ", ".join(_portable(column, kind) for column, kind in columns)
    partial = target.with_suffix(".parquet.partial")
    try:
        connection.execute(
            f"copy (select {selected} from {schema}.{name}) to '{quoted(partial)}' (format parquet)"
        )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _portable(column: str, kind: str) -> str:
    if kind == "INTERVAL":
        return f"epoch({column}) as {column}"
    if kind == "INTERVAL[]":
        return f"[epoch(length) for length in {column}] as {column}"
    return column
