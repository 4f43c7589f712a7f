"""One request until it is answered: what is retried, for how long, and what is logged."""

from __future__ import annotations

import gzip
import itertools
import json
import logging
import os
import socket
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines.errors import Failure
from pipelines.twilio import connection, retries, transport
from pipelines.twilio.client import Client, Summary
from pipelines.twilio.clock import Clock
from pipelines.twilio.credentials import Credentials
from pipelines.twilio.filters import Filters
from pipelines.twilio.pacing import Pacer
from pipelines.twilio.transport import ApiError, RefusedCredentials, TooHeavy
from tests.clocks import Time, wait_until
from tests.worlds import NOW, PATIENT

SUMMARY = json.dumps({"total_attempts": 3, "total_converted": 2, "total_unconverted": 1}).encode()
GOOD = (200, {}, SUMMARY)
Answer = tuple[int, dict[str, str], bytes]


class Scripted(ThreadingHTTPServer):
    """Answers in turn from a script, then repeats the last answer. None breaks the connection."""

    def __init__(self, script: Sequence[Answer | None], place: socket.socket | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler, bind_and_activate=place is None)
        if place is not None:
            self.socket.close()
            self.socket = place
            self.server_activate()
        self.script = itertools.chain(script, itertools.repeat(script[-1]))
        self.asked = 0


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def do_GET(self) -> None:
        self.server.asked += 1
        answer = next(self.server.script)
        if answer is None:
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        status, headers, body = answer
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def asking(*script: Answer | None, **options: Any) -> Iterator[tuple[Client, Scripted]]:
    server = Scripted(script)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        with client_of(url, **options) as client:
            yield client, server
    finally:
        server.shutdown()
        server.server_close()


def client_of(url: str, **options: Any) -> Client:
    credentials = Credentials.of("AC" + "0" * 32, "a-token-of-ours")
    usual = {"timeout": PATIENT, "pacer": Pacer(1000), "clock": Clock(NOW)}
    return Client(credentials, url, **{**usual, **options})


@contextmanager
def nobody_listening() -> Iterator[socket.socket]:
    """A reserved port that refuses connections until the test listens on it."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        yield place


def error(status: int, **headers: str) -> Answer:
    body = {"code": 20000 + status, "message": "Went\nwrong", "more_info": "https://x", "status": 0}
    return status, {"Twilio-Request-Id": "RQ12", **headers}, json.dumps(body).encode()


PASSING: dict[str, Answer | None] = {
    **{str(status): error(status) for status in (429, 500, 502, 503, 504, 599)},
    "broken connection": None,
    "truncated": (200, {"Content-Length": "999"}, SUMMARY),
    "cut off": (200, {}, SUMMARY[:30]),
    "html": (200, {}, b"<html>back soon</html>"),
    "another object": (200, {}, b'{"ok":true}'),
    "no object": (200, {}, b"[]"),
    "not gzip": (200, {"Content-Encoding": "gzip"}, SUMMARY),
    "error that is no json": (503, {}, b"<html>busy</html>"),
}


@pytest.mark.parametrize("kind", PASSING)
def test_what_passes_is_tried_again(
    waits: Time, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "verify_sync")
    with asking(*[PASSING[kind]] * 9, GOOD) as (client, server):
        assert client.summary() == Summary(3, 2, 1)
    counts = client.counts
    assert (counts.requests, counts.retries, server.asked) == (10, 9, 10)
    assert counts.throttled == (9 if kind == "429" else 0)
    assert caplog.text.count("trying again") == 9


@pytest.mark.parametrize("status", [301, 302, 400, 404, 405, 410, 418, 422, 451])
def test_what_stays_is_not_tried_again(waits: Time, status: int) -> None:
    with asking(error(status, Location="/v2/Attempts/Summary"), GOOD) as (client, server):
        with pytest.raises(ApiError) as caught:
            client.summary()
        assert server.asked == 1
    told = str(caught.value)
    assert caught.value.status == status
    for part in (str(status), "Went wrong", f"code {20000 + status}", "https://x", "RQ12"):
        assert part in told


@pytest.mark.parametrize("status", [401, 403])
def test_refused_credentials_stop_at_once(waits: Time, status: int) -> None:
    with asking(error(status), GOOD) as (client, server):
        with pytest.raises(RefusedCredentials, match="TWILIO_AUTH_TOKEN") as caught:
            client.summary()
        assert server.asked == 1
    assert caught.value.exit_code == 2


def test_an_answer_that_does_not_come_is_tried_again(waits: Time) -> None:
    """The server accepts connections but never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with (
            client_of(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout=0.1, give_up_after=5)
            as client,
            pytest.raises(Failure, match=r"nothing came in time; gave up after 5 s"),
        ):  # fmt: skip
            client.summary()
        assert client.counts.requests >= 3
        assert 5 <= waits.elapsed < 10


@pytest.mark.parametrize("kind", ["500", "silence"])
def test_a_question_that_may_be_too_heavy_is_asked_three_times(waits: Time, kind: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, asking(error(500)) as (_, server):
        port = server.server_port if kind == "500" else silent.getsockname()[1]
        patience = {"timeout": 0.1} if kind == "silence" else {}
        with client_of(f"http://127.0.0.1:{port}", **patience) as client:
            with pytest.raises(TooHeavy):
                client._transport.get(client._list, {}, bytes, heavy_tries=3)
            assert client.counts.requests == 3


def test_only_failures_in_a_row_are_too_heavy(waits: Time) -> None:
    script = [error(500), error(500), error(429), error(500), error(500), None, error(503), GOOD]
    with asking(*script) as (client, _):
        assert client._transport.get(client._list, {}, bytes, heavy_tries=3) == SUMMARY


SHORT = ("handshake", "headers", "body", "body of a redirect")  # the others are long tests
TRICKLES = {
    "handshake": b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc\x03\x03",
    "status line": b"HTTP/1.1 200 O",
    "headers": b"HTTP/1.1 200 OK\r\nX-Padding: ",
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n",
    "body without an end": b"HTTP/1.0 200 OK\r\n\r\n",
    "body of a redirect": b"HTTP/1.1 302 Found\r\nLocation: /x\r\nContent-Length: 9999999\r\n\r\n",
    "body of an error": b"HTTP/1.1 401 No\r\nContent-Length: 9999999\r\n\r\n",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
}


@contextmanager
def trickling(begin: bytes) -> Iterator[str]:
    """A server that sends `begin` and then a byte now and then, for ever."""
    ended = threading.Event()

    def serve(place: socket.socket) -> None:
        with suppress(OSError), place:
            place.sendall(begin)
            while not ended.wait(0.02):
                place.sendall(b"1")

    def accept(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=serve, args=[server.accept()[0]], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=[server], daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        ended.set()
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "part",
    [part if part in SHORT else pytest.param(part, marks=pytest.mark.long) for part in TRICKLES],
)
def test_an_answer_that_never_ends_is_tried_again(
    waits: Time, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    """A byte now and then keeps the read timeout from expiring."""
    monkeypatch.setattr(transport, "longest_answer", lambda _: 0.3)
    scheme = "https" if part == "handshake" else "http"
    with trickling(TRICKLES[part]) as place:
        with (
            client_of(f"{scheme}://{place}", give_up_after=2) as client,
            pytest.raises(Failure, match="not all of it came in time; gave up after 2 s"),
        ):
            client.summary()
        assert client.counts.retries >= 1


def test_a_connection_that_was_kept_is_ended_too(
    waits: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "longest_answer", lambda _: 0.5)
    monkeypatch.setattr(_Handler, "protocol_version", "HTTP/1.1")
    answers = [GOOD, GOOD, (200, {"Content-Length": "999"}, SUMMARY), GOOD]
    with asking(*answers) as (client, server):
        assert {client.summary() for _ in range(3)} == {Summary(3, 2, 1)}
        assert (server.asked, client.counts.retries) == (4, 1)


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
def test_an_answer_that_is_too_large_is_not_read(
    waits: Time, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    """A kilobyte may hold a megabyte."""
    monkeypatch.setattr(connection, "MOST_BYTES", 2**20)
    huge = bytes(50 * 2**20)
    packed = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[encoding](huge)
    with asking((200, {"Content-Encoding": encoding}, packed), give_up_after=3) as (client, _):
        tracemalloc.start()
        with pytest.raises(Failure, match="the answer has more than 16 MB"):
            client._transport.get(client._list, {}, bytes)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "nonsense"])
def test_an_answer_in_an_encoding_that_was_not_asked_for_is_damaged(
    waits: Time, encoding: str
) -> None:
    with (
        asking((200, {"Content-Encoding": encoding}, SUMMARY), give_up_after=3) as (client, _),
        pytest.raises(Failure, match="the answer was damaged"),
    ):
        client.summary()


@pytest.mark.parametrize("place", [b"/\xff\xfe", b"http://[::1", b"", b"//", b"/" * 9_000, b"\x01"])
def test_an_odd_redirect_is_an_error_like_any_other(waits: Time, place: bytes) -> None:
    headers = {"Location": place.decode("latin-1")}
    with asking((302, headers, b""), GOOD) as (client, server):
        with pytest.raises(ApiError, match="Twilio answered 302"):
            client.summary()
        assert server.asked == 1


def proxy(status: int) -> type[BaseHTTPRequestHandler]:
    class Proxy(BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            self.send_response_only(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Proxy


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"REQUESTS_CA_BUNDLE": "/nowhere"}, "REQUESTS_CA_BUNDLE does not name a file of cert"),
        ({"CURL_CA_BUNDLE": "/nowhere"}, "CURL_CA_BUNDLE does not name a file of certificates"),
        ({"REQUESTS_CA_BUNDLE": __file__, "HTTPS_PROXY": "200"}, "REQUESTS_CA_BUNDLE does not"),
        ({"HTTPS_PROXY": "407"}, "write HTTPS_PROXY=http://NAME:PASSWORD@HOST:PORT"),
        ({"all_proxy": "407"}, "write all_proxy=http://NAME:PASSWORD@HOST:PORT"),
        ({"https_proxy": "socks5://127.0.0.1:1"}, "https_proxy names a SOCKS proxy, which needs"),
        ({"HTTPS_PROXY": "http://"}, "HTTPS_PROXY is not a URL such as"),
        ({"HTTPS_PROXY": "http://[::1"}, "HTTPS_PROXY is not a URL such as"),
        ({"ALL_PROXY": "ftp://127.0.0.1:9"}, "ALL_PROXY is not a URL such as"),
        ({"HTTPS_PROXY": "http://secret-name:secret-word@127.0.0.1:999999"}, "HTTPS_PROXY is not"),
    ],
)
def test_what_is_wrong_in_the_environment_is_told_at_once(
    waits: Time, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    for name in ("HTTPS_PROXY", "ALL_PROXY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    answers = [int(value) for value in variables.values() if value.isdecimal()]
    with ThreadingHTTPServer(("127.0.0.1", 0), proxy(*answers or [407])) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        here = f"http://127.0.0.1:{server.server_port}"
        for name, value in variables.items():
            monkeypatch.setenv(name, here if value.isdecimal() else value)
        with client_of("https://verify.invalid") as client:
            with pytest.raises(Failure, match=r"no answer from verify\.invalid") as caught:
                client.summary()
            assert client.counts.requests == 1
        server.shutdown()
    assert told in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_proxy_that_is_down_is_named_and_waited_for(
    waits: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    with nobody_listening() as place:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{place.getsockname()[1]}")
        with (
            client_of("https://verify.invalid", give_up_after=5) as client,
            pytest.raises(
                Failure, match=r"the proxy did not pass it on \(see HTTPS_PROXY\); gave up"
            ),
        ):
            client.summary()
        assert client.counts.retries


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "identity"])
def test_a_packed_answer_is_unpacked(encoding: str) -> None:
    body = SUMMARY.replace(b"}", b', "padding": "' + os.urandom(300_000).hex().encode() + b'"}')
    packed = {"gzip": gzip.compress, "deflate": zlib.compress, "identity": bytes}[encoding](body)
    with asking((200, {"Content-Encoding": encoding}, packed)) as (client, _):
        assert client.summary() == Summary(3, 2, 1)


def test_a_server_that_is_not_there_yet_is_waited_for(waits: Time) -> None:
    found: list[Summary] = []
    with nobody_listening() as place:
        url = f"http://127.0.0.1:{place.getsockname()[1]}"
        with client_of(url, give_up_after=float("inf")) as client:
            asker = threading.Thread(target=lambda: found.append(client.summary()))
            asker.start()
            wait_until(lambda: client.counts.retries > 3)
            server = Scripted([GOOD], place)
            threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
            asker.join()
            server.shutdown()
    assert found == [Summary(3, 2, 1)]


def http_date(seconds: float) -> str:
    return format_datetime(NOW + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "least", "most"),
    [
        ({"Retry-After": "10"}, 10, 11),
        ({"Retry-After": http_date(10), "Date": http_date(0)}, 10, 11),
        ({"Retry-After": http_date(-5), "Date": http_date(0)}, 1, 2),
        ({"Retry-After": "0"}, 1, 2),
        ({"Retry-After": "soon"}, 1, 2),
        ({"Retry-After": "Mon, 01 Jan 99999999999 00:00:00 GMT"}, 1, 2),
        ({"Retry-After": "-3"}, 1, 2),
        ({}, 1, 2),
    ],
)
def test_retry_after_is_honoured(
    waits: Time, headers: dict[str, str], least: float, most: float
) -> None:
    for status in (429, 503):
        waits.elapsed = 0.0
        with asking(error(status, **headers), GOOD) as (client, _):
            client.summary()
        assert least <= waits.elapsed <= most


def test_a_server_that_cannot_be_trusted_is_not_asked_again(waits: Time) -> None:
    """The server speaks plain HTTP where TLS is expected, as an attacker in between might."""
    with asking(GOOD) as (_, server):
        url = f"https://127.0.0.1:{server.server_port}"
        with client_of(url) as other, pytest.raises(Failure, match="can be trusted: WRONG_VERSION"):
            other.summary()
        assert (other.counts.requests, server.asked) == (1, 0)


def test_an_answer_that_makes_no_sense_is_described(
    waits: Time, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "verify_sync")
    headers = {"Content-Type": "text/html", "Twilio-Request-Id": "RQ7"}
    with asking((200, headers, b"<html>"), GOOD) as (client, _):
        client.summary()
    assert "not a summary (text/html, 6 bytes, request RQ7)" in caplog.text


class Virtual:
    """A clock that only waiting moves: for `Pacer.pause` and for the clock of `retries`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: list[float] = []
        monkeypatch.setattr(Pacer, "pause", lambda _, seconds: self.waits.append(seconds))
        clock = SimpleNamespace(monotonic=lambda: self.now, time=time.time)
        monkeypatch.setattr(retries, "time", clock)

    @property
    def now(self) -> float:
        return sum(self.waits)


def outage(virtual: Virtual, seconds: float, answer: Answer) -> Callable[[str, Any], Any]:
    """A `_send` that returns `answer` for so many seconds, and then a good answer."""

    def send(self: Any, url: str, parameters: Any) -> transport.Answer:
        status, headers, body = GOOD if virtual.now >= seconds else answer
        return transport.Answer(status, "", headers, body)

    return send


@pytest.mark.parametrize(
    "headers", [{}, {"Retry-After": "1"}, {"Retry-After": "50"}, {"Retry-After": "86400"}]
)
@pytest.mark.parametrize("seconds", [1, 299, 600])
def test_ten_minutes_of_outage_are_survived(
    monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], seconds: float
) -> None:
    virtual = Virtual(monkeypatch)
    monkeypatch.setattr(
        transport.Transport, "_send", outage(virtual, seconds, error(503, **headers))
    )
    with client_of("http://127.0.0.1:1") as client:
        assert client.summary() == Summary(3, 2, 1)
    assert seconds <= virtual.now
    assert len(virtual.waits) < 40  # however short Retry-After is
    if not headers:
        assert max(virtual.waits) <= retries.LONGEST_WAIT
        assert all(wait != round(wait) for wait in virtual.waits)  # jitter
        assert all(later > earlier for earlier, later in itertools.pairwise(virtual.waits[:5]))


def test_a_longer_outage_is_given_up_after_ten_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    virtual = Virtual(monkeypatch)
    monkeypatch.setattr(transport.Transport, "_send", outage(virtual, 1e9, error(502)))
    with (
        client_of("http://127.0.0.1:1") as client,
        pytest.raises(
            Failure, match=r"502: Went wrong.*10 min \(setting give_up_after\): run again later"
        ) as caught,
    ):
        client.summary()
    assert caught.value.exit_code == 1
    assert 600 <= virtual.now <= 660


def test_waiting_for_a_slot_is_no_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    """give_up_after counts from the first failure, not from the start of the request."""
    virtual = Virtual(monkeypatch)
    original = Pacer._take

    def take(self: Pacer) -> int:
        if not virtual.waits:
            virtual.waits.append(10_000)
        return original(self)

    monkeypatch.setattr(Pacer, "_take", take)
    monkeypatch.setattr(transport.Transport, "_send", outage(virtual, 10_500, error(503)))
    with client_of("http://127.0.0.1:1") as client:
        assert client.summary() == Summary(3, 2, 1)


@pytest.mark.parametrize("seconds", [61.5, 3600, -62.5, -3600])
def test_another_clock_than_twilios_is_said(waits: Time, seconds: float) -> None:
    with asking((200, {"Date": http_date(seconds)}, SUMMARY)) as (client, server):
        with pytest.raises(Failure, match=r"clock.*nothing read with it is recorded"):
            client.summary()
        assert server.asked == 1


@pytest.mark.parametrize(
    "date",
    [
        -55,
        55,
        None,
        "soon",
        "Mon, 99 Foo 2026 00:00:00 GMT",
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
    ],
)
def test_a_clock_that_agrees_or_says_nothing_does_not_matter(waits: Time, date: Any) -> None:
    date = http_date(date) if isinstance(date, int) else date
    with asking((200, {"Date": date} if date else {}, SUMMARY)) as (client, _):
        assert client.summary() == Summary(3, 2, 1)


def test_a_slow_answer_is_no_wrong_clock() -> None:
    clock, sent = Clock(NOW), http_date(-90)
    clock.check(sent, seconds=90)
    with pytest.raises(Failure, match="clock"):
        clock.check(sent, seconds=1)


def test_a_machine_that_slept_is_no_wrong_clock(time: Time) -> None:
    """During sleep the monotonic clock stops. The wall clock goes on, and so does Twilio's."""
    clock = Clock(NOW)
    time.slept = 8 * 3600
    clock.check(http_date(8 * 3600), seconds=0)
    with pytest.raises(Failure, match="clock"):
        clock.check(http_date(0), seconds=0)


def test_ending_the_client_ends_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[BaseException] = []

    def ask(client: Client) -> None:
        try:
            client.summary()
        except Failure as failure:
            found.append(failure)

    forever = error(503, **{"Retry-After": "1000000"})
    with asking(forever, give_up_after=10.0**6) as (client, _):
        asker = threading.Thread(target=ask, args=[client])
        asker.start()
        wait_until(lambda: client.counts.retries)
    asker.join()
    assert len(found) == 1


def test_the_number_asked_for_is_in_no_message(
    waits: Time, caplog: pytest.LogCaptureFixture
) -> None:
    """requests and urllib3 quote the URL in their exceptions."""
    caplog.set_level(logging.DEBUG, "verify_sync")
    with (
        nobody_listening() as place,
        client_of(f"http://127.0.0.1:{place.getsockname()[1]}", give_up_after=0.1) as client,
        pytest.raises(Failure) as caught,
    ):
        client.read(filters=Filters(to="+573003003030"))
    assert caught.value.__suppress_context__
    assert "3003003030" not in str(caught.value) + caplog.text


class InStep(Pacer):
    """Threads retry only when all of them wait."""

    def __init__(self, threads: int) -> None:
        super().__init__(1000)
        self._all_wait = threading.Barrier(threads)

    def pause(self, _: float) -> None:
        self._all_wait.wait()


def test_an_outage_is_one_line_a_try_and_not_one_a_thread(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "verify_sync")
    with (
        asking(*[error(503)] * 12, *[GOOD] * 4, pacer=InStep(4)) as (client, _),
        ThreadPoolExecutor(4) as threads,
    ):
        answers = [threads.submit(client.summary) for _ in range(4)]
        assert {answer.result() for answer in answers} == {Summary(3, 2, 1)}
        assert (client.counts.retries, caplog.text.count("trying again")) == (12, 3)
    with asking(error(503), GOOD, error(503), GOOD, pacer=InStep(1)) as (client, _):
        client.summary()
        client.summary()  # after a good answer, a failure is a new outage
        assert caplog.text.count("trying again") == 5


def test_an_outage_is_waited_out_once_and_not_by_each_question(waits: Time) -> None:
    with asking(error(503), give_up_after=20) as (client, _):
        for ask in (client.summary, client.read, lambda: client.fetch("VL" + "0" * 32)):
            with pytest.raises(Failure, match="gave up after 20 s"):
                ask()
        assert 20 <= waits.elapsed < 45


def test_a_good_answer_ends_an_outage(waits: Time) -> None:
    bad = [error(503)] * 3
    with asking(*bad, GOOD, *bad, GOOD, *bad, GOOD, give_up_after=15) as (client, _):
        for _ in range(3):  # together longer than 15 s
            waits.elapsed += 10
            assert client.summary() == Summary(3, 2, 1)


def test_a_question_that_always_fails_is_given_up_though_others_are_answered(waits: Time) -> None:
    class Partly(_Handler):
        def do_GET(self) -> None:
            is_summary = self.path.startswith("/v2/Attempts/Summary")
            self.server.script = iter([error(503) if is_summary else GOOD])
            super().do_GET()

    with asking(GOOD, give_up_after=20) as (client, server):
        server.RequestHandlerClass = Partly
        with ThreadPoolExecutor(1) as threads:
            failing = threads.submit(client.summary)
            while not failing.done():
                client._transport.get(client._list, {}, bytes)
            with pytest.raises(Failure, match="gave up after 20 s"):
                failing.result()


def test_a_clock_that_cannot_be_checked_is_told_once(
    waits: Time, caplog: pytest.LogCaptureFixture
) -> None:
    with asking(GOOD) as (client, _):
        client.summary()
        client.summary()
    assert caplog.text.count("this machine's clock could not be checked") == 1
    caplog.clear()
    with asking((200, {"Date": http_date(0)}, SUMMARY)) as (client, _):
        client.summary()
    assert caplog.text == ""


@pytest.mark.parametrize("length", [10_000, 1_000_000])
def test_an_error_of_any_length_is_cut(waits: Time, length: int) -> None:
    body = json.dumps({"message": "call+" * (length // 5), "code": "9" * length}).encode()
    with asking((400, {"Twilio-Request-Id": "a" * 9_000}, body)) as (client, _):
        with pytest.raises(ApiError) as caught:
            client.summary()
        assert len(str(caught.value)) < 2_000
