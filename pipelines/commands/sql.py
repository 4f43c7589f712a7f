"""Query the published file in SQL; without a query, open DuckDB's own shell on it."""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import struct
import sys
import termios
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from pipelines.commands._arguments import TABLE, add_format
from pipelines.errors import Failure
from pipelines.text import typed

if TYPE_CHECKING:
    from pipelines.settings import Settings

# The order matters. The pager can run commands and write files, so it is turned off first. Safe
# mode blocks all other ways to do so, but also `set timezone`, so it comes last.
_FIRST = (".pager off", "set timezone = 'UTC'", ".safe_mode")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "query",
        nargs="?",
        help="SQL (default: read standard input; on a terminal, open DuckDB's shell)",
    )
    add_format(parser)


def run(arguments: argparse.Namespace, settings: Settings, _: datetime) -> None:
    from pipelines.commands._results import run_query
    from pipelines.warehouse.published import open_published

    with open_published(settings.published) as connection:
        if arguments.query or not sys.stdin.isatty():
            run_query(connection, arguments.query or sys.stdin.read(), arguments.format)
            return
    _become_shell(settings.published, arguments.format)


def _become_shell(published: Path, style: str) -> NoReturn:
    """Replaces this process by DuckDB's shell, so that Ctrl-C reaches only the shell.

    It opens the file read-only, without the user's `.duckdbrc`. Raises Failure if the package
    duckdb-cli is missing.
    """
    shell = _shell()
    if shell is None:
        raise Failure(
            "DuckDB's shell is missing: the package duckdb-cli is not installed, or does not exist "
            "for this machine; give a query instead, such as "
            f"`{typed('sql', query='from daily_conversion limit 5')}`"
        )
    _give_size()
    options = ["-readonly", "-no-init"]
    if os.environ.get("TERM", "dumb") == "dumb":
        options.append("-dark-mode")  # else it waits 5 s for the terminal's background colour
    if style != TABLE:
        options.append(f"-{style}")
    for command in _FIRST:
        options += ["-cmd", command]
    sys.stdout.flush()
    os.execv(shell, [str(shell), *options, str(published.absolute())])


def _shell() -> Path | None:
    """Returns the shell's binary, or None. The script `duckdb` beside Python fails in safe mode."""
    package = find_spec("duckdb_cli")
    if package is None or package.origin is None:
        return None
    shell = Path(package.origin).with_name("duckdb")
    return shell if os.access(shell, os.X_OK) else None


def _give_size() -> None:
    """Gives a terminal without a size, such as a serial line, COLUMNS x LINES, or else 80 x 24.

    Without a size, the shell would draw tables wider than most terminals.
    """
    try:
        if os.get_terminal_size(sys.stdin.fileno()).columns:
            return
        size = shutil.get_terminal_size()  # Python 3.10 gives 0 where nothing says the size
        wanted = struct.pack("HHHH", size.lines or 24, size.columns or 80, 0, 0)
        fcntl.ioctl(sys.stdin.fileno(), termios.TIOCSWINSZ, wanted)
    except OSError:
        return  # the shell then uses its own default
