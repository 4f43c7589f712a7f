"""Failures with a one-line message, and `redact`, which removes secrets. Exiting: __main__."""

from __future__ import annotations

import re

_SECRETS: set[str] = set()
SHOWN = 500  # characters that are shown of a text from outside
_LINE = 2_000  # characters that are shown of any line
# Phone numbers and e-mail addresses, plain or as in a URL. All repeats are bounded: otherwise a
# long text takes time by its square.
_PERSONAL = re.compile(
    r"(?:\+|%2B)\d{5,15}|[\w.%+-]{1,64}(?:@|%40)[\w-]{1,63}(?:\.[\w-]{1,63}){1,9}", re.IGNORECASE
)
_NUMBER = re.compile(r"([A-Z]{2}[0-9a-fA-F]{32})|\d{7,}")  # a SID, or a number without a +


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
    """Text from outside, on one line of at most 500 characters: redacted, also without phone
    numbers that lack a +, and without control characters."""
    plain = redact(cut(_without_secrets(" ".join(text.split()))))
    return printable(_NUMBER.sub(lambda found: found[1] or "[redacted]", plain))


def redact(text: str) -> str:
    """`text` without credentials, phone numbers and e-mail addresses; long lines are cut."""
    lines = (cut(line, _LINE) for line in _without_secrets(text).split("\n"))
    return _PERSONAL.sub("[redacted]", "\n".join(lines))


def cut(text: str, most: int = SHOWN) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


def printable(text: str) -> str:
    """`text` with escapes for control characters: a terminal would obey them."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _without_secrets(text: str) -> str:
    """Before anything is cut: a part of a secret is no longer found."""
    for secret in sorted(_SECRETS, key=len, reverse=True):  # one may be part of another
        text = text.replace(secret, "[secret]")
    return text
