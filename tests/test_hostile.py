"""Answers at random: whatever comes, a run ends with a word and an exit code, and loses nothing."""

from __future__ import annotations

import gzip
import json
import logging
import random
import resource
import time
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.__main__ import main
from pipelines.errors import Failure
from pipelines.sandbox import server
from pipelines.twilio.client import Client
from pipelines.twilio.clock import Clock
from pipelines.twilio.credentials import Credentials
from pipelines.twilio.pacing import Pacer
from tests.worlds import PACELESS, PATIENT, World, configure

pytestmark = pytest.mark.usefixtures("waits", "silence")
BOMB = gzip.compress(bytes(10**8))
MEMORY = 600  # MB that a run may take more than before
Headers = list[tuple[str, bytes]]
STATUSES = (
    200, 200, 200, 201, 204, 206, 301, 302, 304, 307, 400, 404, 408, 410, 413, 418, 429, 451, 500,
    502, 503, 504, 599, 999,
)  # fmt: skip
FIELDS: tuple[tuple[str, tuple[bytes, ...]], ...] = (
    ("Content-Length", (b"0", b"7", b"-1", b"99999999999", b"ten", b"1, 2", b"")),
    ("Transfer-Encoding", (b"chunked", b"gzip, chunked", b"nonsense")),
    ("Content-Encoding", (b"gzip", b"br", b"deflate", b"zstd", b"gzip, gzip", b"\xff")),
    ("Content-Type", (b"text/html", b"application/json; charset=utf-16", b"x" * 60_000)),
    ("Retry-After", (b"-1", b"9" * 400, b"soon", b"Mon, 01 Jan 99999999999 00:00:00 GMT")),
    ("Date", (b"", b"soon", b"Thu, 01 Jan 1970 00:00:00 GMT", b"9" * 60_000)),
    ("Location", (b"/\xff\xfe", b"http://[::1", b"//evil.example", b"\t")),
    ("Twilio-Request-Id", (b"\x1b[2J", b"+573003003030", b"R" * 60_000)),
    ("X-Odd\xff", (b"\x00", b"a\x85b")),
)
ODD_VALUES: tuple[Any, ...] = (
    None, 0, -1, 1e300, 10**30, True, "", "\x00", "\x1b[31m", "+573003003030", "x" * 5_000, [], {},
    [[]], {"sid": 1}, "http://[::1", "2026-02-30T00:00:00Z", "\ud83d",
)  # fmt: skip


@pytest.fixture
def silence(caplog: pytest.LogCaptureFixture) -> None:
    """Else pytest keeps each log record, and with a traceback's frames the whole answer."""
    for name in ("urllib3", "verify_sync"):
        caplog.set_level(logging.CRITICAL, name)


class Hostile:
    """Spoils a share of the sandbox's answers. `spoiled` counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
        self.share, self.spoiled = share, 0
        monkeypatch.setattr(server._Handler, "_reply", self._replying(server._Handler._reply))

    def _replying(self, reply: Callable[..., None]) -> Callable[..., None]:
        def replying(handler: Any, status: int, body: bytes, *rest: Any) -> None:
            if random.random() >= self.share:
                reply(handler, status, body, *rest)
                return
            self.spoiled += 1
            handler.close_connection = True
            handler.wfile.write(self._spoiled(status, body))

        return replying

    def _spoiled(self, status: int, body: bytes) -> bytes:
        head: Headers = [("Content-Type", b"application/json")]
        for spoil in random.sample((spoil_status, spoil_headers, spoil_body, spoil_json), 2):
            status, head, body = spoil(status, head, body)
        if not any(name == "Content-Length" for name, _ in head):
            head.append(("Content-Length", str(len(body)).encode()))
        lines = [f"HTTP/1.1 {status} Odd".encode()]
        lines += [name.encode("latin-1") + b": " + value for name, value in head]
        return b"\r\n".join([*lines, b"", body])


def spoil_status(_: int, head: Headers, body: bytes) -> tuple[int, Headers, bytes]:
    return random.choice(STATUSES), head, body


def spoil_headers(status: int, head: Headers, body: bytes) -> tuple[int, Headers, bytes]:
    added = [(name, random.choice(values)) for name, values in random.choices(FIELDS, k=2)]
    if random.random() < 0.05:
        added *= 100  # more than a client accepts
    return status, head + added, body


def spoil_body(status: int, head: Headers, body: bytes) -> tuple[int, Headers, bytes]:
    at = random.randrange(len(body) + 1)
    spoiled: tuple[Callable[[], bytes], ...] = (
        lambda: body[:at],
        lambda: body + body,
        lambda: body[:at] + random.randbytes(3) + body[at:],
        lambda: body[:at] + bytes([random.randrange(256)]) + body[at + 1 :],
        lambda: b"",
        lambda: random.randbytes(200),
        lambda: b"[" * 100_000,
        lambda: b'{"attempts":' * 20_000,
        lambda: body.decode("latin-1").encode("utf-16"),
        lambda: BOMB,
    )
    return status, head, random.choice(spoiled)()


def spoil_json(status: int, head: Headers, body: bytes) -> tuple[int, Headers, bytes]:
    """Replaces a value somewhere in the body by an odd one, or removes its key."""
    try:
        whole = json.loads(body)
    except (ValueError, RecursionError):  # spoiled before
        return status, head, body
    place = whole if isinstance(whole, (dict, list)) else [whole]
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = random.choice(list(keys)) if keys else None
        if key is None:
            break
        if isinstance(place[key], (dict, list)) and place[key] and random.random() < 0.8:
            place = place[key]
            continue
        if random.random() < 0.2:
            del place[key]
        else:
            place[key] = random.choice(ODD_VALUES)
        break
    return status, head, json.dumps(whole).encode()


def peak() -> float:
    """The most memory of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@pytest.mark.parametrize("answers", [15, pytest.param(200, marks=pytest.mark.long)])
def test_a_run_ends_with_a_word_and_loses_nothing(
    make_world: Callable[..., World],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    answers: int,
) -> None:
    world = make_world(attempts=400)
    configure(world, monkeypatch)
    monkeypatch.setenv("SOURCES__TWILIO_VERIFY__PAGE_SIZE", "20")
    before, stored = peak(), set[str]()
    with monkeypatch.context() as patch:
        hostile = Hostile(patch, share=0.4)
        while hostile.spoiled < answers:
            began = time.process_time()
            assert main(["sync"], now=world.now) in (0, 1, 2)
            assert time.process_time() - began < 60
            told = capfd.readouterr()
            assert "Traceback" not in told.err, told.err
            assert "3003003030" not in told.out + told.err
            assert told.err.replace("\n", "").isprintable()
            if world.settings.published.exists():
                found = {row["sid"] for row in world.query("select sid from raw")}
                assert found >= stored
                stored = found
            world.move(hours=7)
    assert peak() - before < MEMORY
    assert main(["backfill"], now=world.now) == 0
    truth, now = world.truth(), world.stored()
    assert {sid: now[sid] for sid in truth} == truth
    assert now.keys() >= stored


@pytest.mark.parametrize("answers", [400, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_client_ends_with_a_failure_or_with_pages(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, answers: int
) -> None:
    world = make_world(attempts=200)
    hostile, before = Hostile(monkeypatch, share=0.8), peak()
    credentials = Credentials.of(world.sandbox.account_sid, world.sandbox.auth_token)
    ends = {True: 0, False: 0}
    while hostile.spoiled < answers:
        with Client(
            credentials, world.sandbox.url, 50, PATIENT, Clock(world.now), Pacer(PACELESS)
        ) as client:
            for ask in (client.summary, lambda: client.read(limit=60), lambda: client.fetch("VL")):
                try:
                    ask()
                    ends[True] += 1
                except Failure as failure:
                    ends[False] += 1
                    said = str(failure)
                    assert said.isprintable(), said
                    assert len(said) < 2_500
                    assert "3003003030" not in said
    assert min(ends.values()) > 0
    assert peak() - before < MEMORY
