"""The client: compared with Twilio's own Python client, and what it must refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client as Official

from pipelines.errors import Failure, Misuse
from pipelines.twilio.client import Client
from pipelines.twilio.clock import Clock
from pipelines.twilio.credentials import Credentials
from pipelines.twilio.filters import Filters
from pipelines.twilio.pacing import Pacer
from pipelines.twilio.query import format_instant
from pipelines.twilio.transport import ApiError, RefusedCredentials
from tests.worlds import NOW, PACELESS, PATIENT, World, as_columns

ACCOUNT = Credentials.of("AC" + "0" * 32, "token")
AFTER, BEFORE = NOW - timedelta(days=9), NOW - timedelta(days=2)


def ours(world: World, **options: Any) -> Client:
    credentials = Credentials.of(world.sandbox.account_sid, world.sandbox.auth_token)
    usual = {"clock": Clock(world.now), "pacer": Pacer(PACELESS), "timeout": PATIENT}
    return Client(credentials, world.sandbox.url, **{**usual, **options})


def client_of(url: str) -> Client:
    return Client(ACCOUNT, url, timeout=PATIENT)


def official(world: World) -> Any:
    client = Official(world.sandbox.account_sid, world.sandbox.auth_token)
    client.verify.base_url = world.sandbox.url
    return client.verify.v2


def some(world: World, **wanted: str) -> dict[str, Any]:
    """An attempt within the window whose columns have these values."""
    for row in world.truth().values():
        if AFTER < row["date_created"] < BEFORE and all(
            row[name] == value for name, value in wanted.items()
        ):
            return row
    raise LookupError(wanted)


FILTERS: dict[str, Callable[[World], dict[str, str]]] = {
    "nothing": lambda _: {},
    "country": lambda _: {"country": "CO"},
    "channel": lambda _: {"channel": "whatsapp"},
    "converted": lambda _: {"status": "converted"},
    "unconverted": lambda _: {"status": "unconverted"},
    "service": lambda w: {"verify_service_sid": some(w, channel="rbm")["service_sid"]},
    "verification": lambda w: {
        "verification_sid": some(w, conversion_status="unconverted")["verification_sid"]
    },
    "number": lambda w: {"to": some(w, channel="sms")["channel_data__to"]},
    "address": lambda w: {"to": some(w, channel="email")["channel_data__to"]},
    "two": lambda _: {"country": "BR", "channel": "call"},
    "no match": lambda _: {"verification_sid": "VE" + "0" * 32},
}


@pytest.mark.parametrize("name", FILTERS)
def test_lists_what_the_official_client_lists(world: World, name: str) -> None:
    filters = FILTERS[name](world)
    theirs = {"channel_data_to" if k == "to" else k: v for k, v in filters.items()}
    window = {"date_created_after": AFTER, "date_created_before": BEFORE}
    expected = official(world).verification_attempts.list(**theirs, **window, page_size=50)
    pages = ours(world, page_size=50).read(AFTER, BEFORE, Filters(**filters))
    found = [row for page in pages for row in page.attempts.drop_columns("read_at").to_pylist()]
    assert found == [as_columns(as_attempt(record)) for record in expected]
    assert found or name == "no match"


def as_attempt(record: Any) -> dict[str, Any]:
    """The official client's record as the API's JSON."""
    names = ("sid", "account_sid", "service_sid", "verification_sid", "conversion_status",
             "channel", "price", "channel_data", "url")  # fmt: skip
    dates = {name: getattr(record, name).isoformat() for name in ("date_created", "date_updated")}
    return {**{name: getattr(record, name) for name in names}, **dates}


@pytest.mark.parametrize("filters", [{}, {"country": "US"}, {"channel": "email"}])
def test_summarises_what_the_official_client_summarises(
    world: World, filters: dict[str, str]
) -> None:
    window = {"date_created_after": AFTER, "date_created_before": BEFORE}
    expected = official(world).verification_attempts_summary().fetch(**filters, **window)
    found = ours(world).summary(AFTER, BEFORE, Filters(**filters))
    assert found == (
        expected.total_attempts,
        expected.total_converted,
        expected.total_unconverted,
    )
    assert found.attempts == found.converted + found.unconverted > 0


def test_fetches_what_the_official_client_fetches(world: World) -> None:
    sid = some(world, channel="sms")["sid"]
    expected = official(world).verification_attempts(sid).fetch()
    found = ours(world).fetch(sid)
    assert found.attempts.drop_columns("read_at").to_pylist() == [as_columns(as_attempt(expected))]


def test_an_unknown_attempt_is_the_same_error_to_both(world: World) -> None:
    sid = "VL" + "0" * 32
    with pytest.raises(ApiError, match=r"404.*20404.*RQ[0-9a-f]{32}") as caught:
        ours(world).fetch(sid)
    with pytest.raises(TwilioRestException) as expected:
        official(world).verification_attempts(sid).fetch()
    assert (caught.value.status, caught.value.code) == (expected.value.status, expected.value.code)


def test_an_api_key_reads_like_the_token(world: World) -> None:
    sandbox = world.sandbox
    key = Credentials.of(sandbox.account_sid, None, sandbox.api_key, sandbox.api_secret)
    assert Client(key, sandbox.url, clock=Clock(NOW)).summary() == ours(world).summary()


def test_refused_credentials_name_the_variables_and_not_their_values(world: World) -> None:
    wrong = Credentials.of(world.sandbox.account_sid, "wrong-token")
    with pytest.raises(RefusedCredentials, match="TWILIO_AUTH_TOKEN") as caught:
        Client(wrong, world.sandbox.url, clock=Clock(NOW)).summary()
    assert caught.value.exit_code == 2
    assert "wrong-token" not in str(caught.value)


def test_dates_go_out_as_the_same_instant_in_utc() -> None:
    bogota = timezone(timedelta(hours=-5))
    assert format_instant(datetime(2026, 1, 1, 20, tzinfo=bogota)) == "2026-01-02T01:00:00Z"
    with pytest.raises(ValueError, match="zone"):
        format_instant(datetime(2026, 1, 1))  # noqa: DTZ001


def test_a_fraction_of_a_second_widens_the_window(world: World) -> None:
    ours(world).read(AFTER + timedelta(seconds=0.4), BEFORE + timedelta(seconds=0.4))
    sent = world.sandbox.log[-1].parameters
    assert sent["DateCreatedAfter"] == format_instant(AFTER)
    assert sent["DateCreatedBefore"] == format_instant(BEFORE + timedelta(seconds=1))


def test_a_plus_sign_survives_the_url(world: World) -> None:
    ours(world).read(filters=Filters(to="+573001234567"))
    assert world.sandbox.log[-1].parameters["ChannelData.To"] == "+573001234567"


@pytest.mark.parametrize(
    "url",
    [
        "http://verify.twilio.com",
        "http://127.0.0.1.example.com",
        "ftp://x",
        "",
        "verify",
        "https://verify.twilio.com:port",
        "https://[verify",
        "https://user:secret@verify.twilio.com",
        "https://exa mple.com",
        "https://.example.com",
        "https://" + "x" * 64 + ".com",
    ],
)
def test_credentials_are_never_sent_in_clear(url: str) -> None:
    with pytest.raises(Misuse, match="base_url"):
        Client(Credentials.of("AC" + "0" * 32, "token"), url)


@contextmanager
def serving(*next_page_urls: Callable[[str], Any]) -> Iterator[tuple[str, list[str]]]:
    """A server of pages with an attempt each. A page links where the test wants, the last to
    nothing.

    Yields the server's URL and the requested paths.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            here = f"http://127.0.0.1:{self.server.server_address[1]}"
            number = len(asked)
            more = number <= len(next_page_urls)
            link = next_page_urls[number - 1](here) if more else None
            attempt = {"sid": f"VL{number}", "date_created": "2026-01-01T00:00:00Z"}
            self.send_response_only(200)
            self.end_headers()
            body = {"attempts": [attempt], "meta": {"next_page_url": link}}
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.02], daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    "elsewhere",
    [
        lambda here: here.replace("127.0.0.1", "localhost") + "/v2/Attempts",
        lambda here: here.replace("http://", "https://") + "/v2/Attempts",
        lambda here: here.rpartition(":")[0] + ":1/v2/Attempts",
        lambda _: "/v2/Attempts",
        lambda _: 7,
        lambda _: 0,
        lambda _: False,
        lambda _: {},
        lambda here: here.replace("http://", "http://[") + "/v2/Attempts",
        lambda here: here + "x/v2/Attempts",
    ],
)
def test_credentials_do_not_follow_a_page_to_another_origin(elsewhere: Any) -> None:
    with serving(elsewhere) as (url, asked):
        with pytest.raises(Failure, match=r"next_page_url (leads away from|is not a URL)"):
            client_of(url).read()
        assert len(asked) == 1


def next_page(query: str) -> Callable[[str], str]:
    return lambda here: f"{here}/v2/Attempts?{query}"


def test_a_page_of_the_same_origin_is_followed() -> None:
    with serving(next_page("Page=1&PageToken=PTx")) as (url, asked):
        pages = client_of(url).read()
        assert (len(pages), asked[1]) == (2, "/v2/Attempts?Page=1&PageToken=PTx")


WINDOW = (datetime(2025, 12, 31, tzinfo=timezone.utc), datetime(2026, 1, 2, tzinfo=timezone.utc))


@pytest.mark.parametrize(
    "query",
    [
        "PageToken=PTx",
        "PageToken=PTx&Country=co&Channel=SMS",
        "PageToken=PTx&DateCreatedAfter=2025-12-31T00%3A00%3A00Z",
        "PageToken=PTx&DateCreatedAfter=2025-12-31T00:00:00.000%2B00:00&New=1",
    ],
)
def test_a_chain_may_spell_what_was_asked_in_its_own_way(query: str) -> None:
    with serving(next_page(query)) as (url, _):
        found = client_of(url).read(*WINDOW, Filters(country="CO", channel="sms"))
        assert len(found) == 2


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("PageToken=PTx&Country=US", "Country"),
        ("PageToken=PTx&Country=", "Country"),
        ("PageToken=PTx&Status=converted", "Status"),
        ("PageToken=PTx&DateCreatedAfter=2025-12-31T00:00:01Z", "DateCreatedAfter"),
        ("PageToken=PTx&DateCreatedBefore=soon", "DateCreatedBefore"),
        ("PageToken=PTx&ChannelData.To=%2B573003003030", r"ChannelData\.To"),
    ],
)
def test_a_chain_that_asks_something_else_is_not_followed(query: str, name: str) -> None:
    with serving(next_page(query)) as (url, asked):
        with pytest.raises(Failure, match=f"next_page_url changes {name}") as caught:
            client_of(url).read(*WINDOW, Filters(country="CO"))
        assert len(asked) == 1
    assert "300300" not in str(caught.value)


def test_a_circle_of_pages_ends() -> None:
    links = [next_page(f"Page={number}&PageToken=PT{number % 3}") for number in range(9)]
    with serving(*links) as (url, asked):
        with pytest.raises(Failure, match="circle"):
            client_of(url).read()
        assert len(asked) == 4


def test_pages_that_bring_nothing_new_end() -> None:
    """Each page has a new token, but always the same attempts."""

    def again(here: str) -> str:
        asked.pop()
        return f"{here}/v2/Attempts?PageToken=PT{next(tokens)}"

    tokens = iter(range(100))
    with serving(*[again] * 9) as (url, asked), pytest.raises(Failure, match="loops"):
        client_of(url).read()


@pytest.mark.parametrize("wrong", [{"page_size": 0}, {"page_size": 1001}])
def test_a_page_size_that_is_none_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(Misuse, match="page_size"):
        Client(ACCOUNT, **wrong)


def test_a_limit_counts_attempts_and_not_their_doubles(make_world: Any) -> None:
    world = make_world(doubled=True)
    pages = ours(world, page_size=10).read(AFTER, BEFORE, limit=50)
    assert len({sid for page in pages for sid in page.sids}) >= 50


def test_a_proxy_of_the_environment_does_not_get_what_is_for_loopback(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert ours(world, give_up_after=0.1).summary().attempts > 0


def test_a_limit_reads_no_more_pages_than_it_needs(world: World) -> None:
    pages = ours(world, page_size=50).read(AFTER, BEFORE, limit=70)
    assert [page.attempts.num_rows for page in pages] == [50, 50]
    (page,) = ours(world).read(AFTER, BEFORE, limit=7)
    assert page.attempts.num_rows == 7
    assert world.sandbox.log[-1].parameters["PageSize"] == "7"


@pytest.mark.parametrize(
    ("parts", "missing"),
    [
        ({"auth_token": "t"}, "TWILIO_ACCOUNT_SID"),
        ({"account_sid": "AC" + "0" * 32}, "TWILIO_AUTH_TOKEN"),
        ({"account_sid": "AC" + "0" * 32, "api_key": "SK" + "0" * 32}, "TWILIO_API_SECRET"),
        ({"account_sid": "nonsense", "auth_token": "t"}, "TWILIO_ACCOUNT_SID"),
        ({"account_sid": "AC" + "0" * 32, "auth_token": "tok…"}, "TWILIO_AUTH_TOKEN"),
        ({"account_sid": "AC" + "0" * 32, "api_key": "x", "api_secret": "s"}, "TWILIO_API_KEY"),
    ],
)
def test_half_a_pair_of_credentials_says_what_is_missing(
    parts: dict[str, str], missing: str
) -> None:
    with pytest.raises(Misuse, match=missing):
        Credentials.of(**parts)


def test_the_clock_of_a_run_never_repeats_an_instant() -> None:
    clock = Clock(NOW)
    instants = [clock() for _ in range(5_000)]
    assert instants == sorted(set(instants))
    assert NOW < instants[-1] < NOW + timedelta(seconds=60)
