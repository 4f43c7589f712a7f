"""Every network fault, through the real sync: the warehouse equals the truth, or the run says why.

No file and no message contains a secret or a phone number.
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipelines.__main__ import main
from pipelines.commands.sync import sync
from pipelines.reading.windows import Window
from pipelines.sandbox import server
from pipelines.sandbox.api import Refusal
from pipelines.sandbox.faults import _ODD, KINDS
from pipelines.sandbox.server import Request
from pipelines.sandbox.switches import Limits
from pipelines.twilio import pacing, retries
from pipelines.twilio.client import Client
from pipelines.twilio.limits import RETENTION, SECOND
from tests import nursery
from tests.clocks import Time
from tests.worlds import NOW, PATIENT, World, busiest, due_windows, environment_of, slice_small

MakeWorld = Callable[..., World]
QUIET = Limits(requests=0, retry_after="none")
DATA = ("verify.duckdb", "loading.duckdb", "loading.duckdb.wal")
_DIGITS, _ADDRESS = re.compile(rb"\d{7,15}"), re.compile(rb"user\d+(?:@|%40)[\w.]+")


pytestmark = pytest.mark.usefixtures("waits")
LONG = pytest.mark.long  # single cases of what a short test combines, or more of the same


class Operator:
    """Runs commands on a world as an operator does, and looks for secrets in all they leave."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capfd = monkeypatch, capfd
        self.told = ""

    def run(self, world: World, *argv: str, **settings: object) -> int:
        """Runs a command with --debug and returns its exit code. `told` has its output."""
        environment = environment_of(world)
        for name, value in settings.items():
            environment[f"SOURCES__TWILIO_VERIFY__{name.upper()}"] = str(value)
        with self._monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            code = main([*argv, "--debug"], now=world.now)
        captured = self._capfd.readouterr()
        self.told = captured.out + captured.err
        # `list` prints numbers on purpose: only its stderr must hide them.
        self.look_for_secrets(world, captured.err if argv[0] == "list" else self.told)
        return code

    def look_for_secrets(self, world: World, told: str) -> None:
        sent_to = {row["channel_data__to"] for row in world.truth().values()} - {None}
        personal = {to.lstrip("+").encode() for to in sent_to}
        assert len(personal) > 100
        left = {"what was said": told.encode()}
        for file in Path(world.settings.directory).rglob("*"):
            left[str(file)] = str(file.name).encode()
            if file.is_file() and file.name not in DATA:
                left[str(file)] += file.read_bytes()
        for place, content in left.items():
            assert world.sandbox.auth_token.encode() not in content, place
            found = {*_DIGITS.findall(content), *_ADDRESS.findall(content)}
            assert found & personal == set(), place


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Operator:
    return Operator(monkeypatch, capfd)


def holds_the_truth(world: World) -> bool:
    assert world.stored() == world.truth()
    (counted,) = world.query("select count(*) as n, count(distinct sid) as sids from raw")
    return bool(counted["n"] == counted["sids"] == len(world.truth()))


def nothing_is_recorded(world: World) -> bool:
    whole = Window(world.now - RETENTION, world.now - SECOND)
    return not world.settings.published.exists() and due_windows(world) == [whole]


def asked(request: Request) -> tuple[str, str]:
    return request.parameters["DateCreatedAfter"], request.parameters["DateCreatedBefore"]


# --- requests that fail


@pytest.mark.parametrize(
    "kind", ["all", "hang", *(pytest.param(k, marks=LONG) for k in KINDS if k != "hang")]
)
def test_an_answer_that_fails_is_asked_for_again(
    make_world: MakeWorld, operator: Operator, kind: str
) -> None:
    world = make_world(attempts=600, fail=kind, hang=PATIENT, limits=QUIET)
    hangs = {"timeout": 1} if kind in ("hang", "all") else {}
    assert operator.run(world, "sync", page_size=50, **hangs) == 0
    assert holds_the_truth(world)
    assert kind == "hang" or any(request.fault for request in world.sandbox.log)
    assert "retried" in operator.told


@pytest.mark.parametrize("form", ["seconds", pytest.param("date", marks=LONG)])
def test_it_waits_as_long_as_a_throttled_answer_says(
    make_world: MakeWorld, operator: Operator, form: str
) -> None:
    limits = Limits(requests=20, seconds=3, retry_after=form)
    world = make_world(limits=limits)
    assert operator.run(world, "sync", page_size=70, concurrency=2) == 0
    assert holds_the_truth(world)
    throttled = [request.at for request in world.sandbox.log if request.status == 429]
    assert 1 <= len(throttled) <= 4  # once or twice per reader, not again and again


def test_an_outage_is_waited_out_and_large_pages_come_back(
    make_world: MakeWorld, operator: Operator
) -> None:
    world = make_world(attempts=3_000, outage=300, limits=QUIET)
    assert operator.run(world, "sync", concurrency=2) == 0
    assert holds_the_truth(world)
    log = world.sandbox.log
    pages = [request for request in log if "PageSize" in request.parameters]
    recovered = [page.parameters["PageSize"] for page in pages if page.status == 200]
    assert {*recovered} == {"50", "1000"}
    assert recovered.count("50") <= 2  # one small page per reader, to see if the outage is over
    assert len([request for request in log if request.status == 503]) > 10


def test_an_outage_that_lasts_ends_the_run_and_loses_nothing(
    make_world: MakeWorld, operator: Operator
) -> None:
    world = make_world(attempts=600, outage=1e6)
    assert operator.run(world, "sync", give_up_after="1s") == 1
    assert "Twilio answered 503" in operator.told
    assert "give_up_after" in operator.told
    assert nothing_is_recorded(world)
    world = make_world(attempts=600)
    assert operator.run(world, "sync") == 0
    assert holds_the_truth(world)


def test_a_run_that_fails_keeps_the_slices_it_has_read(
    make_world: MakeWorld, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    slice_small(monkeypatch.setattr)
    world = make_world(attempts=1_500)
    failing, log = world.sandbox.failing, world.sandbox.log
    usual = failing.draw

    def draw(at: float) -> str | None:
        return "503" if sum("PageSize" in r.parameters for r in log) >= 12 else usual(at)

    failing.draw = draw  # type: ignore[method-assign]
    assert operator.run(world, "sync", give_up_after="1s", page_size=100) == 1
    failing.draw = usual  # type: ignore[method-assign]
    complete = {asked(r) for r in log if r.status == 200 and "PageSize" in r.parameters}
    assert operator.run(world, "sync", page_size=100) == 0, operator.told
    assert holds_the_truth(world)
    read = world.query("select attempts from twilio_verify.windows_read")
    assert 3 < len(complete) < len(read)
    assert sum(row["attempts"] for row in read) == len(world.truth())  # no attempt is read twice


@pytest.mark.parametrize("limit", [400, pytest.param(50, marks=LONG)])
def test_a_page_that_is_too_large_is_made_smaller(
    make_world: MakeWorld, operator: Operator, limit: int
) -> None:
    world = make_world(attempts=2_500, days=4, heavy_page=limit, limits=QUIET)
    assert operator.run(world, "sync") == 0
    assert holds_the_truth(world)
    log = world.sandbox.log
    tried = Counter(int(r.parameters["PageSize"]) for r in log if r.status == 500)
    slices = len({r.parameters["DateCreatedAfter"] for r in log if "PageSize" in r.parameters})
    largest = {s: n for s, n in tried.items() if s > limit}
    assert tried == largest  # nothing else failed
    # Three tries at each size, and each slice starts with the full size again.
    sizes = [s for s in (1000, 500, 250, 125, 62) if s > limit]
    assert tried == dict.fromkeys(sizes, 3 * slices)


def test_the_size_of_a_page_stays_the_same_along_a_chain(
    make_world: MakeWorld, operator: Operator
) -> None:
    """A page token is valid only for the page size that it was made with."""
    world = make_world(attempts=2_500, days=4, heavy_page=400, limits=QUIET)
    assert operator.run(world, "sync") == 0
    tokens = [r.parameters for r in world.sandbox.log if "PageToken" in r.parameters]
    assert tokens
    assert {p["PageSize"] for p in tokens} == {"250"}


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("401", 2, "TWILIO_AUTH_TOKEN"),
        ("404", 1, "20404"),
        pytest.param("400", 1, "60200", marks=LONG),
        pytest.param("403", 2, "20403", marks=LONG),
    ],
)
def test_an_answer_that_stays_ends_the_run_at_once(
    make_world: MakeWorld, operator: Operator, kind: str, code: int, said: str
) -> None:
    world = make_world(attempts=600, fail=kind, fail_rate=1.0)
    assert operator.run(world, "sync", concurrency=2) == code
    assert said in operator.told
    assert "RQ0" in operator.told
    assert len(world.sandbox.log) <= 4  # two Summaries, two readers, no retries
    assert nothing_is_recorded(world)


# --- misleading links to the next page


def test_a_slice_whose_token_is_refused_starts_again(
    make_world: MakeWorld, operator: Operator
) -> None:
    world = make_world(attempts=600, refused_tokens=4, limits=QUIET)
    assert operator.run(world, "sync", page_size=50) == 0
    assert holds_the_truth(world)
    assert operator.told.count("starts again") == 4


def test_tokens_that_are_always_refused_end_the_run(
    make_world: MakeWorld, operator: Operator
) -> None:
    world = make_world(attempts=600, refused_tokens=10**6, limits=QUIET)
    assert operator.run(world, "sync", page_size=50, concurrency=2) == 1
    assert "PageToken (code 60200" in operator.told
    assert len(world.sandbox.log) < 30
    assert nothing_is_recorded(world)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("circle", "circle"),
        ("host", "leads away"),
        pytest.param("itself", "circle", marks=LONG),
        pytest.param("plain_http", "leads away", marks=LONG),
        pytest.param("filter", "changes DateCreatedAfter", marks=LONG),
    ],
)
def test_a_chain_that_misleads_ends_the_run(
    make_world: MakeWorld, operator: Operator, wrong: str, said: str
) -> None:
    world = make_world(next_page=wrong)
    assert operator.run(world, "sync", page_size=50, concurrency=2) == 1
    assert said in operator.told
    assert len(world.sandbox.log) < 15
    assert nothing_is_recorded(world)


# --- filters that are ignored


def a_value(world: World, column: str) -> str:
    found: str = next(row[column] for row in world.truth().values() if row["channel"] == "sms")
    return found


@pytest.mark.parametrize(
    ("setting", "column", "parameter"),
    [
        ("country", "channel_data__country", "Country"),
        ("to", "channel_data__to", "ChannelData.To"),
        (None, None, "DateCreatedAfter"),
        pytest.param("channel", "channel", "Channel", marks=LONG),
        pytest.param("verify_service_sid", "service_sid", "VerifyServiceSid", marks=LONG),
        pytest.param("verification_sid", "verification_sid", "VerificationSid", marks=LONG),
        pytest.param(None, None, "DateCreatedBefore", marks=LONG),
    ],
)
def test_a_filter_that_the_api_ignores_ends_the_run(
    make_world: MakeWorld,
    operator: Operator,
    setting: str | None,
    column: str | None,
    parameter: str,
) -> None:
    world = make_world(ignored=parameter)
    settings = {setting: a_value(world, column)} if setting and column else {}
    assert operator.run(world, "sync", page_size=50, **settings) == 1
    assert len(world.sandbox.log) < 60
    assert parameter in operator.told
    assert "ignores" in operator.told
    assert setting or nothing_is_recorded(world)
    assert not world.settings.published.exists()


# --- a clock that differs


@pytest.mark.parametrize("offset", [120, -120, pytest.param(10**6, marks=LONG)])
def test_another_clock_ends_the_run_and_records_nothing(
    make_world: MakeWorld, operator: Operator, offset: int
) -> None:
    world = make_world(attempts=600, clock_offset=offset)
    assert operator.run(world, "sync") == 1
    assert "clock" in operator.told
    assert nothing_is_recorded(world)


# --- odd rows


@pytest.mark.parametrize("rows", ["mixed", *(pytest.param(kind, marks=LONG) for kind in _ODD)])
def test_odd_rows_are_stored_or_rejected_but_never_lost(
    make_world: MakeWorld, operator: Operator, rows: str
) -> None:
    world = make_world(attempts=600, rows=rows)
    assert operator.run(world, "sync") == 0
    told = operator.told
    assert operator.run(world, "sync", "--dry-run") == 0  # later runs do not fail on them
    assert holds_the_truth(world)
    unusable = world.unusable()
    assert bool(unusable) == (rows in ("no_sid", "no_date", "mixed"))
    rejected = world.query("from twilio_verify.rejected_attempts")
    kept = [json.dumps(json.loads(row["attempt"]), sort_keys=True) for row in rejected]
    assert sorted(kept) == sorted(json.dumps(row, sort_keys=True) for row in unusable)
    assert {row["reason"] for row in rejected} <= {"no usable sid", "no usable date_created"}
    assert (f"{len(unusable)} rejected" in told) == bool(unusable)
    assert ("rows from Twilio are not attempts" in told) == bool(unusable)
    names = {r["column_name"] for r in world.query("describe twilio_verify.attempts")}
    assert not [name for name in names if "__v_" in name]
    assert world.query("select count(*) as n from verification_attempts")[0]["n"] > 0


def test_rejected_rows_are_kept_once_however_often_they_are_read(
    make_world: MakeWorld, operator: Operator
) -> None:
    world = make_world(attempts=600, rows="no_sid")
    operator.run(world, "sync")
    first = {str(row) for row in world.query("select attempt from twilio_verify.rejected_attempts")}
    # The schedule is different, so everything is due again.
    assert operator.run(world, "sync", revisit_after='["10m", "4d"]') == 0
    again = world.query("select attempt from twilio_verify.rejected_attempts")
    assert {str(row) for row in again} == first
    assert len(again) == len(first) > 100


def test_keys_without_a_column_are_named_once_a_run(
    make_world: MakeWorld, operator: Operator
) -> None:
    world = make_world(attempts=600, rows="unknown_keys")
    operator.run(world, "sync")
    assert operator.told.count("brand, channel_data.segments") == 1


# --- what dlt stores and sends


def test_a_token_from_secrets_toml_is_written_nowhere_else(
    world: World, operator: Operator, tmp_path: Path
) -> None:
    """dlt's trace of a run would contain every setting that dlt has looked up."""
    (tmp_path / ".dlt").mkdir()
    sandbox = world.sandbox
    (tmp_path / ".dlt" / "secrets.toml").write_text(
        "[sources.twilio_verify]\n"
        f'account_sid = "{sandbox.account_sid}"\nauth_token = "{sandbox.auth_token}"\n'
        f'base_url = "{sandbox.url}"\nto = "{a_value(world, "channel_data__to")}"\n'
    )
    given = {"DLT_PROJECT_DIR": str(tmp_path), "WAREHOUSE__DIR": str(world.settings.directory)}
    argv = (NOW.isoformat(), "", "0", "0", "0", "sync")
    told = nursery.run("tests.crash", argv, {**os.environ, **given})
    assert told.returncode == 0, told.stderr
    assert world.stored()
    operator.look_for_secrets(world, told.stdout + told.stderr)


def test_dlt_tells_nobody_anything_wherever_it_runs(world: World, tmp_path: Path) -> None:
    """In a folder without our config.toml, dlt by default sends telemetry."""
    heard: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        environment = {**os.environ, **environment_of(world), "DLT_PROJECT_DIR": str(tmp_path)}
        environment["RUNTIME__DLTHUB_TELEMETRY_ENDPOINT"] = endpoint
        del environment["RUNTIME__DLTHUB_TELEMETRY"]
        argv = (NOW.isoformat(), "", "0", "0", "0", "sync")
        told = nursery.run("tests.crash", argv, environment)
        server.shutdown()
    assert told.returncode == 0, told.stderr
    assert heard == []


def test_a_number_to_sync_by_is_repeated_by_nobody(world: World, operator: Operator) -> None:
    """Whatever the spelling: here the API quotes the number without its plus sign."""
    number = a_value(world, "channel_data__to")

    def answer(*_: object) -> str:
        raise Refusal(400, 60200, f"No such destination: {number.lstrip('+')}")

    world.sandbox.answer = answer  # type: ignore[method-assign]
    assert operator.run(world, "sync", to=number) == 1
    assert "No such destination: [secret]" in operator.told


# --- everything at once


def test_commands_one_after_the_other_share_the_limit(
    make_world: MakeWorld, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacing, "WINDOW", 5.0)
    world = make_world(limits=Limits(requests=40, seconds=5))
    for argv in (["sync", "--dry-run"], ["list"], ["sync"], ["sync", "--dry-run"], ["list"]):
        assert operator.run(world, *argv, requests_per_minute=40, page_size=35) == 0
    log = world.sandbox.log
    assert len(log) > 60
    assert {request.status for request in log} == {200}
    # The limit is nearly used up and never exceeded. While one of four threads waits, others may be
    # in flight.
    assert 36 < busiest([request.at for request in log], 5.0) <= 40


@pytest.mark.long
def test_a_soak_ends_complete_and_never_exceeds_the_limit(
    make_world: MakeWorld, waits: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """About 300 requests of sync at 40 requests in 2 seconds. Three in ten of them fail."""
    monkeypatch.setattr(pacing, "WINDOW", 2.0)
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)  # short: the rate limit must cause the waits
    monkeypatch.setattr(retries, "LONGEST_WAIT", 0.05)
    kinds = [kind for kind in KINDS if kind != "hang"]  # so the client never waits for a timeout
    limits = Limits(requests=40, seconds=2, retry_after="none")
    world = make_world(attempts=17_000, fail=",".join(kinds), rows="mixed", limits=limits)
    world.settings = replace(world.settings, requests_per_minute=40, page_size=60)
    outcome = sync(world.settings, world.now)
    assert holds_the_truth(world)
    log = world.sandbox.log
    answered = [request.parameters for request in log if request.fault is None]
    assert len(answered) >= 280
    # How many slices start again, with pages of 50, is chance; what is read at the usual size is
    # not. No page is read twice at one size, but the first of 50: it shows whether Twilio answers.
    sizes = Counter(asked.get("PageSize", "a count") for asked in answered)
    assert sizes.keys() <= {"a count", "60", "50"}
    assert sizes["a count"] + sizes["60"] <= 360
    times = Counter(frozenset(asked.items()) for asked in answered)
    twice = [dict(asked) for asked in times if times[asked] > 1]
    assert [asked for asked in twice if "PageToken" in asked or asked.get("PageSize") != "50"] == []
    assert 0.2 < 1 - len(answered) / len(log) < 0.4
    assert {request.fault for request in log} >= {*kinds}
    assert 36 < busiest([request.at for request in log], 2.0) <= 40
    assert not [r for r in log if r.status == 429 and r.fault is None]
    assert outcome.counts.requests == len(log)
    assert waits.elapsed > 2 * (len(log) // 40 - 1)


@pytest.mark.parametrize(
    ("largest", "asked"), [(100, 62), (20, 20), pytest.param(999, 500, marks=LONG), (1000, 1000)]
)
def test_a_page_size_that_is_refused_is_made_smaller(
    make_world: MakeWorld, operator: Operator, largest: int, asked: int
) -> None:
    world = make_world(attempts=600, largest_page=largest, limits=QUIET)
    assert operator.run(world, "sync") == 0
    assert holds_the_truth(world)
    sizes = [int(r.parameters["PageSize"]) for r in world.sandbox.log if "PageSize" in r.parameters]
    assert sizes[-1] == asked
    assert operator.told.count("Twilio refuses larger pages: set page_size = ") == (asked < 1000)
    assert asked == 1000 or f"page_size = {asked}\n" in operator.told
    if asked < 1000:
        assert operator.run(world, "sync", page_size=asked) == 0
        assert "refuses" not in operator.told


def test_a_page_size_that_is_always_refused_ends_the_run(
    make_world: MakeWorld, operator: Operator
) -> None:
    world = make_world(attempts=300, largest_page=10, limits=QUIET)
    assert operator.run(world, "sync") == 1
    assert "Twilio answered 400: Page size too large (code 60373" in operator.told
    assert nothing_is_recorded(world)


def test_a_byte_that_is_not_utf8_spoils_only_its_character(
    make_world: MakeWorld, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a value, and inside of a key."""
    world = make_world(attempts=300, limits=QUIET)
    reply = server._Handler._reply

    def odd(self: Any, status: int, body: bytes, *rest: Any) -> None:
        reply(self, status, body.replace(b"Claro", b"Clar\xf3"), *rest)

    monkeypatch.setattr(server._Handler, "_reply", odd)
    assert operator.run(world, "sync", page_size=50) == 0
    assert operator.told.count("text from Twilio is not UTF-8") == 1
    stored, truth = world.stored(), world.truth()
    spoiled = [sid for sid in truth if stored[sid] != truth[sid]]
    assert spoiled
    assert all(stored[sid]["channel_data__carrier"].startswith("Clar\ufffd") for sid in spoiled)
    assert stored.keys() == truth.keys()


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"", 0, 1, "odd"), MemoryError()])
def test_an_error_that_is_none_of_ours_keeps_complete_slices(
    in_slices: World, operator: Operator, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    read, asked = Client.read, []

    def failing(*args: Any, **named: Any) -> Any:
        asked.append(args)
        if len(asked) == 8:
            raise error
        return read(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Client, "read", failing)
        assert operator.run(in_slices, "sync", page_size=100) == 1
    assert type(error).__name__ in operator.told
    kept = in_slices.warehouse().database.rows("select count(*) from twilio_verify.attempts")
    assert 0 < kept[0][0] < len(in_slices.truth())
    assert operator.run(in_slices, "sync", page_size=100) == 0
    assert holds_the_truth(in_slices)
