"""Serves the sandbox over HTTP on loopback: credentials, rate limit, log. Answers: api."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import socket
import struct
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from pipelines.sandbox.account import Account
from pipelines.sandbox.api import LIST, SUMMARY, Api, Refusal
from pipelines.sandbox.faults import HTML, LASTING, STATUSES, Failing
from pipelines.sandbox.render import Renderer
from pipelines.sandbox.state import View
from pipelines.sandbox.switches import Faults, Limits, Switches

_LONGEST_END = 0.02  # seconds until the server notices that it must stop


class Request(NamedTuple):
    """A request in the sandbox's log. `at` is its arrival in monotonic seconds.

    `fault` is the kind of failure that was injected; None = none.
    """

    at: float
    path: str
    parameters: dict[str, str]
    status: int
    fault: str | None = None


class Allowance:
    """The rate limit. It uses the machine's monotonic clock, not the account's clock."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._taken: deque[float] = deque()
        self._lock = threading.Lock()

    def wait(self, at: float) -> float:
        """Takes a slot and returns 0, or returns the seconds until one is free."""
        span = self._limits.seconds
        with self._lock:
            oldest = at // span * span if self._limits.fixed_window else at - span
            while self._taken and self._taken[0] <= oldest:
                self._taken.popleft()
            if not self._limits.requests or len(self._taken) < self._limits.requests:
                self._taken.append(at)
                return 0.0
            free = oldest + span if self._limits.fixed_window else self._taken[0] + span
            return free - at


class Sandbox:
    """Serves an account over HTTP on 127.0.0.1: as a context manager, or by `serve`.

    `now` returns the account's current time in epoch seconds; the `Date` header uses it too. `log`
    holds every request. The credentials are fixed and work only here.
    """

    account_sid = "AC" + "5a" * 16
    auth_token = "sandbox-token"
    api_key = "SK" + "5a" * 16
    api_secret = "sandbox-secret"

    def __init__(
        self,
        account: Account,
        *,
        now: Callable[[], float] = time.time,
        switches: Switches | None = None,
        limits: Limits | None = None,
        faults: Faults | None = None,
        port: int = 0,
    ) -> None:
        self.now = now
        self.faults = faults or Faults()
        self.failing = Failing(self.faults)
        self.closing = threading.Event()
        self.log: list[Request] = []
        self._limits = limits or Limits()
        self._allowances = {name: Allowance(self._limits) for name in (LIST, SUMMARY)}
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.sandbox = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        switches = switches or Switches()
        rows = self.faults.rows
        renderer = Renderer(account, switches, self.account_sid, rows)
        self._view = View(account, switches, renderer)
        self._api = Api(self._view, self.url, self.faults, self.failing)
        serve = self._server.serve_forever
        self._thread = threading.Thread(target=serve, args=[_LONGEST_END], daemon=True)

    def __enter__(self) -> Sandbox:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def serve(self) -> None:
        """Serves until interrupted."""
        with self._server:
            self._server.serve_forever()

    def truth(self, at: float | None = None) -> list[dict[str, Any]]:
        """Every attempt the API would list at `at` (default: now), as decoded JSON."""
        now = self.now() if at is None else at
        return [json.loads(text) for text in self._view.everything(now)]

    def answer(self, path: str, parameters: dict[str, str], authorization: str | None) -> str:
        """The body of a 200 response. Raises Refusal for others; a 429 has `retry_after` set."""
        if path != LIST and not path.startswith(LIST + "/"):
            raise Refusal(404, 20404, f"The requested resource {path} was not found")
        bucket = SUMMARY if path == SUMMARY and not self._limits.summary_shares else LIST
        wait = self._allowances[bucket].wait(time.monotonic())
        if wait > 0:
            refusal = Refusal(429, 20429, "Too many requests")
            refusal.retry_after = int(wait) + 1
            raise refusal
        self._check_credentials(authorization)
        return self._api.answer(path, parameters, self.now())

    def failure(self, kind: str | None) -> None:
        """Waits for the latency or the hang, then raises Refusal if `kind` is an HTTP status."""
        if kind == "hang":
            self.closing.wait(self.faults.hang)
        elif self._limits.latency:
            self.closing.wait(self._limits.latency)
        codes = {**STATUSES, **LASTING}
        if kind in codes:
            refusal = Refusal(int(kind), codes[kind], "Something went wrong")
            refusal.retry_after = 1 if kind in ("429", "503") else None
            raise refusal

    def headers(self, retry_after: int | None) -> dict[str, str]:
        """The response headers. `Date` is the account's current time plus `clock_offset`."""
        now = self.now() + self.faults.clock_offset
        found = {
            "Date": formatdate(now, usegmt=True),
            "Content-Type": "application/json",
            "Twilio-Request-Id": f"RQ{len(self.log):032x}",
        }
        if retry_after is not None and self._limits.retry_after == "seconds":
            found["Retry-After"] = str(retry_after)
        if retry_after is not None and self._limits.retry_after == "date":
            found["Retry-After"] = formatdate(now + retry_after, usegmt=True)
        return found

    def _check_credentials(self, authorization: str | None) -> None:
        kind, _, coded = (authorization or "").partition(" ")
        try:
            user, _, password = base64.b64decode(coded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user = password = ""
        secret = {self.account_sid: self.auth_token, self.api_key: self.api_secret}.get(user, "")
        right = hmac.compare_digest(secret.encode(), password.encode())
        if kind.lower() != "basic" or not secret or not right:
            raise Refusal(401, 20003, "Authenticate")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    sandbox: Sandbox

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], ConnectionError):  # the client hung up: no error
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # buffered: headers and body leave together
    server: _Server

    def do_GET(self) -> None:
        sandbox, arrived = self.server.sandbox, time.monotonic()
        kind = sandbox.failing.draw(arrived)
        parts = urlsplit(self.path)
        parameters = dict(parse_qsl(parts.query, keep_blank_values=True))
        status, retry_after = 200, None
        try:
            authorization = self.headers.get("Authorization")
            body = sandbox.answer(parts.path, parameters, authorization)
            sandbox.failure(kind)
        except Refusal as refusal:
            status, retry_after, body = refusal.status, refusal.retry_after, refusal.body()
        sandbox.log.append(Request(arrived, parts.path, parameters, status, kind))
        if kind == "reset":
            self._reset()
        else:
            self._reply(status, body.encode(), retry_after, kind if status == 200 else None)

    def _reply(self, status: int, body: bytes, retry_after: int | None, kind: str | None) -> None:
        if kind == "html":
            body = HTML.encode()
        if kind == "broken_json":
            body = body[: len(body) // 2]
        self.send_response_only(status)
        for name, value in self.server.sandbox.headers(retry_after).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if kind == "truncated":
            body = body[: len(body) // 2]
            self.close_connection = True
        self.wfile.write(body)

    def _reset(self) -> None:
        """Closes the connection without an answer. SO_LINGER of 0 s makes that a TCP reset."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Prints nothing: `Sandbox.log` has the requests."""
