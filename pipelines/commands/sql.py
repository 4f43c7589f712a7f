"""Read-only SQL over the published file."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.commands._arguments import add_format
from pipelines.errors import Failure

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    from pipelines.settings import Settings

_SHELLS = (("duckdb", "-readonly"), ("harlequin", "--read-only"))  # used when installed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("query", nargs="?", help="default: an interactive prompt")
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings, _: datetime) -> None:
    from pipelines.commands._results import run_query
    from pipelines.warehouse.published import open_published

    with open_published(settings.published) as connection:
        if arguments.query:
            run_query(connection, arguments.query, arguments.format)
        elif sys.stdin.isatty():
            _prompt(connection, settings, arguments.format)
        else:
            for statements in _statements():
                run_query(connection, statements, arguments.format)


def _prompt(connection: DuckDBPyConnection, settings: Settings, style: str) -> None:
    """The DuckDB shell, harlequin or our own."""
    from pipelines.commands._results import run_query

    for program, flag in _SHELLS:
        if shutil.which(program):
            subprocess.run([program, flag, str(settings.published)], check=False)
            return
    print(f"{settings.published}, read-only. End a statement with ;  Leave with Ctrl-D or exit;")
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
