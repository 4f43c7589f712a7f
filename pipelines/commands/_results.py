"""Runs SQL and prints the result as table, csv or json. Opening the file: warehouse.published."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from datetime import date, datetime, timedelta

import duckdb

from pipelines.commands._arguments import TABLE
from pipelines.errors import Failure, Misuse, masked
from pipelines.warehouse.published import brief

_ROWS = 200  # a table shows no more; csv and json show everything
_AS_JSON = (bool, list, tuple, dict, timedelta)  # types written as JSON in a csv field
_UNCOUNTED, _MANY = "? rows", ">9999 rows, "
_CONTROL = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) != "\n"}
_CONTROL |= dict.fromkeys((*range(0x202A, 0x202F), *range(0x2066, 0x206A)), "\ufffd")  # direction
_WIDE = 100_000  # characters: without a terminal, all columns are shown


def run_query(connection: duckdb.DuckDBPyConnection, query: str, style: str) -> None:
    """Prints the result of each statement. Raises Misuse for wrong SQL, else Failure."""
    try:
        for statement in connection.extract_statements(query):
            if style == TABLE:
                _print_table(connection.sql(_bare(statement.query)))
                continue
            answer = connection.execute(statement)
            names = [column[0] for column in answer.description or ()]
            rows = iter(answer.fetchone, None)
            _print_csv(names, rows) if style == "csv" else _print_json(names, rows)
    except duckdb.ProgrammingError as error:
        raise Misuse(masked(brief(error))) from error
    except duckdb.Error as error:
        raise Failure(masked(brief(error))) from error


def _bare(statement: str) -> str:
    """Returns the statement without its `;` and the rest: a DuckDB relation allows neither."""
    text = statement.encode()  # the tokenizer counts bytes
    ends = [at for at, _ in duckdb.tokenize(statement) if text[at : at + 1] == b";"]
    return text[: ends[-1]].decode() if ends else statement


def _print_table(answer: duckdb.DuckDBPyRelation | None) -> None:
    if answer is None:
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE
    drawn = io.StringIO()
    with redirect_stdout(drawn):
        answer.show(max_rows=_ROWS, max_width=width)
    table, corner, footer = drawn.getvalue().rpartition("┘")
    if _UNCOUNTED in footer:  # DuckDB draws part of a long result and does not count the rest
        ((count,),) = answer.count("*").fetchall()
        footer = footer.replace(_UNCOUNTED, f"{count:,} rows").replace(_MANY, "")
    # A terminal would obey control characters in the data.
    print((table + corner + footer.rstrip("\n")).translate(_CONTROL))


def _print_csv(names: list[str], rows: Iterator[tuple[object, ...]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(
            json.dumps(_plain(value)) if isinstance(value, _AS_JSON) else value for value in row
        )


def _print_json(names: list[str], rows: Iterator[tuple[object, ...]]) -> None:
    """Prints an array of objects. Decimals are text, to stay exact. NaN and infinity are null."""
    if len(set(names)) < len(names):
        raise Misuse("two columns have the same name, which JSON does not allow: rename one")
    lines = (json.dumps(dict(zip(names, map(_plain, row), strict=True))) for row in rows)
    print("[" + ",\n".join(lines) + "]")


def _plain(value: object) -> object:
    """Converts `value` to a JSON type. Durations become seconds, as in `export`."""
    if isinstance(value, dict):
        return {str(_plain(key)): _plain(of) for key, of in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(of) for of in value]
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (date, datetime)):
        return value.isoformat()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
