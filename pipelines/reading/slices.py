"""Reads slices in threads, a bounded number of pages ahead of loading. Cutting: sizing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pyarrow as pa

from pipelines import interrupt
from pipelines.errors import Failure
from pipelines.reading.defaults import CONCURRENCY
from pipelines.reading.package import SliceRead
from pipelines.reading.progress import Progress
from pipelines.reading.sizing import MOST_PAGES, USUAL_PAGES, Slice
from pipelines.twilio.client import Client
from pipelines.twilio.decode import within
from pipelines.twilio.filters import NO_FILTERS, Filters
from pipelines.twilio.limits import SECOND

PACKAGE_PAGES = 100  # the most pages of a package; any load costs 0.2 CPU s, so avoid small ones
ENOUGH_PAGES = PACKAGE_PAGES - MOST_PAGES  # load now: one more slice still fits
_IDLE = 1.0  # load if the rate limit blocks requests for more seconds than this


def batches(
    client: Client,
    slices: Iterable[Slice],
    filters: Filters = NO_FILTERS,
    concurrency: int = CONCURRENCY,
    progress: Progress | None = None,
) -> Iterator[list[SliceRead]]:
    """Reads `concurrency` slices at a time, in order; yields complete slices for one load package.

    A batch counts as loaded when the caller asks for the next one. At most 75 pages plus 18 per
    chain are being read, or are read but not loaded. So much is in memory, and is read again after
    a kill. If reading fails or is interrupted, complete slices are yielded before the exception.
    """
    readers = _Readers(client, filters, concurrency, progress or Progress(client))
    try:
        yield from readers.batches(iter(slices))
    except (Exception, KeyboardInterrupt):  # also for an error of a library, or of our own
        readers.stop()
        rest = readers.complete()
        if rest:
            yield rest
        raise
    finally:
        readers.stop()


class _Chain:
    """A slice that is being read or was read. `pages` is Twilio's count, later the real number."""

    def __init__(
        self, pool: ThreadPoolExecutor, read: Callable[[_Chain], SliceRead], slice_: Slice
    ) -> None:
        self.window, self.pages = slice_.window, slice_.pages
        self.read = pool.submit(read, self)


class _Readers:
    """The threads, and their slices that are not loaded yet."""

    def __init__(
        self, client: Client, filters: Filters, concurrency: int, progress: Progress
    ) -> None:
        self._client, self._filters, self._progress = client, filters, progress
        self._most = ENOUGH_PAGES + USUAL_PAGES * concurrency
        self._pool = ThreadPoolExecutor(concurrency)
        self._stopped = threading.Event()
        self._failure: Exception | None = None  # the first one: it makes the other chains end
        self._chains: list[_Chain] = []
        self._has_loaded = False

    def batches(self, slices: Iterator[Slice]) -> Iterator[list[SliceRead]]:
        following = next(slices, None)
        while following or self._chains:
            ready = self._ready()
            if following and self._has_room_for(following):
                self._chains.append(_Chain(self._pool, self._read, following))
                following = next(slices, None)
            elif ready and (len(ready) == len(self._chains) or self._is_time(ready, following)):
                yield [chain.read.result() for chain in ready]
                self._has_loaded = True
                self._chains = [chain for chain in self._chains if chain not in ready]
            else:
                unfinished = [chain.read for chain in self._chains if not chain.read.done()]
                wait(unfinished, timeout=1, return_when=FIRST_COMPLETED)
                interrupt.check()
                self._progress.tick()

    def complete(self) -> list[SliceRead]:
        """All slices that are complete but not loaded, even if others failed."""
        reads = (chain.read for chain in self._chains if chain.read.done())
        return [read.result() for read in reads if not read.cancelled() and not read.exception()]

    def _is_time(self, ready: list[_Chain], following: Slice | None) -> bool:
        """Whether to load now: there is enough for a package, or the rate limit blocks requests.

        At the end less is enough, so that the last load is short. But a usual sync is one package,
        because each load scans all keys.
        """
        is_ending = self._has_loaded and not following
        enough = MOST_PAGES if is_ending else ENOUGH_PAGES
        return _pages(ready) >= enough or self._client.seconds_for(1) > _IDLE

    def _has_room_for(self, slice_: Slice) -> bool:
        held = _pages(self._chains)
        return not held or held + slice_.pages <= self._most

    def stop(self) -> None:
        """Ends all chains after their current request. Does not wait for that."""
        self._stopped.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _ready(self) -> list[_Chain]:
        """Complete slices, up to a package. Older slices may still be incomplete: otherwise one
        slow chain would keep all later slices in memory, and soon stop the other chains."""
        ready: list[_Chain] = []
        for chain in self._chains:
            if chain.read.done() and _pages(ready) < ENOUGH_PAGES:
                ready.append(chain)
        if self._failure:
            raise self._failure
        return ready

    def _read(self, chain: _Chain) -> SliceRead:
        try:
            self._check_stopped()
            return self._paged(chain)
        except Exception as error:
            self._failure = self._failure or error
            self._stopped.set()  # set here: this thread would begin the next slice at once
            raise

    def _check_stopped(self) -> None:
        if self._stopped.is_set():
            raise Failure("given up, because the run has ended")

    def _paged(self, chain: _Chain) -> SliceRead:
        """Reads one slice. Asks for 1 s more on each side: the API may exclude its bounds."""
        window, read_at = chain.window, self._client.clock()

        def watch(pages: int, attempts: int) -> None:
            chain.pages = max(chain.pages, pages)
            self._progress.page(window, attempts)
            self._check_stopped()

        after, before = window.after - SECOND, window.before + SECOND
        pages = self._client.read(after, before, self._filters, watch=watch)
        chain.pages = len(pages)  # the real number replaces the estimate
        attempts = [within(page.attempts, window.after, window.before) for page in pages]
        read = SliceRead(
            self._client.account_sid,
            self._filters.hash,
            window,
            read_at,
            pa.concat_tables(attempts),
            pa.concat_tables([page.rejected for page in pages]),
            len(pages),
        )
        self._progress.slice(window, read.attempts.num_rows)
        return read


def _pages(chains: Iterable[_Chain]) -> int:
    return sum(chain.pages for chain in chains)
