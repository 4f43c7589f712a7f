"""Options that several commands share, and argument types. One command's own: its module."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any, NoReturn

from pipelines.errors import Misuse, masked
from pipelines.interrupt import INTERRUPTED

TEXT, JSON = "text", "json"
TABLE = "table"
FORMATS = (TABLE, "csv", "json")  # of query results
_AGO = re.compile(r"(\d{1,4}) (minute|hour|day|week)s? ago")


class Parser(argparse.ArgumentParser):
    """argparse's parser, but error messages do not repeat possible phone numbers."""

    def error(self, message: str) -> NoReturn:
        super().error(masked(message))


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds the options of a command that locks the warehouse."""
    parser.set_defaults(interrupted=INTERRUPTED)
    parser.add_argument(
        "--wait",
        type=between(float, 0, 86_400),
        metavar="SECONDS",
        help="how long to wait for another run on the same warehouse (default: 0)",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print nothing when all is well, for cron"
    )
    parser.add_argument("--log-format", choices=(TEXT, JSON), help="json: one JSON object per line")


def add_window(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    parser.add_argument(
        "--after",
        help=f"{prefix}created after this time: a date, a date and time (UTC unless it has a "
        "zone), today, yesterday, '6 hours ago', '2 days ago', '1 week ago'",
    )
    parser.add_argument(
        "--before", help="created before this time, in the same form (default: now)"
    )


def add_format(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", choices=FORMATS, default=TABLE)


def instant(text: str | None, now: datetime, option: str) -> datetime | None:
    """Parses an ISO date or date and time (UTC unless it has a zone), `yesterday`, `2 days ago`.

    Returns an aware datetime, or None for None. Raises Misuse if `text` is not a time.
    """
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
        if re.match(r"20\d\d-\d\d-\d\d", plain):  # a time alone is ambiguous
            import pendulum

            parsed = pendulum.parse(text.strip(), tz="UTC")
    except (ValueError, TypeError, OverflowError):
        pass
    if not isinstance(parsed, datetime):
        raise Misuse(
            f"{option}: '{masked(text)}' is not a time; write 2026-11-23, "
            "2026-11-23T08:00:00-05:00, today, yesterday, '6 hours ago' or '2 days ago'"
        )
    return datetime.fromtimestamp(parsed.timestamp(), timezone.utc)  # not pendulum's zone


def between(kind: Callable[[str], Any], low: float, high: float) -> Callable[[str], Any]:
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
