"""Failures with a one-line message, and `redact`, which removes secrets. Exiting: __main__."""

from __future__ import annotations

import re

_SECRETS: set[str] = set()
# Phone numbers and e-mail addresses, plain or as in a URL.
_PERSONAL = re.compile(r"(?:\+|%2B)\d{5,15}|[\w.%+-]+(?:@|%40)[\w-]+(?:\.[\w-]+)+", re.IGNORECASE)


class Failure(Exception):
    """The run failed. The message is one line: what happened and what to do. Exit code 1."""

    exit_code = 1


class Misuse(Failure):
    """Wrong usage or configuration, or refused credentials. Exit code 2."""

    exit_code = 2


class Unreadable(Failure):
    """A 200 with an unexpected body, such as a proxy's page or an answer that was cut off."""


def keep_secret(value: str) -> None:
    """Makes `redact` remove `value` from now on."""
    if value:
        _SECRETS.add(value)


def first_line(error: BaseException) -> str:
    """The first line of an error: dlt and DuckDB add advice below it."""
    return str(error).strip().partition("\n")[0]


def advised(text: str) -> str:
    """`text`, the reason of a failure. If the disk is full, adds what to do."""
    full = re.search("No space left|File too large|disk is full|quota exceeded", text)
    return f"{text}: stored data is kept, free some space and run again" if full else text


def masked(text: str) -> str:
    """Text from outside, on one line: redacted, also without phone numbers that lack a +."""
    plain = re.sub(r"\d{7,}", "[redacted]", redact(" ".join(text.split())))
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)  # no escape sequences


def redact(text: str) -> str:
    """`text` without credentials, phone numbers and e-mail addresses."""
    for secret in sorted(_SECRETS, key=len, reverse=True):  # one may be part of another
        text = text.replace(secret, "[secret]")
    return _PERSONAL.sub("[redacted]", text)
