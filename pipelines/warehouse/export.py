"""Writes views and raw tables to Parquet or CSV. Opening the published file: published."""

from __future__ import annotations

from pathlib import Path

import duckdb

from pipelines.errors import Failure, Misuse, advised, first_line, masked
from pipelines.reading.raw_tables import TABLES
from pipelines.text import counted
from pipelines.warehouse.connections import quoted
from pipelines.warehouse.files import keep_owner
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


def export(connection: duckdb.DuckDBPyConnection, folder: Path, style: str) -> list[Path]:
    """Writes `FOLDER/<view>.<style>` and `FOLDER/twilio_verify/<table>.<style>`; returns the files.

    `style` is parquet or csv. A file replaces an older one only when it is complete. Durations
    become seconds, because few programs can read Parquet's interval type. Raises Failure if a
    file cannot be written, Misuse if `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise Misuse(f"{folder} is a file: give a folder (it is created if missing)")
    written: list[Path] = []
    failed: list[str] = []
    relations = connection.execute(_RELATIONS, [["attempts", *TABLES]]).fetchall()
    for schema, name in relations:
        target = (folder if schema == "main" else folder / schema) / f"{name}.{style}"
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _write(connection, schema, name, target)
        except OSError as error:
            where = error.filename or folder
            raise Failure(f"{where}: {advised(error.strerror or str(error))}") from error
        except (duckdb.DataError, duckdb.ProgrammingError) as error:  # wrong SQL in a user's view
            failed.append(f"{name}: {masked(first_line(error))}")
            continue
        except duckdb.Error as error:
            raise Failure(f"{target}: {advised(masked(first_line(error)))}") from error
        written.append(target)
    if failed:
        raise Failure(
            f"{counted(len(written), 'file')} written, but not view {failed[0]}"
            + (f", nor {len(failed) - 1} more" if failed[1:] else "")
        )
    return written


def _write(connection: duckdb.DuckDBPyConnection, schema: str, name: str, target: Path) -> None:
    columns = connection.execute(_COLUMNS, [schema, name]).fetchall()
    selected = ", ".join(_portable(column, kind) for column, kind in columns)
    partial = target.with_name(f"{target.name}.partial")
    style = target.suffix.removeprefix(".")
    try:
        connection.execute(
            f"copy (select {selected} from {schema}.{name}) to '{quoted(partial)}' (format {style})"
        )
        keep_owner(partial, target)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _portable(column: str, kind: str) -> str:
    column = '"{}"'.format(column.replace('"', '""'))  # a user's view may have any name
    if kind == "INTERVAL":
        return f"epoch({column}) as {column}"
    if kind == "INTERVAL[]":
        return f"[epoch(length) for length in {column}] as {column}"
    return column
