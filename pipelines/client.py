"""Twilio Verify's attempts endpoints over HTTP: list, fetch, summary."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple
from urllib.parse import SplitResult, urlsplit

import orjson
import pyarrow as pa
import requests
from dlt.sources.helpers.requests import Client as RetryingClient

from pipelines.credentials import Credentials
from pipelines.decode import read_page
from pipelines.errors import Failure, Misuse

DEFAULT_BASE_URL = "https://verify.twilio.com"
MAX_PAGE_SIZE = 1000  # the API's own limit
_LIST = "/v2/Attempts"
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_PASSING = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

log = logging.getLogger("verify_sync")


@dataclass(frozen=True)
class Filters:
    """The list endpoint's filters besides the created window; None = not filtered.

    Summary knows only the first three, and `destination_prefix`, which list does not.
    """

    verify_service_sid: str | None = None
    country: str | None = None
    channel: str | None = None
    to: str | None = None
    verification_sid: str | None = None
    status: str | None = None
    destination_prefix: str | None = None

    def parameters(self) -> dict[str, str]:
        """As query parameters. Unknown ones are ignored by the API, so the names matter."""
        named = {
            "VerifyServiceSid": self.verify_service_sid,
            "Country": self.country,
            "Channel": self.channel,
            "ChannelData.To": self.to,
            "VerificationSid": self.verification_sid,
            "Status": self.status,
            "DestinationPrefix": self.destination_prefix,
        }
        return {name: value for name, value in named.items() if value is not None}


class Summary(NamedTuple):
    """Twilio's own totals over a window."""

    attempts: int
    converted: int
    unconverted: int


class ApiError(Failure):
    """The API answered with an error; `status` is HTTP's, `code` Twilio's."""

    def __init__(self, response: requests.Response, hint: str = "") -> None:
        body = _object(response)
        self.status = response.status_code
        self.code = body.get("code")
        told = {
            "code": self.code,
            "see": body.get("more_info"),
            "request": response.headers.get("Twilio-Request-Id"),
        }
        details = [f"{name} {value}" for name, value in told.items() if value]
        message = body.get("message") or response.reason or "no message"
        where = f" ({', '.join(details)})" if details else ""
        super().__init__(f"Twilio answered {self.status}: {message}{where}{hint}")


class RefusedCredentials(ApiError, Misuse):
    """401 or 403: these credentials may not read the account's attempts."""

    exit_code = 2

    def __init__(self, response: requests.Response, names: str) -> None:
        super().__init__(response, f"; the credentials are those of {names}")


class Clock:
    """A run's present: its start plus the time elapsed since, never the same instant twice.

    Of two copies of an attempt the one with the later instant wins, so pages need an order even
    where the machine's clock is coarse; and a clock set back during a run does not disturb it.
    """

    def __init__(self, start: datetime) -> None:
        self._start, self._origin = start, time.monotonic()
        self._last = start
        self._lock = threading.Lock()

    def __call__(self) -> datetime:
        with self._lock:
            present = self._start + timedelta(seconds=time.monotonic() - self._origin)
            self._last = max(present, self._last + timedelta(microseconds=1))
            return self._last


class Client:
    """Reads one account's attempts. Thread-safe; never sends credentials but to `base_url`.

    `now` (aware; default: the machine's clock) is the instant `clock` counts from. Retries are
    those of dlt's requests client: 429 and 5xx, refused and broken connections, honouring
    Retry-After.
    """

    def __init__(
        self,
        credentials: Credentials,
        base_url: str = DEFAULT_BASE_URL,
        page_size: int = MAX_PAGE_SIZE,
        timeout: float = 20.0,
        now: datetime | None = None,
    ) -> None:
        self.account_sid = credentials.account_sid
        self.clock = Clock(now or datetime.now(timezone.utc))
        self._credentials = credentials
        self._base = _checked_base(base_url)
        self._page_size = page_size
        # Seven waits of 1 + 2 + 4 + … + 60 s: outlasts the API's one-minute rate window.
        self._http = RetryingClient(
            request_timeout=timeout,
            raise_for_status=False,
            status_codes=(),
            exceptions=(),
            retry_condition=self._is_worth_repeating,
            request_max_attempts=8,
            request_backoff_factor=1,
            request_max_retry_delay=60,
        )

    def pages(
        self,
        after: datetime | None = None,
        before: datetime | None = None,
        filters: Filters = Filters(),
        page_size: int | None = None,
    ) -> Iterator[pa.Table]:
        """Lists the attempts created in the window, a page at a time, to the chain's end.

        A page is a table of `decode.SCHEMA`. `after` and `before` are aware; whether the API
        includes them is not documented.
        """
        parameters = {**filters.parameters(), **_window(after, before)}
        parameters["PageSize"] = str(page_size or self._page_size)
        url: str | None = self._base.geturl() + _LIST
        while url is not None:
            response = self._get(url, parameters)
            table, next_page_url = read_page(response.content, self.clock())
            yield table
            url, parameters = self._checked(next_page_url), {}

    def fetch(self, sid: str) -> dict[str, Any]:
        """One attempt by its SID. Raises ApiError 404 when unknown or older than 30 days."""
        return _object(self._get(f"{self._base.geturl()}{_LIST}/{sid}", {}))

    def summary(
        self,
        after: datetime | None = None,
        before: datetime | None = None,
        filters: Filters = Filters(),
    ) -> Summary:
        """Twilio's totals for the window. It ignores `to`, `verification_sid` and `status`."""
        parameters = {**filters.parameters(), **_window(after, before)}
        body = _object(self._get(f"{self._base.geturl()}{_LIST}/Summary", parameters))
        try:
            return Summary(
                *(int(body[f"total_{name}"]) for name in ("attempts", "converted", "unconverted"))
            )
        except (KeyError, TypeError, ValueError):
            raise Failure("Twilio answered 200 with something that is not a summary") from None

    def _get(self, url: str, parameters: dict[str, str]) -> requests.Response:
        auth = (self._credentials.username, self._credentials.password)
        try:
            response = self._http.session.get(
                url, params=parameters, auth=auth, allow_redirects=False
            )
        except requests.RequestException as error:
            # The cause names the URL, and with it a phone number: only its kind is passed on.
            kind = type(error).__name__
            raise Failure(f"no answer from {self._base.netloc}: {kind}") from None
        if response.status_code in (401, 403):
            raise RefusedCredentials(response, self._credentials.names)
        if response.status_code != 200:
            raise ApiError(response)
        return response

    def _is_worth_repeating(
        self, response: requests.Response | None, error: BaseException | None
    ) -> bool:
        """429 (never processed), 5xx (a GET changes nothing) and answers that never came."""
        if response is not None and (response.status_code == 429 or response.status_code >= 500):
            log.warning("Twilio answered %d; trying again", response.status_code)
            return True
        if isinstance(error, _PASSING):
            kind = type(error).__name__
            log.warning("no answer from %s (%s); trying again", self._base.netloc, kind)
            return True
        return False

    def _checked(self, url: Any) -> str | None:
        """The next page's URL, if it is one of the host the credentials are for."""
        if not url:
            return None
        if not isinstance(url, str) or _origin(urlsplit(url)) != _origin(self._base):
            raise Failure(
                f"next_page_url leads away from {self._base.scheme}://{self._base.netloc}; "
                "not followed, as it would carry the credentials along"
            )
        return url


def format_instant(instant: datetime) -> str:
    """Whole-second UTC as the API wants it, `2026-11-23T04:00:00Z`; refuses naive datetimes."""
    if instant.tzinfo is None:
        raise ValueError("a datetime without a zone means a different instant on every machine")
    return instant.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def _window(after: datetime | None, before: datetime | None) -> dict[str, str]:
    """Whole seconds that hold the window: fractions widen it."""
    bounds = {}
    if after is not None:
        bounds["DateCreatedAfter"] = format_instant(after)
    if before is not None:
        up = timedelta(seconds=1) if before.microsecond else timedelta()
        bounds["DateCreatedBefore"] = format_instant(before + up)
    return bounds


def _object(response: requests.Response) -> dict[str, Any]:
    """The response's JSON object; empty when it is an error without one."""
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        body = None
    if isinstance(body, dict):
        return body
    if response.status_code == 200:
        raise Failure("Twilio answered 200 with something that is not JSON")
    return {}


def _checked_base(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misuse(f"base_url is not a web address such as {DEFAULT_BASE_URL}")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise Misuse("base_url must be https: credentials go nowhere in clear but to loopback")
    return parts._replace(path=parts.path.rstrip("/"), query="", fragment="")


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
