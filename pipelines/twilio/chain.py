"""Checks each `next_page_url` of a chain before it is followed. Sends nothing itself."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from urllib.parse import SplitResult, parse_qsl, urlsplit

import pendulum

from pipelines.errors import Failure
from pipelines.twilio.decode import Page
from pipelines.twilio.filters import PARAMETERS
from pipelines.twilio.query import DATES, ListQuery


class Chain:
    """The links of one list, from the first page to the end."""

    def __init__(self, query: ListQuery, base: SplitResult) -> None:
        self._asked, self._base = query.parameters(), base
        self._links: set[tuple[tuple[str, str], ...]] = set()
        self._sids: set[str] = set()

    def after(self, page: Page) -> str | None:
        """The URL of the page after `page`, the one read last; None at the end.

        Raises Failure unless it goes on with what was asked, of the same host, towards an end.
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
            raise _misled("is no address") from None
        if leads_away:
            where = f"{parts.scheme}://{parts.hostname}:{parts.port or ''}".rstrip(":")
            raise _misled(
                f"leads away from {self._base.scheme}://{self._base.netloc} to {where}, where the "
                "credentials do not belong"
            )
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        for name in given.keys() & {*PARAMETERS, *DATES}:
            if not _same(name, self._asked.get(name), given[name]):
                raise _misled(f"changes {name}, so what follows is not what was asked for")
        self._check_progress(given, page.sids)
        return url

    def _check_progress(self, given: dict[str, str], sids: AbstractSet[str]) -> None:
        # Without its number, so that a chain cannot go round while counting on.
        link = tuple(sorted((name, value) for name, value in given.items() if name != "Page"))
        if link in self._links:
            raise _misled("leads in a circle, so the end of the list is out of reach")
        if sids and sids <= self._sids:
            raise _misled("loops: a page brought only attempts of earlier ones")
        self._links.add(link)
        self._sids |= sids


def _misled(how: str) -> Failure:
    return Failure(
        f"next_page_url {how}; nothing of this list is recorded: run again, and if it stays so, "
        "report it to Twilio"
    )


def origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """What credentials are for; ports by their schemes."""
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _same(name: str, asked: str | None, given: str) -> bool:
    """Whether a parameter means the same, in whatever spelling the API gives it back."""
    if asked is None or name not in DATES:
        return asked is not None and asked.lower() == given.lower()
    try:
        return pendulum.parse(given) == pendulum.parse(asked)
    except (ValueError, TypeError):
        return False
