"""The three endpoints: list, fetch, summary. Sending a request: transport."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import NamedTuple

from pipelines.errors import Failure, Misuse, Unreadable, masked
from pipelines.twilio.chain import Chain
from pipelines.twilio.clock import Clock
from pipelines.twilio.connection import Answer
from pipelines.twilio.credentials import Credentials, other_account
from pipelines.twilio.decode import Page, decode, read_object, read_page
from pipelines.twilio.filters import NO_FILTERS, Filters
from pipelines.twilio.limits import (
    DEFAULT_BASE_URL,
    GIVE_UP_AFTER,
    MAX_PAGE_SIZE,
    REQUESTS_PER_MINUTE,
    TIMEOUT,
)
from pipelines.twilio.pacing import Pacer
from pipelines.twilio.query import ListQuery
from pipelines.twilio.transport import ApiError, TooHeavy, Transport

_SMALL_PAGE = 50  # the API's default; so far no page of this size was too heavy
HEAVY_TRIES = 3
_RESTARTS = 5  # times that a slice starts again after refused page tokens
_PAGE_TOO_LARGE = {"20007", "60373"}  # codes of a 400; Verify's other lists allow only 100
_SMALLEST_PAGE = 20
_KEYS_TOLD = 20
_UNHEARD_OF = 10**10  # attempts in 30 days: a larger total is an error
_LIST = "/v2/Attempts"

log = logging.getLogger("verify_sync")


class Summary(NamedTuple):
    """Twilio's own totals for a window."""

    attempts: int
    converted: int
    unconverted: int


class Client:
    """Reads one account's attempts; a context manager. Thread-safe.

    Sends credentials only to `base_url`, and only as many requests as `pacer` allows (default:
    100 a minute, counting only this client). On exit, threads that still wait get a Failure.
    Raises Misuse for an invalid base_url or page_size.
    """

    def __init__(
        self,
        credentials: Credentials,
        base_url: str = DEFAULT_BASE_URL,
        page_size: int = MAX_PAGE_SIZE,
        timeout: float = TIMEOUT,
        clock: Clock | None = None,
        pacer: Pacer | None = None,
        give_up_after: float = GIVE_UP_AFTER,
    ) -> None:
        self.account_sid = credentials.account_sid
        self.clock = clock or Clock(datetime.now(timezone.utc))
        if not 1 <= page_size <= MAX_PAGE_SIZE:
            raise Misuse(f"page_size: {page_size} is not between 1 and {MAX_PAGE_SIZE}")
        self._pacer = pacer or Pacer(REQUESTS_PER_MINUTE)
        self.page_size = page_size
        self._transport = Transport(
            credentials, base_url, self._pacer, self.clock, timeout, give_up_after
        )
        self._list = f"{self._transport.base}{_LIST}"
        self._unknown_keys: set[str] = set()
        self._told: set[str] = set()  # what is logged only once
        self._is_refused = False  # a page size
        self._lock = threading.Lock()
        self.attempts = 0  # listed so far
        self.counts = self._transport.counts

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._pacer.close()
        self._transport.close()

    def read(
        self,
        after: datetime | None = None,
        before: datetime | None = None,
        filters: Filters = NO_FILTERS,
        limit: int | None = None,
        watch: Callable[[int, int], None] = lambda *_: None,
        page_size: int | None = None,
    ) -> list[Page]:
        """The pages of attempts created in the window: all, or enough pages for `limit` attempts.

        Twilio documents neither their order (the module newest finds the newest) nor whether the
        bounds are included. Two pages may hold the same attempt. After each page `watch` is called
        with the number of pages and of attempts so far. Both start from 0 again on a restart. A
        page has the client's page_size, or `page_size` or `limit` if smaller. Raises Failure (or a
        subclass of it from transport) if the last page cannot be reached.
        """
        query, restarts = ListQuery(after, before, filters), 0
        size = min(self.page_size, page_size or limit or self.page_size)
        while True:
            try:
                pages = _watched(watch, _first(limit, self._chain(query, size)))
                if self._is_refused:
                    told = f"Twilio refuses larger pages: set page_size = {self.page_size}"
                    self._tell_once("page size", told)
                return pages
            except _RefusedToken as refused:
                restarts += 1
                if restarts > _RESTARTS:
                    raise refused.error from None
                log.info("Twilio refused a page token; its slice starts again")
            except TooHeavy as failure:
                size = max(size // 2, _SMALL_PAGE)
                log.info("%s; its slice starts again with %d attempts a page", failure, size)
            except ApiError as error:
                if str(error.code) not in _PAGE_TOO_LARGE or size <= _SMALLEST_PAGE:
                    raise
                size = self._smaller(size)

    def fetch(self, sid: str) -> Page:
        """One attempt by its SID. Raises ApiError (404) if it is unknown or older than 30 days."""
        body = self._transport.get(
            f"{self._list}/{sid}", {}, lambda content: read_object(content, "an attempt")
        )
        if str(body.get("sid")).lower() != sid.lower():
            raise Failure(f"Twilio answered with something other than attempt {sid}; run again")
        page = decode([body], self.clock())
        self._check(ListQuery(), page)
        return page

    def summary(
        self,
        after: datetime | None = None,
        before: datetime | None = None,
        filters: Filters = NO_FILTERS,
        heavy_tries: int | None = None,
    ) -> Summary:
        """Twilio's totals for the window. The API ignores `to`, `verification_sid` and `status`.

        Raises TooHeavy after `heavy_tries` 5xx or timeouts in a row: a smaller window may work.
        """
        parameters = ListQuery(after, before, filters).parameters()
        url = f"{self._list}/Summary"
        return self._transport.get(url, parameters, _read_summary, heavy_tries)

    def ask(self, path: str, parameters: Mapping[str, str]) -> Answer:
        """Any answer to a request below the list, such as `/Summary`; not retried, not checked."""
        return self._transport.once(f"{self._list}{path}", parameters)

    def minute(self) -> int:
        """The number of requests in the last minute: they count towards the rate limit."""
        return self._pacer.taken()

    def seconds_for(self, requests: int) -> float:
        """The least number of seconds in which the rate limit allows `requests` more requests."""
        return self._pacer.seconds_for(requests)

    def _chain(self, query: ListQuery, page_size: int) -> Iterator[Page]:
        """The pages of one chain, each checked. All have the same `page_size`."""
        chain = Chain(query, self._transport.base)
        parameters = {**query.parameters(), "PageSize": str(page_size)}
        following: dict[str, str] | None = parameters
        while following is not None:
            page = self._page(query, following, page_size)
            self._check(query, page)
            yield page
            following = chain.after(page)

    def _smaller(self, size: int) -> int:
        """Half the page size that Twilio has refused. All later requests of the run ask for it."""
        with self._lock:
            self._is_refused = True
            self.page_size = min(self.page_size, max(size // 2, _SMALLEST_PAGE))
            return self.page_size

    def _page(self, query: ListQuery, parameters: Mapping[str, str], page_size: int) -> Page:
        """One page; waits out an outage. Raises TooHeavy if a page of this size fails, but Twilio
        answers a small one."""
        heavy_tries = HEAVY_TRIES if page_size > _SMALL_PAGE else None
        try:
            try:
                return self._transport.get(self._list, parameters, self._read_page, heavy_tries)
            except TooHeavy:
                if self._small_page_comes(query):
                    raise
            return self._transport.get(self._list, parameters, self._read_page, heavy_tries)
        except ApiError as error:
            if "PageToken" in parameters and error.status in (400, 404, 410):
                raise _RefusedToken(error) from None
            raise

    def _read_page(self, content: bytes) -> Page:
        return read_page(content, self.clock())

    def _small_page_comes(self, query: ListQuery) -> bool:
        """Whether Twilio answers a small page. If not, this is an outage: waits until it does."""
        parameters = {**query.parameters(), "PageSize": str(_SMALL_PAGE)}
        try:
            self._transport.get(self._list, parameters, self._read_page, heavy_tries=1)
        except TooHeavy:
            self._transport.get(self._list, parameters, self._read_page)
            return False
        return True

    def _check(self, query: ListQuery, page: Page) -> None:
        accounts = page.attempts["account_sid"].unique().to_pylist()
        other = other_account(accounts, self.account_sid)
        if other:
            raise Misuse(
                f"these credentials read account {other}, but TWILIO_ACCOUNT_SID says "
                f"{self.account_sid}; a warehouse belongs to one account"
            )
        query.check(page.attempts)
        with self._lock:
            self.attempts += page.attempts.num_rows
        if page.is_repaired:
            self._tell_once(
                "bytes", "some text from Twilio is not UTF-8; its odd bytes became \ufffd"
            )
        new = page.unknown_keys - self._unknown_keys
        if new and len(self._unknown_keys) < _KEYS_TOLD:
            self._unknown_keys |= new
            named = ", ".join(masked(key[:40]) for key in sorted(new)[:_KEYS_TOLD])
            log.info("keys that have no column yet are kept in extra: %s", named)

    def _tell_once(self, what: str, line: str) -> None:
        with self._lock:
            is_new = what not in self._told
            self._told.add(what)
        if is_new:
            log.warning("%s", line)


class _RefusedToken(Exception):
    """Twilio refused a page token (expired or unknown). The list can start again."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(str(error))
        self.error = error


def _first(limit: int | None, pages: Iterable[Page]) -> Iterator[Page]:
    """Pages until they hold `limit` attempts; all pages if it is None."""
    sids: set[str] = set()
    for page in pages:
        yield page
        sids |= page.sids
        if limit is not None and len(sids) >= limit:
            return


def _watched(watch: Callable[[int, int], None], pages: Iterable[Page]) -> list[Page]:
    found, attempts = [], 0
    for page in pages:
        found.append(page)
        attempts += page.attempts.num_rows
        watch(len(found), attempts)
    return found


def _read_summary(content: bytes) -> Summary:
    body = read_object(content, "a summary")
    totals = [body.get(f"total_{name}") for name in ("attempts", "converted", "unconverted")]
    numbers = [n for n in totals if isinstance(n, int) and 0 <= n < _UNHEARD_OF]
    if numbers != totals:
        raise Unreadable("Twilio answered 200 with something that is not a summary")
    return Summary(*numbers)
