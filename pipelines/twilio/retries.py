"""Retries: what is retried, how long to wait, when to give up. HTTP status: transport."""

from __future__ import annotations

import os
import random
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any

import requests
import urllib3
from tenacity import RetryCallState, wait_exponential, wait_random

from pipelines.errors import Failure
from pipelines.twilio.clock import instant_of

FIRST_WAIT, LONGEST_WAIT = 1.0, 30.0  # seconds between tries; the wait doubles
_PASSING = (
    requests.ConnectionError,
    requests.Timeout,
    urllib3.exceptions.ProtocolError,  # from here on: errors in the body, which urllib3 reads
    urllib3.exceptions.DecodeError,
    urllib3.exceptions.TimeoutError,
    urllib3.exceptions.SSLError,
)

_WORDS = {  # urllib3's name of an error: our words for it
    "NameResolutionError": "its name cannot be resolved",
    "NewConnectionError": "it cannot be reached",
    "ConnectTimeoutError": "no connection in time",
    "ReadTimeoutError": "nothing came in time",
    "ReadTimeout": "not all of it came in time",
    "IncompleteRead": "the answer was cut off",
    "ProtocolError": "the connection broke",
    "DecodeError": "the answer was damaged",
    "ProxyError": "the proxy did not pass it on",
}


_PROXIES = ("HTTPS_PROXY", "ALL_PROXY")
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


class TransientFailure(Failure):
    """A failure that a retry may cure.

    `is_heavy`: a smaller request may avoid it. `retry_after`: seconds, if the server sent it.
    """

    def __init__(
        self, why: Failure | str, is_heavy: bool = False, retry_after: float | None = None
    ) -> None:
        super().__init__(str(why))
        self.is_heavy, self.retry_after = is_heavy, retry_after


class Outage:
    """The time since which no request of any thread had a good answer. Thread-safe."""

    def __init__(self) -> None:
        self._began: float | None = None

    def begin(self) -> float:
        """When the outage began, in monotonic seconds: now, unless it has begun before."""
        began = self._began
        if began is None:
            began = self._began = time.monotonic()
        return began

    def end(self) -> None:
        self._began = None


class Tries:
    """The failures of one request: when they began, and how many in a row were heavy.

    Tries end `give_up_after` seconds after the outage began, or this request's own first failure
    (other requests may have good answers meanwhile), or after `heavy_tries` heavy failures in a
    row. The methods are tenacity's hooks.
    """

    def __init__(self, outage: Outage, give_up_after: float, heavy_tries: int | None) -> None:
        self._outage = outage
        self._give_up_after, self._heavy_tries = give_up_after, heavy_tries
        self._began: float | None = None  # the first failure: a wait for a slot is no outage
        self._heavy = 0
        jitter = wait_random(0, FIRST_WAIT)
        self._backoff = wait_exponential(FIRST_WAIT, LONGEST_WAIT - FIRST_WAIT) + jitter

    @property
    def are_heavy(self) -> bool:
        return self._heavy_tries is not None and self._heavy >= self._heavy_tries

    def note(self, state: RetryCallState) -> None:
        began = self._outage.begin()
        self._began = began if self._began is None else min(began, self._began)
        self._heavy = self._heavy + 1 if _failure(state).is_heavy else 0

    def wait(self, state: RetryCallState) -> float:
        """Seconds: the backoff, or Retry-After if longer, but not longer than the time left."""
        told = _failure(state).retry_after or 0.0
        until = min(told, max(self._left(), FIRST_WAIT)) + random.uniform(0, FIRST_WAIT)
        return max(self._backoff(state), until if told else 0.0)

    def are_over(self, _: RetryCallState) -> bool:
        return self.are_heavy or self._left() <= 0

    def _left(self) -> float:
        began = time.monotonic() if self._began is None else self._began
        return self._give_up_after - (time.monotonic() - began)


def without_answer(error: Exception, host: str) -> Failure:
    """The failure of a request without an answer: a TransientFailure if a retry may cure it.

    It does not quote the error: that names the URL, and the URL may hold a phone number.
    """
    found = _inner(error)
    misconfigured = _of_the_environment(error)
    if misconfigured:
        return Failure(f"no answer from {host}: {misconfigured}")
    tls = next((e for e in (found, *found.args) if isinstance(e, ssl.SSLError)), None)
    if getattr(tls, "reason", None) in ("CERTIFICATE_VERIFY_FAILED", "WRONG_VERSION_NUMBER"):
        # A retry cannot cure this, and a host that we cannot trust must get no more requests.
        why = getattr(tls, "verify_message", None) or getattr(tls, "reason", None)
        check = " and ".join(filter(None, ("base_url", _first_set(*_BUNDLES))))
        return Failure(f"no TLS connection to {host} that can be trusted: {why}; check {check}")
    kind = next((kind for kind in type(found).__mro__ if kind.__name__ in _WORDS), type(found))
    why = f"no answer from {host}: {_WORDS.get(kind.__name__, kind.__name__)}"
    if kind.__name__ == "ProxyError":
        why += f" (see {_first_set(*_PROXIES)})"
    if not isinstance(error, _PASSING):
        return Failure(why)
    return TransientFailure(why, is_heavy=kind.__name__ in ("ReadTimeout", "ReadTimeoutError"))


def _of_the_environment(error: BaseException) -> str | None:
    """What is wrong with a proxy or a certificate file that the environment names; None if nothing
    is. A retry cannot cure it."""
    said = " ".join(f"{type(cause).__name__} {cause}" for cause in _causes(error))
    proxy, bundle = _first_set(*_PROXIES), _first_set(*_BUNDLES)
    if bundle and ("CA certificate bundle" in said or "NO_CERTIFICATE_OR_CRL_FOUND" in said):
        return f"{bundle} does not name a file of certificates: correct it or unset it"
    if proxy and "SOCKS support" in said:
        return f"{proxy} names a SOCKS proxy, which needs the package PySocks: install it in .venv"
    if proxy and "Tunnel connection failed: 407" in said:
        return (
            f"the proxy wants a name and a password: write {proxy}=http://NAME:PASSWORD@HOST:PORT"
        )
    if proxy and ("InvalidProxyURL" in said or "InvalidURL" in said):
        return f"{proxy} is not a URL such as http://HOST:PORT: correct it or unset it"
    return None


def _first_set(*names: str) -> str | None:
    """The first of these environment variables that is set, in capitals or not."""
    spelled = (spelling for name in names for spelling in (name, name.lower()))
    return next((name for name in spelled if os.environ.get(name)), None)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and those in it: requests and urllib3 wrap one in another."""
    yield error
    inner = (*error.args, getattr(error, "reason", None), error.__cause__)
    for cause in inner:
        if isinstance(cause, BaseException):
            yield from _causes(cause)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Retry-After in seconds from now, a date by the server's own clock; None if there is none."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text)
    then, now = instant_of(text), instant_of(headers.get("Date"))
    if then is None:
        return None
    seconds = then.timestamp() - (now.timestamp() if now else time.time())
    return seconds if seconds > 0 else None


def _failure(state: RetryCallState) -> TransientFailure:
    failure = state.outcome.exception() if state.outcome else None
    assert isinstance(failure, TransientFailure)
    return failure


def _inner(error: Exception) -> BaseException:
    """urllib3's error: requests wraps it more than once."""
    inner: Any = error.args[0] if error.args else None
    inner = getattr(inner, "reason", None) or inner
    return inner if isinstance(inner, BaseException) else error
