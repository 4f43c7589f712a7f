"""Read-only SQL over the published file: one query in three formats, or a prompt."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path

import duckdb

from pipelines.errors import Failure

FORMATS = ("table", "csv", "json")
_SHELLS = (("duckdb", "-readonly"), ("harlequin", "--read-only"))  # used when installed
_ROWS = 200  # a table shows no more; csv and json show everything


def open_published(published: Path) -> duckdb.DuckDBPyConnection:
    """A read-only connection whose instants print in UTC. Raises Failure when nothing is there."""
    if not published.exists():
        raise Failure(
            f"{published} is not there yet: run `make sync` first, or `make demo` and then "
            "`WAREHOUSE__DIR=warehouse/demo make sql`"
        )
    try:
        connection = duckdb.connect(str(published), read_only=True)
    except duckdb.Error as error:
        raise Failure(f"{published} cannot be opened: {_brief(error)}") from error
    connection.execute("set timezone = 'UTC'")
    return connection


def run_query(connection: duckdb.DuckDBPyConnection, query: str, style: str) -> None:
    """Prints the answer to one or more statements. Raises Failure for SQL that does not work."""
    try:
        if style == "table":
            answer = connection.sql(query)
            if answer is not None:
                width = shutil.get_terminal_size((200, 24)).columns
                answer.show(max_rows=_ROWS, max_width=width)
            return
        answer_set = connection.execute(query)
        names = [column[0] for column in answer_set.description or ()]
        rows = iter(answer_set.fetchone, None)
        _print_csv(names, rows) if style == "csv" else _print_json(names, rows)
    except duckdb.Error as error:
        raise Failure(_brief(error)) from error


def prompt(published: Path) -> None:
    """An interactive prompt: the DuckDB shell or harlequin if installed, else a plain one."""
    with open_published(published) as connection:
        if sys.stdin.isatty():
            for program, flag in _SHELLS:
                if shutil.which(program):
                    subprocess.run([program, flag, str(published)], check=False)
                    return
            print(f"{published}, read-only. End a statement with ;  Leave with Ctrl-D.")
        for statement in _statements():
            try:
                run_query(connection, statement, "table")
            except Failure as error:
                if not sys.stdin.isatty():
                    raise
                print(error, file=sys.stderr)


def _statements() -> Iterator[str]:
    """Statements from standard input, each as soon as its `;` is there."""
    text = ""
    while True:
        try:
            line = input(("verify> " if not text else "   ...> ") if sys.stdin.isatty() else "")
        except EOFError:
            if text.strip():
                yield text
            return
        text += line + "\n"
        if text.rstrip().endswith(";"):
            yield text
            text = ""


def _print_csv(names: list[str], rows: Iterator[tuple[object, ...]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)


def _print_json(names: list[str], rows: Iterator[tuple[object, ...]]) -> None:
    """An array of objects; amounts as text, so that they stay exact."""
    lines = (json.dumps(dict(zip(names, row, strict=True)), default=_json_value) for row in rows)
    print("[" + ",\n".join(lines) + "]")


def _json_value(value: object) -> str:
    return value.isoformat() if isinstance(value, (date, datetime)) else str(value)


def _brief(error: duckdb.Error) -> str:
    """DuckDB's message on one line, without the excerpt of the query."""
    return " ".join(str(error).partition("\nLINE ")[0].split())
