"""What can be asked for on the command line: commands, their options, the types of values."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, NoReturn

import pendulum

from pipelines.errors import Misuse, masked
from pipelines.query import FORMATS
from pipelines.sandbox.switches import SWITCHES
from pipelines.settings import length_of
from pipelines.windows import RETENTION

Commands = Mapping[str, Callable[..., None]]
TEXT, JSON = "text", "json"
# What one run at a time does to a warehouse.
_RUNS = ("sync", "backfill", "fetch", "reconcile", "views", "restore")

# `list`'s options by the filter they are.
FILTER_OPTIONS = {
    "verify_service_sid": "--service",
    "country": "--country",
    "channel": "--channel",
    "to": "--to",
    "verification_sid": "--verification",
    "status": "--status",
}
_HELP = {
    "verify_service_sid": "SID of a Verify service (VA…)",
    "country": "destination country, ISO 3166, as in CO",
    "channel": "sms, call, email, whatsapp or rbm",
    "to": "phone number in E.164, or e-mail address",
    "verification_sid": "SID of a verification (VE…): its attempts",
    "status": "converted or unconverted",
}
_AGO = re.compile(r"(\d{1,4}) (minute|hour|day|week)s? ago")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(masked(message))  # it quotes what was typed


def parser_of(commands: Commands) -> argparse.ArgumentParser:
    """The parser; it leaves the chosen one of `commands` in `run`."""
    parser = _Parser(
        prog="verify-sync",
        description="A complete, settled copy of Twilio Verify's attempts in DuckDB.",
    )
    adding = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, run in commands.items():
        summary = (run.__doc__ or "").strip().partition("\n")[0].rstrip(".")
        command = adding.add_parser(name, help=summary, description=summary)
        command.add_argument("--debug", action="store_true", help="show tracebacks")
        command.set_defaults(run=run, quiet=False, log_format=TEXT, wait=0.0)
        if name in _RUNS:
            _add_run(command)
        if name in _OPTIONS:
            _OPTIONS[name](command)
    return parser


def instant(text: str | None, now: datetime, option: str) -> datetime | None:
    """An ISO date or date and time (UTC unless it says otherwise), `yesterday`, `2 days ago`."""
    if text is None:
        return None
    plain = text.strip().lower()
    days = {"today": 0, "yesterday": 1}
    if plain in days:
        midnight = now.astimezone(timezone.utc).replace(hour=0, minute=0, second=0, microsecond=0)
        return midnight - timedelta(days=days[plain])
    ago, parsed = _AGO.fullmatch(plain), None
    try:
        if ago:
            return now - timedelta(**{ago[2] + "s": int(ago[1])})
        if re.match(r"20\d\d-\d\d-\d\d", plain):  # a mere time would be another one tomorrow
            parsed = pendulum.parse(text.strip(), tz="UTC")
    except (ValueError, TypeError, OverflowError):
        pass
    if not isinstance(parsed, datetime):
        raise Misuse(
            f"{option}: '{masked(text)}' is no time; write 2026-11-23, 2026-11-23T08:00:00-05:00, "
            "today, yesterday, '6 hours ago' or '2 days ago'"
        )
    return datetime.fromtimestamp(parsed.timestamp(), timezone.utc)  # pendulum's own zones differ


def _add_run(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--wait",
        type=_between(float, 0, 86_400),
        metavar="SECONDS",
        help="how long to wait for another run on the same warehouse (default: 0)",
    )
    command.add_argument(
        "--quiet", action="store_true", help="print nothing when all is well, for cron"
    )
    command.add_argument(
        "--log-format", choices=(TEXT, JSON), help="json: an object a line, for machines"
    )


def _sync(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--dry-run", action="store_true", help="only print what is due and what it costs"
    )


def _add_window(command: argparse.ArgumentParser, prefix: str = "") -> None:
    command.add_argument(
        "--after",
        help=f"{prefix}created after: a date or a date and time (UTC unless it says otherwise), "
        "today, yesterday, '6 hours ago', '2 days ago', '1 week ago'",
    )
    command.add_argument("--before", help="created before, likewise (default: now)")


def _backfill(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--days", type=_between(int, 1, 3650), help="the last so many days (default: 30)"
    )
    _add_window(command, "instead: ")
    command.add_argument(
        "--restart", action="store_true", help="begin anew even if an earlier one is unfinished"
    )


def _reconcile(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--days",
        type=_between(int, 1, RETENTION.days),
        default=RETENTION.days,
        help="the last so many whole days, and today so far (default: 30, all that Twilio has)",
    )


def _status(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="for machines")
    command.add_argument(
        "--max-age",
        type=_age,
        metavar="AGE",
        help="exit with 1 if the newest sync that succeeded ended longer ago: 90m, 26h, 2d",
    )


def _age(text: str) -> timedelta:
    try:
        return length_of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _list(command: argparse.ArgumentParser) -> None:
    for name, option in FILTER_OPTIONS.items():
        command.add_argument(option, dest=name, metavar=name.upper(), help=_HELP[name])
    _add_window(command)
    command.add_argument(
        "--limit", type=_between(int, 1, 10**7), default=20, help="at most so many"
    )
    command.add_argument("--format", choices=FORMATS, default="table")


def _fetch(command: argparse.ArgumentParser) -> None:
    command.add_argument("sid", nargs="+", metavar="SID", help="SID of an attempt (VL…)")


def _sql(command: argparse.ArgumentParser) -> None:
    command.add_argument("query", nargs="?", help="default: an interactive prompt")
    command.add_argument("--format", choices=FORMATS, default="table")


def _export(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="FOLDER", help="made if it is not there")


def _restore(command: argparse.ArgumentParser) -> None:
    command.add_argument("file", type=Path, metavar="FILE", help="a copy of verify.duckdb")


def _sandbox(command: argparse.ArgumentParser) -> None:
    command.add_argument("--port", type=_between(int, 0, 65_535), default=8765)
    command.add_argument(
        "--attempts", type=_between(int, 0, 10**8), default=20_000, help="in --days days"
    )
    command.add_argument(
        "--days", type=_between(float, 0.01, 3650), default=30.0, help="how long the account exists"
    )
    command.add_argument("--seed", type=_between(int, 0, 2**31), default=1)
    for group in SWITCHES:
        options = command.add_argument_group(group.__name__.lower(), (group.__doc__ or "").strip())
        for switch in fields(group):
            _add_switch(options, switch.name, switch.default, switch.metadata)


def _add_switch(command: Any, name: str, default: Any, metadata: Mapping[str, Any]) -> None:
    options: dict[str, Any] = {"default": default, "help": metadata["help"]}
    if isinstance(default, bool):
        options["action"] = argparse.BooleanOptionalAction
    else:
        kind = type(default)
        options["type"] = kind if kind is str else _between(kind, -(10**6), 10**6)
        options["choices"] = metadata.get("choices")
    command.add_argument("--" + name.replace("_", "-"), **options)


_OPTIONS = {
    "sync": _sync,
    "backfill": _backfill,
    "list": _list,
    "fetch": _fetch,
    "reconcile": _reconcile,
    "status": _status,
    "sql": _sql,
    "export": _export,
    "restore": _restore,
    "sandbox": _sandbox,
}


def _between(kind: Callable[[str], Any], low: float, high: float) -> Callable[[str], Any]:
    """An argument type: a number from `low` to `high`."""

    def checked(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from {low:,} to {high:,}")
        return number

    return checked
