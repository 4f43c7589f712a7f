"""Counts, durations and commands as text for people; text of small files. No Twilio, no DuckDB."""

from __future__ import annotations

import re
import stat
from datetime import timedelta
from math import ceil
from pathlib import Path

from pipelines.errors import Failure

BAR = "bar"  # a child logger: set to WARNING, it turns the progress bar off
_MOST_BYTES = 2**20  # of a file
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


def text_of(file: Path) -> str:
    """Returns the file's text. Raises Failure if it is not UTF-8, or as `content_of`."""
    try:
        text = content_of(file).decode("utf-8-sig")  # some editors write a byte order mark
    except UnicodeDecodeError:
        raise Failure("the file is not UTF-8") from None
    return text.replace("\r\n", "\n")  # as Windows writes it


def content_of(file: Path) -> bytes:
    """Returns the file's bytes. Raises Failure if it is not a regular file (reading a named pipe
    would wait for ever), too large or unreadable."""
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise Failure("it is not a regular file")
        if found.st_size > _MOST_BYTES:
            raise Failure("the file is larger than 1 MB")
        return file.read_bytes()
    except OSError as error:
        raise Failure(str(error.strerror)) from None
