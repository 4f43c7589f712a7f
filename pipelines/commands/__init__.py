"""The command line: one module per command, found by its file. Modules with `_`: shared code.

A command's docstring is its help. `add_arguments(parser)` adds its options. `run(arguments,
settings, now)` does the work and prints. Slow imports are inside `run`, so that the help and the
message for a mistyped option do not wait for dlt.
"""

from __future__ import annotations

import argparse
import pkgutil
from importlib import import_module

from pipelines import release
from pipelines.commands._arguments import TEXT, Parser


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line. It stores the chosen command's function as `run`."""
    whole = Parser(
        prog="verify-sync",
        description="A complete, settled copy of Twilio Verify's attempts in DuckDB.",
    )
    whole.add_argument("--version", action=_Version, nargs=0, help="print the release and exit")
    adding = whole.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in names():
        _add(adding, name)
    return whole


def names() -> list[str]:
    """Returns the names of the commands in alphabetical order."""
    modules = (module.name for module in pkgutil.iter_modules(__path__))
    return [name for name in modules if not name.startswith("_")]


def _add(adding: argparse._SubParsersAction[Parser], name: str) -> None:
    command = import_module(f"{__name__}.{name}")
    summary = (command.__doc__ or "").partition("\n")[0].rstrip(".")
    options = adding.add_parser(name, help=summary, description=summary)
    options.add_argument("--debug", action="store_true", help="show tracebacks")
    options.set_defaults(
        run=command.run, quiet=False, log_format=TEXT, wait=0.0, interrupted="interrupted"
    )
    command.add_arguments(options)


class _Version(argparse.Action):
    """Prints the release. argparse's own action would look it up for every command."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"verify-sync {release()}")
        parser.exit()
