"""Where credentials may be sent: `base_url`, and no other host. Links to pages: chain."""

from __future__ import annotations

import re
from typing import NamedTuple

from pipelines.errors import Misuse
from pipelines.twilio.limits import DEFAULT_BASE_URL

_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}
_PORTS = {"http": 80, "https": 443}
# Only what all programs read in the same way: no user, no backslash, no control character, ASCII.
_ODD = r"\\\x00-\x20\x7f-\U0010ffff"
_URL = re.compile(
    r"(?P<scheme>https?)://(?P<host>\w(?:[\w.-]*\w)?|\[[0-9a-f:.]+\])(?::(?P<port>\d{1,5}))?"
    rf"(?P<path>/[^?#{_ODD}]*)?"
    rf"(?:\?(?P<query>[^#{_ODD}]*))?(?:#[^{_ODD}]*)?",
    re.ASCII | re.IGNORECASE,
)


class Base(NamedTuple):
    """Scheme, host and port in lower case, and the path without a slash at its end."""

    scheme: str
    host: str
    port: int
    path: str = ""

    @property
    def origin(self) -> str:
        """What credentials belong to: `https://verify.twilio.com`, with a port if unusual."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        return self.host if self.port == _PORTS[self.scheme] else f"{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether the host is this machine."""
        return self.host in _LOOPBACK

    def __str__(self) -> str:
        return self.origin + self.path


def checked_base(url: str) -> Base:
    """A base_url in parts. Raises Misuse if credentials must not be sent to it."""
    base, query = split_url(url) or (None, "")
    if base is None or query:
        raise Misuse(f"base_url is not a URL such as {DEFAULT_BASE_URL}")
    if base.scheme == "http" and not base.is_local:
        raise Misuse("base_url must be https: plain http is allowed to loopback only")
    return base


def split_url(url: str) -> tuple[Base, str] | None:
    """The parts of a URL and its query; None if it is not a plain URL."""
    found = _URL.fullmatch(url)
    if found is None:
        return None
    scheme, host = found["scheme"].lower(), found["host"].lower()
    port = int(found["port"] or _PORTS[scheme])
    has_labels = host[0] == "[" or all(0 < len(label) < 64 for label in host.split("."))
    if not has_labels or not 0 < port < 2**16:
        return None
    return Base(scheme, host, port, (found["path"] or "").rstrip("/")), found["query"] or ""
