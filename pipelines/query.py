"""Read-only SQL over the published file: one query in three formats, or a prompt."""

from __future__ import annotations

import csv
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import date, datetime, timedelta
from pathlib import Path

import duckdb

from pipelines.errors import Failure, Misuse

FORMATS = ("table", "csv", "json")
_SHELLS = (("duckdb", "-readonly"), ("harlequin", "--read-only"))  # used when installed
_ROWS = 200  # a table shows no more; csv and json show everything
_AS_JSON = (bool, list, tuple, dict, timedelta)  # in a field of csv
_WIDE = 100_000  # characters: away from a terminal no column is left out


def open_published(published: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection whose instants print in UTC. Raises Failure when nothing is there."""
    if not published.exists():
        raise Failure(
            f"{published} is not there: run `make sync` first, which makes it or says what is in "
            "the way (or `make restore` with a backup; or `make demo`, and then "
            "`WAREHOUSE__DIR=warehouse/demo make sql`)"
        )
    try:
        connection = duckdb.connect(str(published), read_only=True)
    except duckdb.Error as error:
        raise Failure(
            f"{published} cannot be opened: {_brief(error)} (if it is damaged, `make sync` "
            "publishes it anew)"
        ) from error
    connection.execute("set timezone = 'UTC'")
    return connection


def run_query(connection: duckdb.DuckDBPyConnection, query: str, style: str) -> None:
    """Prints the answer to each statement. Raises Misuse for SQL that makes no sense."""
    try:
        for statement in connection.extract_statements(query):
            if style == "table":
                _print_table(connection.sql(_bare(statement.query)))
                continue
            answer = connection.execute(statement)
            names = [column[0] for column in answer.description or ()]
            rows = iter(answer.fetchone, None)
            _print_csv(names, rows) if style == "csv" else _print_json(names, rows)
    except duckdb.ProgrammingError as error:
        raise Misuse(_brief(error)) from error
    except duckdb.Error as error:
        raise Failure(_brief(error)) from error


def prompt(published: Path, style: str) -> None:
    """Statements from standard input; on a terminal the DuckDB shell, harlequin or our prompt."""
    with open_published(published) as connection:
        if not sys.stdin.isatty():
            for statements in _statements():
                run_query(connection, statements, style)
            return
        for program, flag in _SHELLS:
            if shutil.which(program):
                subprocess.run([program, flag, str(published)], check=False)
                return
        print(f"{published}, read-only. End a statement with ;  Leave with Ctrl-D or exit;")
        with suppress(KeyboardInterrupt):
            for statements in _statements():
                try:
                    run_query(connection, statements, style)
                except Failure as error:
                    print(error, file=sys.stderr)


def _statements() -> Iterator[str]:
    """Text from standard input up to a line that ends with `;`, until its end or `exit;`."""
    text = ""
    while True:
        try:
            line = input(("   ...> " if text else "verify> ") if sys.stdin.isatty() else "")
        except EOFError:
            line = ";"
            if not text.strip():
                return
        text += line + "\n"
        if text.strip().rstrip(";").lower() in ("exit", "quit", ".exit", ".quit"):
            return
        if text.rstrip().endswith(";"):
            yield text
            text = ""


def _bare(statement: str) -> str:
    """A statement without its `;` and what follows it, which a relation cannot be made of."""
    text = statement.encode()  # the tokenizer counts bytes
    ends = [at for at, _ in duckdb.tokenize(statement) if text[at : at + 1] == b";"]
    return text[: ends[-1]].decode() if ends else statement


def _print_table(answer: duckdb.DuckDBPyRelation | None) -> None:
    if answer is not None:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _WIDE
        answer.show(max_rows=_ROWS, max_width=width)


def _print_csv(names: list[str], rows: Iterator[tuple[object, ...]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(
            json.dumps(_plain(value)) if isinstance(value, _AS_JSON) else value for value in row
        )


def _print_json(names: list[str], rows: Iterator[tuple[object, ...]]) -> None:
    """An array of objects; amounts as text, so that they stay exact; no number, no value."""
    if len(set(names)) < len(names):
        raise Misuse("two columns have the same name, which JSON cannot tell apart: rename one")
    lines = (json.dumps(dict(zip(names, map(_plain, row), strict=True))) for row in rows)
    print("[" + ",\n".join(lines) + "]")


def _plain(value: object) -> object:
    """What JSON has a form for. Lengths of time in seconds, as `export` has them."""
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


def _brief(error: duckdb.Error) -> str:
    """DuckDB's message on one line, without the excerpt of the query."""
    return " ".join(str(error).partition("\nLINE ")[0].split())
