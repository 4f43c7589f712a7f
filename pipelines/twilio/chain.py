"""Checks each `next_page_url`, and takes from it only its parameters. Sending: transport."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from urllib.parse import parse_qsl

import pendulum

from pipelines.errors import Failure
from pipelines.twilio.base_url import Base, split_url
from pipelines.twilio.decode import Page
from pipelines.twilio.filters import PARAMETERS
from pipelines.twilio.query import DATES, ListQuery

_LONGEST = 10_000  # characters of a URL
_MOST_PARAMETERS = 100


class Chain:
    """Checks the page links of one list request, from its first page to its last."""

    def __init__(self, query: ListQuery, base: Base) -> None:
        self._asked, self._base = query.parameters(), base
        self._links: set[tuple[tuple[str, str], ...]] = set()
        self._sids: set[str] = set()

    def after(self, page: Page) -> dict[str, str] | None:
        """The parameters of the next page; `page` is the one read last. None after the last page.

        They are sent to our own URL: programs read a strange URL in different ways, and credentials
        must not go where it leads. Raises Failure if the link leads to another host, changes a
        parameter of the request, or repeats earlier pages.
        """
        url = page.next_page_url
        if url is None or url == "":
            return None
        link = split_url(url) if isinstance(url, str) and len(url) <= _LONGEST else None
        if link is None:
            raise _misled("is not a URL")
        base, query = link
        if base.origin != self._base.origin:
            raise _misled(
                f"leads away from {self._base.origin} to {base.origin}, and credentials must not "
                "be sent there"
            )
        try:
            given = dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS))
        except ValueError:
            raise _misled("has too many parameters") from None
        for name in given.keys() & {*PARAMETERS, *DATES}:
            if not _same(name, self._asked.get(name), given[name]):
                raise _misled(f"changes {name}, so it does not continue the requested list")
        self._check_progress(given, page.sids)
        return given

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


def _same(name: str, asked: str | None, given: str) -> bool:
    """Whether the link has the value that was sent. The API may spell it differently."""
    if asked is None or name not in DATES:
        return asked is not None and asked.lower() == given.lower()
    try:
        return pendulum.parse(given) == pendulum.parse(asked)
    except (ValueError, TypeError):
        return False
