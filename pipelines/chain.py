"""A chain of pages: what is asked, and whether each next page goes on with just that."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from urllib.parse import SplitResult, parse_qsl, urlsplit

import pendulum
import pyarrow as pa
import pyarrow.compute as pc

from pipelines.decode import Page
from pipelines.errors import Failure
from pipelines.filters import NO_FILTERS, PARAMETERS, Filters

_DATES = ("DateCreatedAfter", "DateCreatedBefore")
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True)
class Question:
    """What is asked of the list endpoint. Bounds are aware; None = open."""

    after: datetime | None = None
    before: datetime | None = None
    filters: Filters = NO_FILTERS

    def parameters(self) -> dict[str, str]:
        """Whole seconds that hold the window: fractions widen it."""
        bounds = {}
        if self.after is not None:
            bounds["DateCreatedAfter"] = format_instant(self.after)
        if self.before is not None:
            up = _SECOND if self.before.microsecond else timedelta()
            bounds["DateCreatedBefore"] = format_instant(self.before + up)
        return {**self.filters.parameters(), **bounds}

    def check(self, attempts: pa.Table) -> None:
        """Raises Failure for attempts of another window or filter than was asked for."""
        self.filters.check(attempts)
        if not attempts.num_rows:
            return
        created = pc.min_max(attempts["date_created"]).as_py()
        early = self.after is not None and created["min"] < self.after - 2 * _SECOND
        if early or (self.before is not None and created["max"] > self.before + 2 * _SECOND):
            raise Failure(
                "Twilio answered with attempts of another time than was asked for: it ignores "
                "DateCreatedAfter or DateCreatedBefore, so nothing of this list is recorded; "
                "report it to Twilio"
            )


class Chain:
    """Follows `next_page_url`s from the first page to the end."""

    def __init__(self, question: Question, base: SplitResult) -> None:
        self._asked, self._base = question.parameters(), base
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
        for name in given.keys() & {*PARAMETERS, *_DATES}:
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


def format_instant(instant: datetime) -> str:
    """Whole-second UTC as the API wants it, `2026-11-23T04:00:00Z`; refuses naive datetimes."""
    if instant.tzinfo is None:
        raise ValueError("a datetime without a zone means a different instant on every machine")
    return instant.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _same(name: str, asked: str | None, given: str) -> bool:
    """Whether a parameter means the same, in whatever spelling the API gives it back."""
    if asked is None or name not in _DATES:
        return asked is not None and asked.lower() == given.lower()
    try:
        return pendulum.parse(given) == pendulum.parse(asked)
    except (ValueError, TypeError):
        return False
