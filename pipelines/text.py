"""Counts, durations and commands as text for people. No Twilio, no DuckDB."""

from __future__ import annotations

import re
from datetime import timedelta
from math import ceil
from pathlib import Path

BAR = "bar"  # a child logger: set to WARNING, it turns the progress bar off
_AGE = re.compile(r"(\d{1,7})\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


def duration(seconds: float) -> str:
    """Seconds as text, rounded up: `40 s`, `10 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{ceil(seconds)} s"
    minutes = ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def length_of(text: str) -> timedelta:
    """Parses a length of time such as 15m or 26h. Raises ValueError for anything else."""
    match = _AGE.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise ValueError(f"'{text}' is not a length of time; write '90s', '15m', '26h' or '3d'")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def typed(command: str, *words: str, query: str = "") -> str:
    """The line to type for a command: `make sync` in a checkout, else `verify-sync sync`."""
    if (Path(__file__).parents[1] / "Makefile").exists():
        arguments = f"ARGS={' '.join(words)}" if words else ""
        parts = ["make", command, arguments, f'QUERY="{query}"' if query else ""]
    else:
        parts = ["verify-sync", command, *words, f'"{query}"' if query else ""]
    return " ".join(filter(None, parts))
