"""Reads a published file as an old program would: `python tests/reader.py FILE`.

It needs only DuckDB and pandas. nox installs the oldest DuckDB that the file is promised to open in
(see noxfile.py).
"""

from __future__ import annotations

import sys

import duckdb

_RELATIONS = """
    select table_schema, table_name from information_schema.tables
    where table_schema in ('main', 'twilio_verify') order by all
"""
_EMPTY = {"missed_revisits", "gaps", "stg_unserved"}  # of a warehouse that is complete


def main() -> None:
    with duckdb.connect(sys.argv[1], read_only=True) as connection:
        found = connection.execute(_RELATIONS).fetchall()
        rows = {
            name: len(connection.execute(f"from {schema}.{name}").df()) for schema, name in found
        }
    bare = [name for schema, name in found if schema == "main" and not rows[name]]
    if set(bare) - _EMPTY or rows["verification_attempts"] != rows["attempts"]:
        sys.exit(f"DuckDB {duckdb.__version__} finds too few rows: {rows}")
    print(f"DuckDB {duckdb.__version__} and pandas read {len(rows)} relations")


if __name__ == "__main__":
    main()
