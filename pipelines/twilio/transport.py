"""Sends one request: paced, retried, to one host only. Which requests: client."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from tenacity import RetryCallState, Retrying, retry_if_exception_type

from pipelines.errors import Failure, Misuse, Unreadable, masked
from pipelines.twilio.base_url import checked_base
from pipelines.twilio.clock import Clock
from pipelines.twilio.connection import MOST_BYTES, Answer, Connection, TooLarge
from pipelines.twilio.credentials import Credentials
from pipelines.twilio.pacing import Pacer
from pipelines.twilio.retries import Outage, TransientFailure, Tries, retry_after, without_answer

T = TypeVar("T")

log = logging.getLogger("verify_sync")


class ApiError(Failure):
    """The API answered with an error. `status` is the HTTP status, `code` Twilio's error code."""

    def __init__(self, answer: Answer, hint: str = "") -> None:
        body = _error_of(answer)
        self.status = answer.status
        self.code = body.get("code")
        said = body.get("message") or answer.reason or "no message"
        told = {
            "code": self.code,
            "see": body.get("more_info"),
            "request": answer.headers.get("Twilio-Request-Id"),
        }
        details = [f"{name} {masked(str(value))}" for name, value in told.items() if value]
        where = f" ({', '.join(details)})" if details else ""
        super().__init__(f"Twilio answered {self.status}: {masked(str(said))}{where}{hint}")


class RefusedCredentials(ApiError, Misuse):
    """401 or 403: these credentials may not read the account's attempts."""

    exit_code = 2

    def __init__(self, answer: Answer, names: str) -> None:
        super().__init__(answer, f"; check {names}")


class TooHeavy(Failure):
    """Several 5xx or timeouts in a row, for a request that can be made smaller."""


@dataclass
class Counts:
    """Requests sent; how many of them were retries; how many answers had the status 429."""

    requests: int = 0
    retries: int = 0
    throttled: int = 0


class Transport:
    """Sends GET requests. Credentials go only to `base_url`: no redirects. Thread-safe.

    Failures that may pass are retried for `give_up_after` seconds: 429 (the request was not
    processed), 5xx (a GET changes nothing), connections refused or broken, `timeout` seconds
    without a byte, answers that are cut off, too large, too slow or unreadable. These seconds are
    those of the outage: a later request does not wait for as long again.
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
        self.base = checked_base(base_url)
        self.counts = Counts()
        self._credentials = credentials
        self._pacer = pacer
        self._clock = clock
        self._timeout = timeout
        self._give_up_after = give_up_after
        self._outage = Outage()
        self._local = threading.local()
        self._connections: list[Connection] = []
        self._lock = threading.Lock()
        self._told = 0  # the highest try number logged since the last good answer

    def close(self) -> None:
        """Closes the connections of all threads, and so ends their requests."""
        with self._lock:
            connections = [*self._connections]
        for connection in connections:
            connection.close()

    def get(
        self,
        url: str,
        parameters: Mapping[str, str],
        read: Callable[[bytes], T],
        heavy_tries: int | None = None,
    ) -> T:
        """Sends the request and returns `read(body)`. If `read` raises Unreadable, retries.

        Raises RefusedCredentials for 401 and 403, ApiError for other errors that a retry cannot
        cure, TooHeavy after `heavy_tries` 5xx or timeouts in a row, Failure if Twilio's clock
        differs or if `give_up_after` seconds of retries brought no good answer.
        """
        tries = Tries(self._outage, self._give_up_after, heavy_tries)
        retrying = Retrying(
            retry=retry_if_exception_type(TransientFailure),
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
        except TransientFailure as failure:
            if tries.are_heavy:
                raise TooHeavy(str(failure)) from None
            seconds = self._give_up_after
            tried = f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
            raise Failure(
                f"{failure}; gave up after {tried} (setting give_up_after): run again later"
            ) from None

    def once(self, url: str, parameters: Mapping[str, str]) -> Answer:
        """Sends the request once and returns the answer, whatever its status.

        Raises RefusedCredentials for 401 and 403, and Failure if no answer comes.
        """
        with self._pacer.slot():
            self._count("requests")
            answer = self._send(url, parameters)
        if answer.status in (401, 403):
            raise RefusedCredentials(answer, self._credentials.names)
        return answer

    def _try(self, url: str, parameters: Mapping[str, str], read: Callable[[bytes], T]) -> T:
        with self._pacer.slot():
            self._count("requests")
            started = time.monotonic()
            answer = self._send(url, parameters)
        if answer.status == 200:
            self._clock.check(answer.headers.get("Date"), time.monotonic() - started)
            try:
                found = read(answer.content)
                self._outage.end()
                self._told = 0
                return found
            except Unreadable as unreadable:
                raise TransientFailure(f"{unreadable} ({_described(answer)})") from None
        if answer.status in (401, 403):
            raise RefusedCredentials(answer, self._credentials.names)
        error = ApiError(answer)
        if error.status == 429:
            self._count("throttled")
        if error.status == 429 or error.status >= 500:
            raise TransientFailure(
                error, error.status >= 500, retry_after(answer.headers)
            ) from None
        self._outage.end()
        raise error

    def _send(self, url: str, parameters: Mapping[str, str]) -> Answer:
        auth = (self._credentials.username, self._credentials.password)
        try:
            return self._connection().get(url, parameters, auth)
        except TooLarge:
            why = f"the answer has more than {MOST_BYTES >> 20} MB"
            raise TransientFailure(why, is_heavy=True) from None
        except Exception as error:  # requests lets some errors of Python's own through
            raise without_answer(error, self.base.netloc) from None

    def _connection(self) -> Connection:
        """One connection per thread: requests does not promise that sessions are thread-safe."""
        if not hasattr(self._local, "connection"):
            longest = longest_answer(self._timeout)
            self._local.connection = Connection(self._timeout, longest, self.base.is_local)
            with self._lock:
                self._connections.append(self._local.connection)
        connection: Connection = self._local.connection
        return connection

    def _tell(self, state: RetryCallState) -> None:
        """Logs one line for each further try, even if several threads wait for the same outage."""
        self._count("retries")
        assert state.outcome is not None
        with self._lock:
            is_known = state.attempt_number <= self._told
            self._told = max(self._told, state.attempt_number)
        if not is_known:
            why, wait = state.outcome.exception(), state.upcoming_sleep
            log.info("%s; trying again in %.0f s", why, wait)

    def _count(self, what: str) -> None:
        with self._lock:
            setattr(self.counts, what, getattr(self.counts, what) + 1)


def longest_answer(timeout: float) -> float:
    """Seconds for a whole answer: from the connection to its last byte."""
    return max(60.0, 3 * timeout)


def _described(answer: Answer) -> str:
    kind = masked(answer.headers.get("Content-Type", "no content type"))
    request = masked(answer.headers.get("Twilio-Request-Id", "without a Twilio ID"))
    return f"{kind}, {len(answer.content):,} bytes, request {request}"


def _error_of(answer: Answer) -> dict[str, Any]:
    """Twilio's description of an error; empty if the body is not a JSON object."""
    try:
        body = orjson.loads(answer.content)
    except orjson.JSONDecodeError:  # also for what is not UTF-8
        return {}
    return body if isinstance(body, dict) else {}
