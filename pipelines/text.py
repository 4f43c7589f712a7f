"""Counts, durations and commands as people read and type them. Knows no Twilio and no DuckDB."""

from __future__ import annotations

import re
from datetime import timedelta
from math import ceil
from pathlib import Path

BAR = "bar"  # a logger of ours that is silent where no progress bar is wanted
_AGE = re.compile(r"(\d{1,7})\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


def duration(seconds: float) -> str:
    """In words, as exact as a plan needs to be: `40 s`, `10 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{ceil(seconds)} s"
    minutes = ceil(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def length_of(text: str) -> timedelta:
    """A length of time such as 15m or 26h; raises ValueError for what is none."""
    match = _AGE.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise ValueError(f"'{text}' is no length of time; write '90s', '15m', '26h' or '3d'")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def typed(command: str, *words: str, query: str = "") -> str:
    """What a person types for a command: `make sync` in a checkout, else `verify-sync sync`."""
    if (Path(__file__).parents[1] / "Makefile").exists():
        arguments = f"ARGS={' '.join(words)}" if words else ""
        parts = ["make", command, arguments, f'QUERY="{query}"' if query else ""]
    else:
        parts = ["verify-sync", command, *words, f'"{query}"' if query else ""]
    return " ".join(filter(None, parts))
