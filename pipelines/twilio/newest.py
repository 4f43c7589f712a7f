"""The newest attempts of a window, whether the API lists them first or last. Paging: client."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.twilio.client import Client
from pipelines.twilio.decode import Page
from pipelines.twilio.filters import NO_FILTERS, Filters
from pipelines.twilio.limits import MAX_PAGE_SIZE, RETENTION

_TELLING = 50  # attempts a page; a page of one attempt would not show the API's order


def newest(
    client: Client,
    after: datetime | None = None,
    before: datetime | None = None,
    filters: Filters = NO_FILTERS,
    limit: int = 1,
) -> list[Page]:
    """Pages that hold the newest `limit` attempts of the window, or all of it if it has fewer.

    If the first pages show that the API lists the newest first, these pages are the answer.
    Otherwise shorter windows with the same end are read, until one holds `limit` to twice as many.
    That usually takes 2 to 6 of them, and 25 if all attempts are in one second of 30 days.
    """
    found = client.read(after, before, filters, limit=limit, page_size=max(limit, _TELLING))
    if _is_whole(found) or _is_newest_first(found):
        return found
    end = before or client.clock()
    # Seconds before the end: the last `short` have too few attempts, the last `long` too many.
    short, long = 1.0, (end - after if after else RETENTION).total_seconds()
    while long - short > 1:  # the geometric mean: as likely a minute or an hour as a week
        seconds = math.sqrt(short * long)
        start = end - timedelta(seconds=seconds)
        found = client.read(start, before, filters, limit=2 * limit, page_size=MAX_PAGE_SIZE)
        if not _is_whole(found):
            long = seconds
        elif len(set().union(*(page.sids for page in found))) < limit:
            short = seconds
        else:
            return found
    return client.read(end - timedelta(seconds=long), before, filters)


def _is_whole(pages: Sequence[Page]) -> bool:
    """Whether the last page is the end of the list."""
    return not pages[-1].next_page_url


def _is_newest_first(pages: Sequence[Page]) -> bool:
    """Whether no attempt is newer than the one before it, and they are not all of one second."""
    created = pa.chunked_array([page.attempts["date_created"].combine_chunks() for page in pages])
    earlier, later = created[:-1], created[1:]
    return bool(
        len(created)
        and created[0].as_py() > created[-1].as_py()
        and pc.all(pc.greater_equal(earlier, later)).as_py()
    )
