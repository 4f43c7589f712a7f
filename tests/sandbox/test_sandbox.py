"""The sandbox: the reference page's behaviour, and an account that looks like a real one."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

import psutil
import pytest
import requests

from pipelines.sandbox.switches import Limits
from tests.clocks import Time
from tests.worlds import NOW, PATIENT, World

MakeWorld = Callable[..., World]
DELAYED = {"price", "message_status", "status", "conversion_status"}


def get(world: World, path: str = "", auth: Any = None, **parameters: Any) -> requests.Response:
    sandbox = world.sandbox
    return requests.get(
        f"{sandbox.url}/v2/Attempts{path}",
        params=parameters,
        auth=auth or (sandbox.account_sid, sandbox.auth_token),
        timeout=PATIENT,
    )


def pages(world: World, **parameters: Any) -> Iterator[dict[str, Any]]:
    body = get(world, **parameters).json()
    while True:
        yield body
        if body["meta"]["next_page_url"] is None:
            return
        auth = (world.sandbox.account_sid, world.sandbox.auth_token)
        body = requests.get(body["meta"]["next_page_url"], auth=auth, timeout=PATIENT).json()


def listed(world: World, **parameters: Any) -> list[dict[str, Any]]:
    parameters = {"PageSize": 1000, **parameters}
    return [attempt for page in pages(world, **parameters) for attempt in page["attempts"]]


def iso(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"


# --- an account that looks real


def test_an_attempt_is_the_same_however_it_is_asked_for(make_world: MakeWorld) -> None:
    world, again = make_world(), make_world(oldest_first=True)
    everything = listed(world)
    assert everything == [a for page in pages(world, PageSize=7) for a in page["attempts"]]
    assert everything[5] == get(world, "/" + everything[5]["sid"]).json()
    assert [*reversed(listed(again))] == everything


def test_an_attempt_lives_thirty_days(world: World) -> None:
    sid = next(a["sid"] for a in listed(world) if a["channel"] == "whatsapp")
    created = world.truth()[sid]["date_created"]
    path = "/" + sid
    world.now = created - timedelta(seconds=1)
    assert get(world, path).status_code == 404
    world.now = created
    attempt = get(world, path).json()
    assert attempt["channel_data"]["message_status"] == "queued"
    assert attempt["price"] is None
    world.now = created + timedelta(days=29, hours=23)
    assert get(world, path).json()["price"] is not None
    world.now = created + timedelta(days=30)
    assert get(world, path).status_code == 404
    assert sid not in {a["sid"] for a in listed(world)}


def test_things_happen_late_and_some_never(make_world: MakeWorld) -> None:
    world = make_world(attempts=10_000, days=2, now=NOW)
    world.move(minutes=1)
    first = {a["sid"]: a for a in listed(world)}
    world.move(days=4)
    later = {a["sid"]: a for a in listed(world)}
    flat = [({**first[s], **first[s]["channel_data"]}, {**a, **a["channel_data"]})
            for s, a in later.items() if s in first]  # fmt: skip
    for name in DELAYED:
        assert any(before[name] != after[name] for before, after in flat), name
    outcomes = Counter(after["message_status"] for _, after in flat)
    assert outcomes["sent"] > 50  # no receipt ever comes
    assert outcomes[None] > 50  # a country without receipts
    assert 50 < sum(after["price"] is None for _, after in flat) < len(flat) / 10
    assert all(after["date_updated"] >= after["date_created"] for _, after in flat)


def test_the_account_has_what_real_ones_have(make_world: MakeWorld) -> None:
    world = make_world(attempts=20_000)
    attempts = listed(world)
    assert len(attempts) == pytest.approx(20_000, rel=0.05)
    data = [a["channel_data"] for a in attempts]
    assert {a["channel"] for a in attempts} == {"sms", "call", "email", "whatsapp", "rbm"}
    assert len({d.get("country") for d in data}) > 12
    assert {d.get("mnc") for d in data} >= {"05", "480", "103"}
    assert all(("@" in d["to"]) == ("mcc" not in d) for d in data)
    assert {"30003", "30007", "30008", "60410", "63036"} <= {d["error_code"] for d in data}
    sends = defaultdict(list)
    for attempt in reversed(attempts):
        sends[attempt["verification_sid"]].append(attempt)
    lengths = Counter(map(len, sends.values()))
    assert max(lengths) == 5
    assert lengths[1] > lengths[2] > lengths[3] > 100
    assert sum(len({a["channel"] for a in tries}) > 1 for tries in sends.values()) > 300
    hours = Counter(a["date_created"][11:13] for a in attempts)
    assert max(hours.values()) > 2 * min(hours.values())


def test_the_account_has_an_outage_and_an_attack(make_world: MakeWorld) -> None:
    attempts = [a for a in listed(make_world(attempts=40_000)) if a["channel"] == "sms"]
    cells = defaultdict(list)
    prefixes = defaultdict(list)
    for attempt in attempts:
        data = attempt["channel_data"]
        cells[attempt["date_created"][:10], data["carrier"]].append(data["message_status"])
        prefixes[data["to"][:-4]].append(attempt["conversion_status"])
    failed = {c: s.count("undelivered") / len(s) for c, s in cells.items() if len(s) >= 30}
    assert sum(share > 0.2 for share in failed.values()) == 1
    worst = max(prefixes.values(), key=len)
    assert len(worst) > 300
    assert worst.count("converted") < 0.03 * len(worst)


# --- the reference page


def test_lists_fifty_a_page_newest_first(world: World) -> None:
    body = get(world).json()
    created = [a["date_created"] for a in body["attempts"]]
    assert (len(created), body["meta"]["page_size"], body["meta"]["key"]) == (50, 50, "attempts")
    assert created == sorted(created, reverse=True)
    assert body["meta"]["previous_page_url"] is None


def test_pages_go_forth_and_back(world: World) -> None:
    first, second, third = itertools.islice(pages(world, PageSize=20), 3)
    auth = (world.sandbox.account_sid, world.sandbox.auth_token)
    for page, before in ((third, second), (second, first)):
        back = requests.get(page["meta"]["previous_page_url"], auth=auth, timeout=PATIENT).json()
        assert back["attempts"] == before["attempts"]


@pytest.mark.parametrize(
    ("path", "parameters", "status", "code"),
    [
        ("", {"Page": 2}, 400, 70002),
        ("", {"PageToken": "PTnonsense"}, 400, 60200),
        ("", {"PageSize": 0}, 400, 60200),
        ("", {"PageSize": 1001}, 400, 20007),
        ("", {"PageSize": "many"}, 400, 60200),
        ("", {"Channel": "fax"}, 400, 60200),
        ("", {"Status": "maybe"}, 400, 60200),
        ("", {"DateCreatedAfter": "yesterday"}, 400, 60200),
        ("/Summary", {"DateCreatedBefore": "2026-01-01"}, 400, 60200),
        ("/VL" + "0" * 32, {}, 404, 20404),
        ("/nonsense", {}, 404, 20404),
    ],
)
def test_refusals(
    world: World, path: str, parameters: dict[str, Any], status: int, code: int
) -> None:
    response = get(world, path, **parameters)
    body = response.json()
    assert (response.status_code, body["status"], body["code"]) == (status, status, code)
    assert body["more_info"].endswith(str(code))
    assert response.headers["Twilio-Request-Id"].startswith("RQ")


def test_an_unknown_attempt_is_named_without_the_version(world: World) -> None:
    sid = "VL" + "0" * 32
    assert get(world, "/" + sid).json()["message"] == (
        f"The requested resource /Attempts/{sid} was not found"
    )


def test_a_misspelt_filter_returns_everything(world: World) -> None:
    assert len(listed(world, Contry="CO")) == len(listed(world))


@pytest.mark.parametrize(
    "auth", [("AC" + "0" * 32, "sandbox-token"), ("AC" + "5a" * 16, "wrong"), ("", "")]
)
def test_credentials_are_checked(world: World, auth: tuple[str, str]) -> None:
    response = get(world, auth=auth)
    assert (response.status_code, response.json()["code"]) == (401, 20003)
    bare = requests.get(world.sandbox.url + "/v2/Attempts", timeout=PATIENT)
    assert bare.status_code == 401


def test_the_date_header_is_the_sandboxes_clock(world: World) -> None:
    world.move(days=100)
    assert parsedate_to_datetime(get(world).headers["Date"]) == world.now


def test_summary_counts_what_the_list_lists(world: World) -> None:
    for filters in ({}, {"Country": "CO"}, {"Channel": "email"}):
        attempts = listed(world, **filters)
        body = get(world, "/Summary", **filters).json()
        converted = sum(a["conversion_status"] == "converted" for a in attempts)
        assert (body["total_attempts"], body["total_converted"]) == (len(attempts), converted)
        assert float(body["conversion_rate_percentage"]) == pytest.approx(
            100 * converted / len(attempts)
        )
    prefixed = get(world, "/Summary", DestinationPrefix="+573").json()["total_attempts"]
    assert prefixed == len(listed(world, Country="CO"))


@pytest.mark.parametrize("retry_after", ["seconds", "none"])
def test_the_rate_limit(make_world: MakeWorld, waits: Time, retry_after: str) -> None:
    world = make_world(limits=Limits(requests=3, retry_after=retry_after))
    answers = [get(world, path) for path in ("", "/Summary", "/VL0", "")]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 429]
    assert answers[-1].json()["code"] == 20429
    told = answers[-1].headers.get("Retry-After")
    assert told is None if retry_after == "none" else told == "60"


def test_the_rate_limit_is_over_when_its_window_is(make_world: MakeWorld, waits: Time) -> None:
    world = make_world(limits=Limits(requests=2, seconds=30, summary_shares=False))
    assert [get(world).status_code for _ in range(3)] == [200, 200, 429]
    assert get(world, "/Summary").status_code == 200
    waits.elapsed = 29.9
    assert get(world).status_code == 429
    waits.elapsed = 30.1
    assert [get(world).status_code for _ in range(3)] == [200, 200, 429]


def test_nobody_else_on_the_network_can_reach_it(world: World) -> None:
    port = int(world.sandbox.url.rpartition(":")[2])
    listening = [
        connection.laddr.ip
        for connection in psutil.Process().net_connections("inet")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]
    assert listening == ["127.0.0.1"]


# --- the switches: both behaviours where the documentation is silent


@pytest.mark.parametrize("inclusive", [True, False])
def test_inclusive(make_world: MakeWorld, inclusive: bool) -> None:
    world = make_world(inclusive=inclusive)
    created = listed(world)[10]["date_created"]
    found = listed(world, DateCreatedAfter=created, DateCreatedBefore=created)
    assert bool(found) == inclusive
    later = listed(world, DateCreatedAfter=created)
    assert (min(a["date_created"] for a in later) == created) == inclusive


def test_upper_case_and_last_converts(make_world: MakeWorld) -> None:
    world, usual = make_world(upper_case=True, converts="last"), make_world()
    attempts = listed(world)
    assert {a["conversion_status"] for a in attempts} == {"CONVERTED", "UNCONVERTED"}
    assert {a["channel"] for a in attempts} == {"sms", "call", "email", "whatsapp", "rbm"}
    marked = Counter(
        a["verification_sid"] for a in attempts if a["conversion_status"] == "CONVERTED"
    )
    assert set(marked.values()) == {1}
    all_marked = [a for a in listed(usual) if a["conversion_status"] == "converted"]
    assert {a["verification_sid"] for a in all_marked} == set(marked)
    assert len(all_marked) > len(marked)


@pytest.mark.parametrize(
    ("mode", "values"),
    [
        ("null", {None}),
        ("empty", {""}),
        ("zero_text", {"0"}),
        ("zero", {0}),
        ("absent", {"absent"}),
        ("mixed", {None, "", "0", 0, "absent"}),
    ],
)
def test_no_error_has_many_spellings(make_world: MakeWorld, mode: str, values: set[object]) -> None:
    attempts = listed(make_world(no_error=mode))
    found = {a["channel_data"].get("error_code", "absent") for a in attempts}
    assert {v for v in found if not (isinstance(v, str) and len(v) == 5)} == values


def test_doubled_rows_and_late_visibility(make_world: MakeWorld) -> None:
    doubled = Counter(a["sid"] for a in listed(make_world(doubled=True), PageSize=100))
    assert set(doubled.values()) == {1, 2}
    world = make_world(attempts=5_000, days=1, visibility_delay=3_600)
    now = {a["sid"] for a in listed(world)}
    before = iso(world.now)
    world.move(hours=1)
    assert now < {a["sid"] for a in listed(world, DateCreatedBefore=before)}


def test_large_pages_and_empty_summaries(make_world: MakeWorld) -> None:
    clamping = make_world(attempts=5_000, clamp_page_size=True)
    assert len(get(clamping, PageSize=5_000).json()["attempts"]) == 1_000
    answers = [({}, "XX"), ({"empty_rate": "zero"}, "XX"), ({"rate_as_number": True}, "US")]
    rates = []
    for switches, country in answers:
        summary = get(make_world(**switches), "/Summary", Country=country).json()
        rates.append(summary["conversion_rate_percentage"])
    assert rates[:2] == [None, "0"]
    assert isinstance(rates[2], float)


def test_a_price_may_change_without_a_trace(make_world: MakeWorld) -> None:
    worlds = [make_world(price_touches_updated=touches) for touches in (True, False)]
    touched, untouched = ({a["sid"]: a["date_updated"] for a in listed(w)} for w in worlds)
    assert all(touched[sid] >= untouched[sid] for sid in touched)
    assert any(touched[sid] > untouched[sid] for sid in touched)
