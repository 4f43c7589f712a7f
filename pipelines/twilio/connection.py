"""Sends one GET and reads the whole answer, bounded in time and size. Retries: transport."""

from __future__ import annotations

import socket
import threading
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, NamedTuple

import requests
import urllib3
from requests.adapters import HTTPAdapter

MOST_BYTES = 16 * 2**20  # of an answer; a page of 1000 attempts has less than 2 MB
_PART = 2**16  # bytes
_PACKED = {"gzip", "x-gzip", "deflate"}


class Answer(NamedTuple):
    """A whole HTTP response."""

    status: int
    reason: str
    headers: Mapping[str, str]
    content: bytes


class TooLarge(Exception):
    """The answer has more than MOST_BYTES, unpacked."""


class Connection:
    """A kept-alive connection to one host; for one thread. It follows no redirects.

    `timeout` is the longest time without a byte, `longest` the time for a whole answer: from the
    connection over the headers to the last byte of the body. Both in seconds. `is_local`: the host
    is this machine, so proxies of the environment do not apply.
    """

    def __init__(self, timeout: float, longest: float, is_local: bool) -> None:
        self._timeout, self._longest = timeout, longest
        self._session, self._adapter = _Session(), _Adapter()
        self._session.trust_env = not is_local
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, self._adapter)

    def close(self) -> None:
        """Also ends a request of another thread."""
        self._session.close()

    def get(self, url: str, parameters: Mapping[str, str], auth: tuple[str, str]) -> Answer:
        """Raises TooLarge, or an error of requests or urllib3: ReadTimeout if `longest` is over."""
        with (
            self._adapter.ended_after(self._longest),
            self._session.get(
                url,
                params=parameters,
                auth=auth,
                headers={"Accept": "application/json", "Accept-Encoding": "gzip"},
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as response,
        ):
            content = _content(response)
            return Answer(response.status_code, response.reason or "", response.headers, content)


class _Asking(threading.local):
    """The adapter of the request that this thread sends."""

    adapter: _Adapter | None = None


_asking = _Asking()


class _Session(requests.Session):
    def get_redirect_target(self, _: requests.Response) -> str | None:
        """None: else requests reads the body of a redirect, without a limit."""
        return None


class _Adapter(HTTPAdapter):
    """Ends a request that takes too long, by a second handle of its socket.

    A timeout limits each wait for a byte only. A server that sends a byte now and then, in the TLS
    handshake, in the headers or in the body, would hold the run for ever.
    """

    def __init__(self) -> None:
        self._line: socket.socket | None = None
        self._is_over = False
        self._lock = threading.Lock()
        super().__init__()

    @contextmanager
    def ended_after(self, seconds: float) -> Iterator[None]:
        """Raises ReadTimeout if the block takes longer, whatever it raised or returned."""
        _asking.adapter, self._is_over = self, False
        timer = threading.Timer(seconds, self._end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, urllib3.exceptions.HTTPError):
            if not self._is_over:
                raise
        finally:
            timer.cancel()
            _asking.adapter = None
        if self._is_over:
            raise requests.ReadTimeout

    def init_poolmanager(self, *args: Any, **named: Any) -> None:
        super().init_poolmanager(*args, **named)
        _watch(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **named)
        if is_new:
            _watch(manager)
        return manager

    def close(self) -> None:
        self._end()
        with self._lock:
            if self._line is not None:
                self._line.close()
                self._line = None
        super().close()

    def hold(self, line: socket.socket) -> None:
        """Keeps a second handle of a new connection's socket."""
        with self._lock:
            if self._line is not None:
                self._line.close()
            self._line = line.dup()
        if self._is_over:
            self._end()

    def _end(self) -> None:
        self._is_over = True
        with self._lock, suppress(OSError):  # perhaps it is closed already
            if self._line is not None:
                self._line.shutdown(socket.SHUT_RDWR)


def _watch(manager: Any) -> None:
    """Makes new connections of the pool manager tell their sockets."""
    pools = manager.pool_classes_by_scheme
    manager.pool_classes_by_scheme = {name: _watched(pools[name]) for name in pools}


@cache
def _watched(pool: Any) -> Any:
    class Watched(pool.ConnectionCls):  # type: ignore[misc]
        def _new_conn(self) -> socket.socket:
            line: socket.socket = super()._new_conn()
            if _asking.adapter is not None:
                _asking.adapter.hold(line)
            return line

    return type(pool.__name__, (pool,), {"ConnectionCls": Watched})


def _content(response: requests.Response) -> bytes:
    """The body, unpacked. It unpacks by itself: urllib3 first unpacks whatever has arrived, and a
    kilobyte may hold a megabyte."""
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in {"", "identity", *_PACKED}:
        raise urllib3.exceptions.DecodeError
    unpacker = zlib.decompressobj(32 + zlib.MAX_WBITS) if encoding in _PACKED else None
    content = bytearray()
    while part := response.raw.read1(_PART, decode_content=False):
        content += _unpacked(unpacker, part, MOST_BYTES + 1 - len(content)) if unpacker else part
        if len(content) > MOST_BYTES:
            raise TooLarge
    if unpacker and content and not unpacker.eof:
        raise urllib3.exceptions.DecodeError
    return bytes(content)


def _unpacked(unpacker: Any, part: bytes, most: int) -> bytes:
    try:
        unpacked: bytes = unpacker.decompress(part, most)
    except zlib.error as error:
        raise urllib3.exceptions.DecodeError from error
    return unpacked
