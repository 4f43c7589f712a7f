"""Cuts windows into slices by Twilio's own counts. Reading the slices: slices."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import timedelta
from itertools import pairwise
from math import ceil
from typing import NamedTuple

from pipelines.errors import Failure, Misuse
from pipelines.reading.defaults import CONCURRENCY
from pipelines.reading.windows import Window, cut
from pipelines.twilio.client import HEAVY_TRIES, Client
from pipelines.twilio.filters import NO_FILTERS, Filters

MOST_PAGES = 25  # the most pages of a slice; after a failure it is read again from its start
USUAL_PAGES = 18  # the target of a slice: below the most, as attempts are not spread evenly
LAST_PAGES = 3  # the target at the end: small slices let all chains end together
_DAY = timedelta(days=1)  # the length of slices where Twilio gives no count
_LONG = timedelta(hours=36)  # longer windows are counted, whatever the rate so far
_MOST_OF_PARTS = 1.5  # times the whole; attempts that are new or on a bound may count twice
_GROWTH = 4  # a window that fits a slice at so many times the rate so far is not counted

log = logging.getLogger("verify_sync")


def may_exceed_slice(window: Window, rate: float | None, page_size: int) -> bool:
    """Whether the window may hold more than MOST_PAGES. `rate` is the highest rate so far, in
    attempts a second."""
    length = window.before - window.after
    likely = _GROWTH * (rate or 0.0) * length.total_seconds()
    return not rate or length > _LONG or likely > MOST_PAGES * page_size


class Slice(NamedTuple):
    """A window, its attempts by Twilio's count (None: no count), and its pages by that count.

    A part of a counted window has its share of the count. Without a count `pages` is MOST_PAGES.
    """

    window: Window
    attempts: int | None
    pages: int


class Sizing:
    """Counts windows by the Summary and cuts them for `concurrency` chains; a context manager.

    `rate` is the highest rate so far, in attempts a second; None if unknown. A window that fits a
    slice by this rate is not counted. If the Summary fails or does not know a filter, windows are
    cut and read without a count.
    """

    def __init__(
        self,
        client: Client,
        filters: Filters = NO_FILTERS,
        concurrency: int = CONCURRENCY,
        rate: float | None = None,
    ) -> None:
        self.client = client
        self._filters, self._rate = filters, rate
        self._concurrency = concurrency
        self._pool = ThreadPoolExecutor(concurrency)
        self._budget = 0  # Summaries that `cut` may still request
        self._promised = 0  # attempts in the slices so far, by Twilio's count
        # Attempts that may be promised ahead of reading. The client's page size may get smaller.
        self._ahead = (4 * MOST_PAGES + USUAL_PAGES * concurrency) * client.page_size
        self._is_distrusted = False

    def __enter__(self) -> Sizing:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def measured(self, windows: Iterable[Window], every: bool = False) -> list[Slice]:
        """The windows in order. Counts those that may exceed a slice, or `every` one."""
        windows = list(windows)
        asked = [window for window in windows if self.asks(window, every)]
        counted = {slice_.window: slice_ for slice_ in self._counted(asked)}
        measured = []
        for window in windows:
            slice_ = counted.get(window)
            is_unknown = slice_ is not None and slice_.attempts is None
            measured += (
                self._by_day(window) if is_unknown else [slice_ or self._slice(window, None)]
            )
        return measured

    def _by_day(self, window: Window) -> list[Slice]:
        """Cuts a window that Twilio did not count into days: it may be too large to count."""
        first, *others = cut(window, ceil((window.before - window.after) / _DAY))
        slices = [self._count(first)]
        if slices[0].attempts is None:
            return [*slices, *(self._slice(other, None) for other in others)]
        return [*slices, *self._counted(others)]

    def cut(self, measured: Iterable[Slice]) -> Iterator[Slice]:
        """Slices of at most MOST_PAGES by Twilio's count, in order; counts a few slices ahead.

        No slice has more pages than one chain's share of what is left. So slices get smaller, and
        all chains end together. A slice of at most MOST_PAGES is cut without counting its parts.
        """
        slices = list(measured)
        # Uneven windows are cut more than once. The budget ends that if the counts make no sense.
        self._budget = 50 + 4 * sum(ceil(slice_.pages / USUAL_PAGES) for slice_ in slices)
        left = _pages(slices)
        for whole in slices:
            end = whole.window.after
            for part in self._trusted(whole, left):
                yield part
                end = part.window.before
            if end < whole.window.before:
                yield from self._uncounted(Window(end, whole.window.before))
            left -= whole.pages

    def asks(self, window: Window, every: bool = False) -> bool:
        """Whether Twilio is asked to count this window."""
        is_large = may_exceed_slice(window, self._rate, self.client.page_size)
        return (every or is_large) and self._filters.are_summarised

    def requests(self, slices: Iterable[Slice]) -> int:
        """About how many requests it takes to read the slices; 1 for a slice without a count."""
        found = 0
        for slice_ in slices:
            found += 1 if slice_.attempts is None else slice_.pages
            if slice_.pages > MOST_PAGES:  # a Summary per slice, and half a page at its end
                found += ceil(1.5 * slice_.pages / USUAL_PAGES) + self._concurrency
        return found

    def _trusted(self, whole: Slice, left: int) -> Iterator[Slice]:
        """The slices of a window, as long as Twilio's counts make sense. `left` pages are left.

        Each slice costs a request, even an empty one. So Twilio may not count far more attempts
        than it lists. Slices that are being read, or will be soon, are not listed yet.
        """
        for slice_ in () if self._is_distrusted else self._cut(whole):
            for part in _parts(slice_, max(LAST_PAGES, left / self._concurrency)):
                if self._promised > self._ahead + _GROWTH * self.client.attempts:
                    self._distrust()
                    return
                self._promised += part.attempts or 0
                yield part
            left -= slice_.pages

    def _distrust(self) -> None:
        if not self._is_distrusted:
            log.info("Twilio's counts make no sense: reading without them")
        self._is_distrusted = True

    def _uncounted(self, window: Window) -> list[Slice]:
        """The window in days, as if Twilio gave no counts."""
        days = cut(window, ceil((window.before - window.after) / _DAY))
        return [self._slice(day, None) for day in days]

    def _cut(self, slice_: Slice) -> Iterator[Slice]:
        parts = cut(slice_.window, ceil(slice_.pages / USUAL_PAGES))
        if slice_.attempts is None or slice_.pages <= MOST_PAGES or len(parts) == 1:
            yield slice_
            return
        if self._budget < len(parts):
            self._distrust()
            yield from self._uncounted(slice_.window)
            return
        self._budget -= len(parts)
        joined: Slice | None = None
        found = 0
        for part in self._counted(parts):
            found += part.attempts or 0
            if found > _MOST_OF_PARTS * slice_.attempts:  # as if it ignored the dates
                self._distrust()
                begin = (joined or part).window.after
                yield from self._uncounted(Window(begin, slice_.window.before))
                return
            both = self._joined(joined, part)
            if joined is not None and both.pages > USUAL_PAGES:
                yield from self._cut(joined)
                both = part
            joined = both
        if joined is not None:
            yield from self._cut(joined)

    def _counted(self, windows: Iterable[Window]) -> Iterator[Slice]:
        asked: deque[Future[Slice]] = deque()
        for window in windows:
            asked.append(self._pool.submit(self._count, window))
            if len(asked) > self._concurrency:
                yield _heedful(asked.popleft())
        while asked:
            yield _heedful(asked.popleft())

    def _count(self, window: Window) -> Slice:
        try:
            summary = self.client.summary(window.after, window.before, self._filters, HEAVY_TRIES)
        except Misuse:
            raise
        except Failure as failure:
            log.info("no count from Twilio, reading without it: %s", failure)
            return self._slice(window, None)
        return self._slice(window, summary.attempts)

    def _joined(self, before: Slice | None, slice_: Slice) -> Slice:
        """Two adjacent slices as one; with MOST_PAGES pages if one of them has no count."""
        if before is None:
            return slice_
        window = Window(before.window.after, slice_.window.before)
        if before.attempts is None or slice_.attempts is None:
            return self._slice(window, None)
        return self._slice(window, before.attempts + slice_.attempts)

    def _slice(self, window: Window, attempts: int | None) -> Slice:
        if attempts is None:
            return Slice(window, None, MOST_PAGES)
        return Slice(window, attempts, max(1, ceil(attempts / self.client.page_size)))


def _heedful(future: Future[Slice]) -> Slice:
    """Its result. Waits 1 s at a time: a signal just before a wait does not end that wait."""
    while not future.done():
        wait([future], timeout=1)
    return future.result()


def _parts(slice_: Slice, pages: float) -> list[Slice]:
    """Cuts the slice into parts of about `pages` pages; not at all if it has no count."""
    windows = cut(slice_.window, max(1, round(slice_.pages / pages)))
    if slice_.attempts is None or len(windows) == 1:
        return [slice_]
    shares = [slice_.attempts * part // len(windows) for part in range(len(windows) + 1)]
    most = ceil(slice_.pages / len(windows))
    return [
        Slice(window, end - start, most)
        for window, (start, end) in zip(windows, pairwise(shares), strict=True)
    ]


def _pages(slices: Iterable[Slice]) -> int:
    return sum(slice_.pages for slice_ in slices)
