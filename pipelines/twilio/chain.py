"""Checks each `next_page_url` before the client follows it. Sending: transport."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from urllib.parse import SplitResult, parse_qsl, urlsplit

import pendulum

from pipelines.errors import Failure
from pipelines.twilio.decode import Page
from pipelines.twilio.filters import PARAMETERS
from pipelines.twilio.query import DATES, ListQuery


class Chain:
    """Checks the page links of one list request, from its first page to its last."""

    def __init__(self, query: ListQuery, base: SplitResult) -> None:
        self._asked, self._base = query.parameters(), base
        self._links: set[tuple[tuple[str, str], ...]] = set()
        self._sids: set[str] = set()

    def after(self, page: Page) -> str | None:
        """The URL of the next page; `page` is the one read last. None after the last page.

        Raises Failure if the URL leads to another host, changes a parameter of the request, or
        repeats earlier pages.
        """
        url = page.next_page_url
        if url is None or url == "":
            return None
        try:
            parts = urlsplit(str(url))
            if not parts.scheme or not isinstance(url, str):
                raise ValueError
            leads_away = origin(parts) != origin(self._base)
        except ValueError:
            raise _misled("is not a URL") from None
        if leads_away:
            where = f"{parts.scheme}://{parts.hostname}:{parts.port or ''}".rstrip(":")
            raise _misled(
                f"leads away from {self._base.scheme}://{self._base.netloc} to {where}, and "
                "credentials must not be sent there"
            )
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        for name in given.keys() & {*PARAMETERS, *DATES}:
            if not _same(name, self._asked.get(name), given[name]):
                raise _misled(f"changes {name}, so it does not continue the requested list")
        self._check_progress(given, page.sids)
        return url

    def _check_progress(self, given: dict[str, str], sids: AbstractSet[str]) -> None:
        # Leave out the page number: it could go on counting while the pages repeat.
        link = tuple(sorted((name, value) for name, value in given.items() if name != "Page"))
        if link in self._links:
            raise _misled("leads in a circle, so the list would never end")
        if sids and sids <= self._sids:
            raise _misled("loops: the last page has only attempts of earlier pages")
        self._links.add(link)
        self._sids |= sids


def _misled(how: str) -> Failure:
    return Failure(
        f"next_page_url {how}; nothing of this list is stored: run again, and report it to Twilio "
        "if it happens again"
    )


def origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """Scheme, host and port, which credentials belong to. Without a port, the scheme's default."""
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _same(name: str, asked: str | None, given: str) -> bool:
    """Whether the link has the value that was sent. The API may spell it differently."""
    if asked is None or name not in DATES:
        return asked is not None and asked.lower() == given.lower()
    try:
        return pendulum.parse(given) == pendulum.parse(asked)
    except (ValueError, TypeError):
        return False
