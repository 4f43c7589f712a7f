"""Failures of one clear line each, and `redact`, which keeps secrets out of it. Exits: __main__."""

from __future__ import annotations

import re

_SECRETS: set[str] = set()
# A phone number as it is written or as it stands in a URL; an e-mail address likewise.
_PERSONAL = re.compile(r"(?:\+|%2B)\d{5,15}|[\w.%+-]+(?:@|%40)[\w-]+(?:\.[\w-]+)+", re.IGNORECASE)


class Failure(Exception):
    """The run failed: one line that says what and what to do. Exit code 1."""

    exit_code = 1


class Misuse(Failure):
    """Wrong usage or configuration, or refused credentials. Exit code 2."""

    exit_code = 2


class Unreadable(Failure):
    """A 200 whose body is not what was asked for: a proxy's page, or an answer cut off."""


def keep_secret(value: str) -> None:
    """Has `redact` blank out `value` from now on."""
    if value:
        _SECRETS.add(value)


def first_line(error: BaseException) -> str:
    """What went wrong without dlt's and DuckDB's advice below it."""
    return str(error).strip().partition("\n")[0]


def advised(text: str) -> str:
    """A reason, and what to do about it where that is known."""
    full = re.search("No space left|File too large|disk is full|quota exceeded", text)
    return f"{text}: what is stored is kept, free some space and run again" if full else text


def masked(text: str) -> str:
    """What others wrote, on one line, without what may be a phone number even if it lacks a +."""
    plain = re.sub(r"\d{7,}", "[redacted]", redact(" ".join(text.split())))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)  # no escape sequences


def redact(text: str) -> str:
    """`text` without credentials, phone numbers and e-mail addresses."""
    for secret in sorted(_SECRETS, key=len, reverse=True):  # one may be part of another
        text = text.replace(secret, "[secret]")
    return _PERSONAL.sub("[redacted]", text)
