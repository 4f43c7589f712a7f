"""One question to Twilio until it is answered: paced, repeated while that may help."""

from __future__ import annotations

import logging
import random
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

import orjson
import requests
import urllib3
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception_type,
    wait_exponential,
    wait_random,
)

from pipelines.clock import Clock, instant_of
from pipelines.credentials import Credentials
from pipelines.errors import Failure, Misuse, Unreadable
from pipelines.pacing import Pacer

DEFAULT_BASE_URL = "https://verify.twilio.com"
FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between tries, doubling
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_PASSING = (
    requests.ConnectionError,
    requests.Timeout,
    requests.exceptions.ChunkedEncodingError,
    requests.exceptions.ContentDecodingError,
)
T = TypeVar("T")

log = logging.getLogger("verify_sync")


class ApiError(Failure):
    """The API answered with an error; `status` is HTTP's, `code` Twilio's."""

    def __init__(self, response: requests.Response, hint: str = "") -> None:
        body = _error_of(response)
        self.status = response.status_code
        self.code = body.get("code")
        told = {
            "code": self.code,
            "see": body.get("more_info"),
            "request": response.headers.get("Twilio-Request-Id"),
        }
        details = [f"{name} {value}" for name, value in told.items() if value]
        message = " ".join(str(body.get("message") or response.reason or "no message").split())
        where = f" ({', '.join(details)})" if details else ""
        super().__init__(f"Twilio answered {self.status}: {message}{where}{hint}")


class RefusedCredentials(ApiError, Misuse):
    """401 or 403: these credentials may not read the account's attempts."""

    exit_code = 2

    def __init__(self, response: requests.Response, names: str) -> None:
        super().__init__(response, f"; the credentials are those of {names}")


class TooHeavy(Failure):
    """Several times in a row a 5xx or no answer in time, to a question that can be made smaller."""


class _Passing(Failure):
    """What may be gone at the next try. `retry_after` is in seconds, if the server said."""

    def __init__(self, why: Failure, is_heavy: bool = False, retry_after: float | None = None):
        super().__init__(str(why))
        self.is_heavy, self.retry_after = is_heavy, retry_after


@dataclass
class Counts:
    """Requests sent; of these retries; of the answers those that said 429."""

    requests: int = 0
    retries: int = 0
    throttled: int = 0


class Transport:
    """GET requests with credentials that never leave `base_url`. Thread-safe.

    What passes is tried again, until nothing else has come for `give_up_after` seconds: 429
    (never processed), 5xx (a GET changes nothing), connections refused or broken, `timeout`
    seconds without a byte, bodies that are cut off or not what was asked for.
    """

    def __init__(
        self,
        credentials: Credentials,
        base_url: str,
        pacer: Pacer,
        clock: Clock,
        timeout: float,
        give_up_after: float,
    ) -> None:
        self.base = _checked_base(base_url)
        self.counts = Counts()
        self._credentials = credentials
        self._pacer = pacer
        self._clock = clock
        self._timeout = timeout
        self._give_up_after = give_up_after
        self._local = threading.local()  # a session a thread: requests promises no more
        self._lock = threading.Lock()

    def get(
        self,
        url: str,
        parameters: Mapping[str, str],
        read: Callable[[bytes], T],
        heavy_tries: int | None = None,
    ) -> T:
        """What `read` makes of the answer's body; it raises Unreadable for one worth a new try.

        Raises ApiError for an answer that stays, RefusedCredentials, TooHeavy after
        `heavy_tries` failures in a row that a smaller question may avoid, Failure when Twilio's
        clock is another or no good answer came for too long.
        """
        tries = _Tries(self._give_up_after, heavy_tries)
        retrying = Retrying(
            retry=retry_if_exception_type(_Passing),
            after=tries.note,
            wait=tries.wait,
            stop=tries.are_over,
            before_sleep=self._tell,
            sleep=self._pacer.pause,
            reraise=True,
        )
        try:
            answer: T = retrying(self._try, url, parameters, read)
            return answer
        except _Passing as failure:
            if tries.are_heavy:
                raise TooHeavy(str(failure)) from None
            raise Failure(
                f"{failure}; tried for {self._give_up_after / 60:.3g} min (give_up_after): what "
                "was loaded is kept, the next run goes on"
            ) from None

    def _try(self, url: str, parameters: Mapping[str, str], read: Callable[[bytes], T]) -> T:
        with self._pacer.slot():
            self._count("requests")
            started = time.monotonic()
            response = self._send(url, parameters)
            seconds = time.monotonic() - started
        if response.status_code == 200:
            self._clock.check(response.headers.get("Date"), seconds)
            try:
                return read(response.content)
            except Unreadable as unreadable:
                raise _Passing(unreadable) from None
        if response.status_code in (401, 403):
            raise RefusedCredentials(response, self._credentials.names)
        error = ApiError(response)
        if error.status == 429:
            self._count("throttled")
        if error.status == 429 or error.status >= 500:
            raise _Passing(error, error.status >= 500, _retry_after(response)) from None
        raise error

    def _send(self, url: str, parameters: Mapping[str, str]) -> requests.Response:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
        auth = (self._credentials.username, self._credentials.password)
        try:
            response: requests.Response = self._local.session.get(
                url, params=parameters, auth=auth, timeout=self._timeout, allow_redirects=False
            )
        except requests.RequestException as error:
            # The cause names the URL, and with it a phone number: only its kind is passed on.
            why = Failure(f"no answer from {self.base.netloc}: {_kind(error)}")
            passes = isinstance(error, _PASSING) and not _is_about_certificate(error)
            raise (_Passing(why, _is_slow(error)) if passes else why) from None
        return response

    def _tell(self, state: RetryCallState) -> None:
        self._count("retries")
        assert state.outcome is not None
        why, wait = state.outcome.exception(), state.upcoming_sleep
        log.warning("%s; trying again in %.0f s", why, wait)

    def _count(self, what: str) -> None:
        with self._lock:
            setattr(self.counts, what, getattr(self.counts, what) + 1)


class _Tries:
    """The failures of one question since it last was answered: when they began, of which kind."""

    def __init__(self, give_up_after: float, heavy_tries: int | None) -> None:
        self._give_up_after, self._heavy_tries = give_up_after, heavy_tries
        self._began: float | None = None  # waiting for a slot before the first try is no outage
        self._heavy = 0
        jitter = wait_random(0, FIRST_WAIT)
        self._backoff = wait_exponential(FIRST_WAIT, LONGEST_WAIT - FIRST_WAIT) + jitter

    @property
    def are_heavy(self) -> bool:
        return self._heavy_tries is not None and self._heavy >= self._heavy_tries

    def note(self, state: RetryCallState) -> None:
        if self._began is None:
            self._began = time.monotonic()
        self._heavy = self._heavy + 1 if _failure(state).is_heavy else 0

    def wait(self, state: RetryCallState) -> float:
        """As told by the server, but not beyond the last try; else longer each time."""
        told = _failure(state).retry_after
        if told is None:
            return self._backoff(state)
        return min(told, max(self._left(), FIRST_WAIT)) + random.uniform(0, FIRST_WAIT)

    def are_over(self, _: RetryCallState) -> bool:
        return self.are_heavy or self._left() <= 0

    def _left(self) -> float:
        began = time.monotonic() if self._began is None else self._began
        return self._give_up_after - (time.monotonic() - began)


def origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    """What credentials are for; ports by their schemes."""
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _failure(state: RetryCallState) -> _Passing:
    failure = state.outcome.exception() if state.outcome else None
    assert isinstance(failure, _Passing)
    return failure


def _retry_after(response: requests.Response) -> float | None:
    """Seconds from now; a date is reckoned by the server's own clock. None if it says nothing."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    then, now = instant_of(text), instant_of(response.headers.get("Date"))
    if then is None:
        return None
    seconds = then.timestamp() - (now.timestamp() if now else time.time())
    return seconds if seconds > 0 else None


def _error_of(response: requests.Response) -> dict[str, Any]:
    """Twilio's description of an error; empty when something else answered."""
    try:
        body = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def _inner(error: requests.RequestException) -> BaseException | None:
    """What urllib3 found, which requests wraps more than once."""
    inner: Any = error.args[0] if error.args else None
    return getattr(inner, "reason", None) or (inner if isinstance(inner, BaseException) else None)


def _kind(error: requests.RequestException) -> str:
    inner = _inner(error)
    return type(inner if inner is not None else error).__name__


def _is_slow(error: requests.RequestException) -> bool:
    """No byte in time, whether of the headers or of the body."""
    return isinstance(error, requests.ReadTimeout) or isinstance(
        _inner(error), urllib3.exceptions.ReadTimeoutError
    )


def _is_about_certificate(error: requests.RequestException) -> bool:
    """A certificate stays wrong, and asking a wrong host again and again is no good either."""
    inner = _inner(error)
    return any(
        isinstance(e, ssl.SSLCertVerificationError) for e in (inner, *getattr(inner, "args", ()))
    )


def _checked_base(url: str) -> SplitResult:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Misuse(f"base_url is not a web address such as {DEFAULT_BASE_URL}")
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise Misuse("base_url must be https: credentials go nowhere in clear but to loopback")
    return parts._replace(path=parts.path.rstrip("/"), query="", fragment="")
