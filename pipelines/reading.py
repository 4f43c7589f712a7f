"""Slices read by threads, in order, and put together into packages."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from pipelines.client import Client
from pipelines.decode import within
from pipelines.errors import Failure
from pipelines.filters import NO_FILTERS, Filters
from pipelines.windows import SECOND, Window

PACKAGE_ROWS = 100_000  # a load costs 0.2-0.4 CPU s whatever its size, so not many small ones
READERS = 2  # slices read at a time


@dataclass(frozen=True)
class SliceRead:
    """A slice paged to the end of its chain: `attempts` are all its rows, as `decode.SCHEMA`."""

    account_sid: str
    filters_hash: str
    window: Window
    read_at: datetime  # of the first request, or shortly before it
    attempts: pa.Table
    rejected: pa.Table
    pages: int

    def record(self) -> dict[str, object]:
        """Its row in `windows_read`."""
        return {
            "account_sid": self.account_sid,
            "filters_hash": self.filters_hash,
            "created_after": self.window.after,
            "created_before": self.window.before,
            "read_at": self.read_at,
            "attempts": self.attempts.num_rows,
            "pages": self.pages,
        }


@dataclass(frozen=True)
class Package:
    """What is loaded together: rows, and the record of the windows of which they are all."""

    attempts: pa.Table
    rejected: pa.Table
    windows_read: Sequence[dict[str, object]] = ()

    @classmethod
    def of(cls, reads: Sequence[SliceRead]) -> Package:
        # A table a package, not a page: what dlt does for each costs more than a page's rows.
        return cls(
            pa.concat_tables([read.attempts for read in reads]),
            pa.concat_tables([read.rejected for read in reads]),
            [read.record() for read in reads],
        )


def fetch(
    client: Client, pieces: Iterable[Window], filters: Filters = NO_FILTERS
) -> Iterator[SliceRead]:
    """Pages the slices and yields them in order, reading ahead of whoever takes them.

    READERS slices are read while an earlier one is loaded; no more than that are in memory.
    """
    ahead: deque[Future[SliceRead]] = deque()
    readers = ThreadPoolExecutor(READERS)
    try:
        for piece in pieces:
            ahead.append(readers.submit(_read_slice, client, piece, filters))
            if len(ahead) > READERS:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:  # not waiting for readers: one may be waiting for an answer; the client ends the rest
        readers.shutdown(wait=False, cancel_futures=True)


def _read_slice(client: Client, piece: Window, filters: Filters) -> SliceRead:
    """Asks a second wider on each side: whether the API includes its bounds is not documented."""
    read_at = client.clock()
    pages = client.read(piece.after - SECOND, piece.before + SECOND, filters)
    attempts = [within(page.attempts, piece.after, piece.before) for page in pages]
    return SliceRead(
        client.account_sid,
        filters.hash,
        piece,
        read_at,
        pa.concat_tables(attempts),
        pa.concat_tables([page.rejected for page in pages]),
        len(pages),
    )


def packages(reads: Iterable[SliceRead]) -> Iterator[list[SliceRead]]:
    """Slices in groups of about PACKAGE_ROWS attempts, in order.

    When reading fails or is interrupted, the slices that are complete come before the failure.
    """
    group: list[SliceRead] = []
    try:
        for read in reads:
            group.append(read)
            if sum(r.attempts.num_rows for r in group) >= PACKAGE_ROWS:
                yield group
                group = []
    except (Failure, KeyboardInterrupt):
        if group:
            yield group
        raise
    if group:
        yield group
