"""Applies the views of `sql/` and the settings that they read. The user's own views: own_sql."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import astuple
from datetime import timedelta
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import duckdb

from pipelines.errors import Failure, first_line
from pipelines.reading.defaults import SETTLED_AFTER
from pipelines.settings import Settings
from pipelines.text import content_of, text_of
from pipelines.twilio.limits import RETENTION
from pipelines.warehouse.connections import Connection, escaped
from pipelines.warehouse.database import Database
from pipelines.warehouse.kept import kept_tables, note_kept, noted, refresh
from pipelines.warehouse.own_sql import REPORTS, apply_own_views, own_files, sql_files

# Twilio's default: an attempt this old is seldom converted later.
CODE_VALIDITY = timedelta(minutes=10)
_VIEWS = "select view_name from duckdb_views() where schema_name = 'main' and not internal"
_TABLES = "select table_name from duckdb_tables() where schema_name = 'main'"
_COMMENT = """
    select comment from duckdb_tables() where database_name = current_database()
    and schema_name = 'main' and table_name = 'settings'
"""
_LAYERS = ("staging", "marts", "reports")  # a view reads only from its own or earlier folders


def sql_folder() -> Path:
    """Returns `sql/`: beside the package in a checkout, inside it if installed from a wheel."""
    package = Path(__file__).parents[1]
    inside = package / "sql"
    return inside if inside.is_dir() else package.parent / "sql"


def view_files() -> list[Path]:
    """Returns the view files, each after the files whose views it reads."""
    found = (sql_files(sql_folder() / layer) for layer in _LAYERS)
    files = {file.stem: file for layer in found for file in layer}
    order = TopologicalSorter({name: _read_by(file, files) for name, file in files.items()})
    return [files[name] for name in order.static_order()]


def _read_by(file: Path, files: Mapping[str, Path]) -> list[str]:
    """Returns the names of the views in `files` that this file reads."""
    names = set(re.findall(r"\b(?:from|join) (\w+)", _text(file)))
    return [name for name in files if name in names]


def fingerprint(settings: Settings) -> str:
    """Returns a hash of everything the views are made of. If it is the same, so are the views."""
    files = (_settings_file(), *view_files(), *own_files(settings.sql, REPORTS))
    parts = [*map(_bytes, files), *(file.name for file in files)]
    whole = "\0".join([*map(str, parts), *map(str, _values(settings)), duckdb.__version__])
    return hashlib.sha256(whole.encode()).hexdigest()


def _text(file: Path) -> str:
    try:
        return text_of(file)
    except Failure as failure:
        raise Failure(f"{file}: {failure}") from None


def _bytes(file: Path) -> bytes:
    with suppress(Failure):  # a user's file that cannot be read is skipped later
        return content_of(file)
    return b""


def apply_views(database: Database, settings: Settings, again: bool = False) -> None:
    """Recreates `settings`, all views and kept tables, ours in one transaction, unless they are the
    same. Then it only refreshes the kept tables. Every change of rows must end here.

    `again`: recreates them even then. A user's view that fails is skipped, and tried by every run.
    """
    connection, current = database.connection, fingerprint(settings)
    ours, own = view_files(), own_files(settings.sql, REPORTS)
    kept = kept_tables(ours)
    there, tables = ({name for (name,) in database.rows(query)} for query in (_VIEWS, _TABLES))
    is_same = (
        there == {file.stem for file in (*ours, *own)} - kept.keys()
        and tables >= kept.keys()
        and _stamped(connection) == current
    )
    # A run warns of a failure only once.
    if not again and noted(connection) and (is_same or database.views == current):
        with database.going_through_all():  # the days that were touched may hold a large part
            database.is_made_anew = refresh(database.working, kept)
        return
    with database.going_through_all():
        connection.begin()
        create_views(connection, settings)
        note_kept(connection)
        _stamp(connection, current)
        connection.commit()
    database.views, database.is_made_anew = current, True
    apply_own_views(connection, own, {"settings", *(file.stem for file in ours)})


def _stamp(connection: Connection, current: str) -> None:
    """Notes the fingerprint in the comment on `settings`. Every release makes that table and all
    views anew together, so this stamp goes when an earlier release replaces the views."""
    ((comment,),) = connection.execute(_COMMENT).fetchall()
    stamped = escaped(f"{comment} [views {current}]")
    connection.execute(f"comment on table main.settings is '{stamped}'")


def _stamped(connection: Connection) -> str | None:
    """Returns the fingerprint of the views that are in the database, or None."""
    comments = [str(comment) for (comment,) in connection.execute(_COMMENT).fetchall()]
    found = re.search(r"\[views (\w+)\]$", comments[0]) if comments else None
    return found[1] if found else None


def create_views(connection: duckdb.DuckDBPyConnection, settings: Settings) -> None:
    """Replaces `settings` and all views of the current database by those of `sql/`.

    Raises Failure naming the file whose SQL fails.
    """
    views = connection.execute(
        "select view_name from duckdb_views()"
        " where database_name = current_database() and schema_name = 'main' and not internal"
    ).fetchall()
    for (view,) in views:
        name = view.replace('"', '""')  # a restored backup may hold any name
        connection.execute(f'drop view main."{name}"')
    for file in (_settings_file(), *view_files()):
        try:
            connection.execute(_text(file))
        except duckdb.ProgrammingError as error:
            raise Failure(f"{file}: {first_line(error)}") from error
        if file.stem == "settings":
            _fill_settings(connection, settings)


def _settings_file() -> Path:
    return sql_folder() / "settings.sql"


def _fill_settings(connection: duckdb.DuckDBPyConnection, settings: Settings) -> None:
    """Durations are in seconds: a number is what every program can read."""
    *values, ages = _values(settings)
    places = ", ".join("?" * len(values))
    connection.execute(f"insert into main.settings values ({places})", values)
    connection.execute("insert into main.revisit_ages select unnest(?::bigint[])", [ages])


def _values(settings: Settings) -> list[Any]:
    """Returns the settings in the order of the table's columns; last the ages of revisits."""
    return [
        settings.verification_fee,
        settings.fee_currency,
        settings.timezone,
        *astuple(settings.pumping),
        *(age.total_seconds() for age in (CODE_VALIDITY, SETTLED_AFTER, RETENTION)),
        [age.total_seconds() for age in settings.revisit_after],
    ]
