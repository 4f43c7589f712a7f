"""Prints the log, result and failure of a command, as text or JSON. SQL results: _results."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import traceback
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.commands._arguments import JSON
from pipelines.errors import printable, redact
from pipelines.text import BAR, counted

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from pipelines.warehouse.runs import Run

_NOTHING = logging.NullHandler()

log = logging.getLogger("verify_sync")


def log_to_stderr(arguments: argparse.Namespace) -> None:
    """Logs plain lines on a terminal. Elsewhere, as in cron's mail, each line has a UTC time."""
    is_json, is_terminal = arguments.log_format == JSON, sys.stderr.isatty()
    plain = _Redacted("%(message)s" if is_terminal else "%(asctime)s %(message)s")
    plain.converter = time.gmtime
    handler = logging.StreamHandler()
    handler.setFormatter(_AsJson(arguments.command) if is_json else plain)
    log.handlers = [handler]
    # Else Python prints the warnings of libraries, and those of urllib3 quote URLs.
    logging.getLogger().addHandler(_NOTHING)
    log.setLevel(logging.WARNING if arguments.quiet else logging.INFO)
    log.getChild(BAR).setLevel(logging.WARNING if is_json or arguments.quiet else logging.INFO)


def report(arguments: argparse.Namespace, exit_code: int, message: str) -> int:
    if arguments.debug:
        print(redact(traceback.format_exc()), file=sys.stderr)
    if arguments.log_format == JSON:
        log.error("%s", message, extra={"exit_code": exit_code})
    else:
        print(f"verify-sync: {printable(redact(message))}", file=sys.stderr)
    return exit_code


def tell_read(arguments: argparse.Namespace, settings: Settings, run: Run) -> None:
    read = f"read {counted(run.attempts, 'attempt')} in {counted(run.slices, 'slice')}"
    tell(arguments, f"{read} with {cost(run)}; {what_was_published(settings, run)}", run)


def tell(arguments: argparse.Namespace, line: str, run: Run | None = None) -> None:
    """Prints the one line that says what a run did. With --quiet, prints nothing."""
    if arguments.quiet:
        return
    if arguments.log_format == JSON:
        told = run.told() if run else {}
        line = json.dumps({"command": arguments.command, **told, "message": redact(line)})
    print(line)


def what_was_published(settings: Settings, run: Run) -> str:
    return run.unpublished or f"published {shown(settings.published)}"


def cost(run: Run) -> str:
    parts = [counted(run.counts.requests, "request")]
    if run.counts.retries:
        parts.append(f"including {run.counts.retries:,} retried")
    if run.rejected:
        parts.append(f"{run.rejected:,} rejected")
    parts.append(f"{run.seconds:.1f} s")
    if run.publishing >= 1:
        parts.append(f"including {run.publishing:.1f} s for publishing")
    return ", ".join(parts)


def shown(path: Path) -> Path:
    """Returns `path` relative to the current folder if it is below it and that is not the root."""
    here = Path.cwd()
    is_below = path.is_relative_to(here) and here != Path(here.anchor)
    return path.relative_to(here) if is_below else path


class _Redacted(logging.Formatter):
    default_time_format, default_msec_format = "%Y-%m-%dT%H:%M:%SZ", None

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


class _AsJson(logging.Formatter):
    """`time` (UTC), `level`, `command` and `message`. The final failure also has `exit_code`."""

    def __init__(self, command: str) -> None:
        super().__init__()
        self._command = command

    def format(self, record: logging.LogRecord) -> str:
        told = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(),
            "level": record.levelname.lower(),
            "command": self._command,
            "message": redact(record.getMessage()),
        }
        exit_code = getattr(record, "exit_code", None)
        return json.dumps(told if exit_code is None else {**told, "exit_code": exit_code})
