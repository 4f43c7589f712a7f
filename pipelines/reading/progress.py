"""Progress of a run: a bar on a terminal, log lines elsewhere. Reading: slices."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from math import ceil

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from pipelines.reading.sizing import MOST_PAGES, Sizing, Slice
from pipelines.reading.windows import Window
from pipelines.text import BAR, counted, duration
from pipelines.twilio.client import Client

log = logging.getLogger("verify_sync")


class Progress:
    """Shows how many attempts of `total` are read; a context manager. Thread-safe.

    Shows nothing unless `shown`. `total` is Twilio's count. If there is none (the Summary does not
    know every filter), it shows how much was read, but not how much is left.
    """

    def __init__(
        self, client: Client, total: int | None = None, shown: bool = False, requests: int = 0
    ) -> None:
        self._client, self._total, self._shown = client, total, shown
        self._requests = requests
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._done, self._slices = 0, 0
        self._reading: dict[Window, int] = {}
        self._bar: tqdm | None = None
        self._open = ExitStack()

    @classmethod
    def of(cls, slices: Sequence[Slice], sizing: Sizing, shown: bool = False) -> Progress:
        """The progress of reading `slices`. More than MOST_PAGES pages are always shown."""
        counted = [slice_ for slice_ in slices if slice_.attempts is not None]
        total = sum(slice_.attempts or 0 for slice_ in counted) if counted or not slices else None
        pages = sum(slice_.pages for slice_ in counted)
        requests = sizing.requests(slices)
        return cls(sizing.client, total, shown or pages > MOST_PAGES, requests)

    def __enter__(self) -> Progress:
        if self._shown:
            log.info("%s", self._announcement())
        if self._shown and sys.stderr.isatty() and log.getChild(BAR).isEnabledFor(logging.INFO):
            form = "{percentage:3.0f}%|{bar}| {desc}" if self._total else "{desc}"
            self._open.enter_context(logging_redirect_tqdm([log]))
            self._bar = tqdm(total=self._total, bar_format=form, mininterval=0, file=sys.stderr)
            self._open.enter_context(self._bar)
            self.tick()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.tick()
        self._open.close()

    def page(self, window: Window, attempts: int) -> None:
        """Notes how many attempts of an unfinished slice are read so far."""
        with self._lock:
            self._reading[window] = attempts
            self._draw()

    def slice(self, window: Window, attempts: int) -> None:
        """Notes that a slice is complete, and its number of attempts."""
        with self._lock:
            self._reading.pop(window, None)
            self._done, self._slices = self._done + attempts, self._slices + 1
            self._draw()
            if self._shown and self._bar is None:
                span = f"{window.after:%F %T} to {window.before:%F %T} UTC"
                held = counted(attempts, "attempt")
                log.info("%s: %s; %s%s", span, held, self._share(), self._pace())

    def loaded(self, attempts: int) -> None:
        """Logs how many attempts are loaded so far: a later failure does not lose them."""
        if self._shown:
            whole = f" of {max(self._total, attempts):,}" if self._total else ""
            log.info("loaded %s%s attempts", f"{attempts:,}", whole)

    def less(self, attempts: int) -> None:
        """Lowers the total by `attempts`: another run has read them meanwhile."""
        with self._lock:
            self._total = self._total and max(self._total - attempts, self._done)

    def tick(self) -> None:
        """Redraws the bar, so that its time left is current."""
        with self._lock:
            self._draw()

    def _left(self) -> float | None:
        """Seconds left by the rate limit or by the pace so far, the longer one; None if unknown."""
        if self._total is None:
            return None
        read = self._read()
        left = self._total - read
        if left < 0:  # there are more attempts than Twilio counted
            return None
        # Fewer than a page holds: last pages are seldom full, and Summaries are requests too.
        a_request = max(read / max(self._client.counts.requests, 1), 1) if self._done else None
        requests = ceil(left / (a_request or self._client.page_size))
        pace = (time.monotonic() - self._began) / read if read else 0.0
        return max(self._client.seconds_for(requests), left * pace)

    def _draw(self) -> None:
        if self._bar is None:
            return
        self._bar.n = self._read()
        self._bar.total = self._total and max(self._total, self._bar.n)
        with suppress(OSError):
            self._bar.ncols = os.get_terminal_size(sys.stderr.fileno()).columns or 80
        self._bar.set_description_str(f"{self._share()}{self._pace()}", refresh=False)
        self._bar.refresh(nolock=True)  # not tqdm's lock: a signal would leave it locked

    def _pace(self) -> str:
        left = self._left()
        eta = "" if left is None else f", {duration(left)} left"
        return f"{eta}, {self._client.minute()} requests/min, {counted(self._slices, 'slice')}"

    def _share(self) -> str:
        """How many attempts are read, and of how many."""
        read = self._read()
        if not self._total:
            return f"{read:,}"
        whole = max(self._total, read)
        share = f"{read:,} of {whole:,}"
        return share if self._bar else f"{share} ({read / whole:.0%})"

    def _announcement(self) -> str:
        if self._total is None:
            return "the number of attempts to read is not known: Twilio did not count them"
        least = duration(self._client.seconds_for(self._requests))
        return (
            f"{counted(self._total, 'attempt')} to read with about "
            f"{counted(self._requests, 'request')}; the rate limit allows them in {least}"
        )

    def _read(self) -> int:
        return self._done + sum(self._reading.values())
