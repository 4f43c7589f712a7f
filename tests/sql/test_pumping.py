"""`pumping_suspects`: attacks placed at random are found, and nothing else is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pytest

from pipelines.sandbox import world
from pipelines.sandbox.account import Account
from pipelines.sandbox.render import Renderer
from pipelines.sandbox.sends import DAY, Attack, Outage
from pipelines.sandbox.state import Query, View
from pipelines.sandbox.switches import Switches
from pipelines.settings import Pumping
from pipelines.twilio.decode import decode
from tests.conftest import Emptied
from tests.sql.given import Row, rows
from tests.worlds import NOW, make_kept_tables

SINCE = int((NOW - timedelta(days=30)).timestamp())
SEEDS = [
    pytest.param(range(2), id="seeds 0-1"),
    pytest.param(range(2, 11), id="seeds 2-10", marks=pytest.mark.long),
    pytest.param(range(11, 20), id="seeds 11-19", marks=pytest.mark.long),
]
Suspects = Callable[..., list[Any]]


def attempts_of(account: Account, **query: Any) -> list[Row]:
    renderer = Renderer(account, Switches(), f"AC{0:032}")
    now, view = NOW.timestamp(), View(account, Switches(), renderer)
    found = (renderer.render(*part, now) for part in view.walk(Query(**query), now))
    return [orjson.loads(text) for texts in found for text in texts]


@pytest.fixture
def suspects(emptied: Emptied) -> Suspects:
    """`suspects(attempts, columns, **settings)`: these columns of the view, ordered by day."""

    def asked(attempts: list[Row], columns: str, **settings: Any) -> list[Any]:
        connection = emptied(**settings)
        connection.register("given", decode(attempts, NOW).attempts)
        connection.execute(
            "insert into twilio_verify.attempts select distinct on (sid) * from given"
        )
        connection.unregister("given")
        make_kept_tables(connection)
        return rows(connection, f"select {columns} from pumping_suspects order by created_date")

    return asked


def attack_of(seed: int) -> Attack:
    """A random attack: any country, any time that is mature by now, at least 60 sends."""
    rng = np.random.default_rng([seed, 6])
    hours = float(rng.uniform(0.5, 12))
    start = int(rng.integers(SINCE, SINCE + 30 * DAY - int(hours * 3600) - 1200))
    size = int(60 * 10 ** rng.uniform(0, 1))
    return Attack(int(rng.integers(len(world.COUNTRIES))), start, hours, size)


@pytest.mark.parametrize("seeds", SEEDS)
def test_attacks_are_found_wherever_they_are(suspects: Suspects, seeds: range) -> None:
    """At least 18 of 20 attacks are found, and nothing else is suspected."""
    found = 0
    for seed in seeds:
        attack = attack_of(seed)
        account = Account(seed=seed, since=SINCE, attacks=(attack,))
        told = suspects(attempts_of(account), "country, created_date")
        ends = (attack.start, attack.start + int(attack.hours * 3600))
        days = {datetime.fromtimestamp(end, timezone.utc).date() for end in ends}
        assert {(world.COUNTRIES[attack.country].iso, day) for day in days} >= set(told), seed
        found += bool(told)
    assert found >= 0.9 * len(seeds)


def test_an_attack_over_two_channels_is_one(suspects: Suspects) -> None:
    """Numbers with and without their channel are of one prefix."""
    columns = "country, created_date, destination_prefix, verifications, z_score"
    usual = attempts_of(Account(since=SINCE, attacks=(attack_of(1),)))
    found = suspects(usual, columns)
    assert found
    for number, row in enumerate(usual):
        if number % 2 and row["channel"] != "email":
            channel = "whatsapp:" if number % 3 else "sms:"
            row["channel_data"]["to"] = channel + row["channel_data"]["to"]
    assert suspects(usual, columns) == found


def quiet_of(seed: int) -> list[Row]:
    """Attempts without an attack: three outages, a tester's 40 codes, a launch in a new country."""
    rng = np.random.default_rng([seed, 7])

    def somewhen(days: int = 28) -> int:
        return int(rng.integers(SINCE, SINCE + days * DAY))

    outages = tuple(
        Outage(country, int(rng.integers(3)), start, start + int(rng.integers(2, 30)) * 3600)
        for country, start in ((int(rng.integers(12)), somewhen()) for _ in range(3))
    )
    new, launch = world.COUNTRIES[int(rng.integers(len(world.COUNTRIES)))].iso, somewhen()
    usual = attempts_of(Account(seed=seed, since=SINCE, attacks=(), outages=outages))
    launched = Account(seed=1000 + seed, since=launch, attempts=60_000, attacks=(), outages=())
    tested = somewhen()
    return [
        *(row for row in usual if row["channel_data"].get("country") != new),
        *attempts_of(launched, country=new),
        *(code(usual[0], number, tested + 60 * number) for number in range(40)),
    ]


def code(like: Row, number: int, created: int) -> Row:
    """A code that is delivered to the tester's own number and never typed in."""
    data = {"to": "+573001234567", "country": "CO", "message_status": "delivered"}
    return {
        **like,
        "sid": f"VL{number:032}",
        "verification_sid": f"VE{number:032}",
        "channel": "sms",
        "conversion_status": "unconverted",
        "date_created": f"{datetime.fromtimestamp(created, timezone.utc):%Y-%m-%dT%H:%M:%SZ}",
        "channel_data": {**like["channel_data"], **data, "verification_sid": f"VE{number:032}"},
    }


@pytest.mark.parametrize("seeds", SEEDS)
def test_outages_testers_and_launches_are_no_attacks(suspects: Suspects, seeds: range) -> None:
    """One false alarm in 20 seeds would be acceptable; there is none."""
    assert {seed: told for seed in seeds if (told := suspects(quiet_of(seed), "*"))} == {}


def cell(day: int, prefix: str, verifications: int, converted: int, **changes: Any) -> list[Row]:
    """Verifications of one attempt each, to consecutive numbers of a prefix."""
    start = datetime(2026, 10, 1, tzinfo=timezone.utc) + timedelta(days=day)
    country = changes.get("country", "CO")
    return [
        {
            "sid": f"VL{day}{prefix}{n}",
            "verification_sid": f"VE{day}{prefix}{n}",
            "service_sid": "VA1",
            "account_sid": "AC1",
            "channel": "sms",
            "conversion_status": "converted" if n < converted else "unconverted",
            "date_created": f"{start + timedelta(seconds=40 * n):%Y-%m-%dT%H:%M:%SZ}",
            "price": {"value": "0.05", "currency": "usd"},
            "channel_data": {
                "to": f"{prefix}{n % changes.get('numbers', 10**4) * changes.get('step', 1):04}",
                "country": country,
                "message_status": changes.get("status", "delivered"),
            },
        }
        for n in range(verifications)
    ]


USUAL = [row for day in range(4) for row in cell(day, f"+5730{day}", 50, 40)]  # 200, 160 converted


def test_a_suspect_by_hand(suspects: Suspects) -> None:
    """1 of 20 converted, the baseline is 160 of 200, and so p = 161 / 220 over all. The z-score is
    (0.8 - 0.05) / sqrt(p * (1 - p) * (1 / 20 + 1 / 200))."""
    told = suspects(
        [*USUAL, *cell(9, "+57399", 20, 1)],
        "created_date, country, destination_prefix, verifications, converted, success_rate,"
        " baseline, z_score, distinct_destinations, longest_number_run, channel_spend,"
        " wasted_spend, currency, reasons",
    )
    assert told == [
        (date(2026, 10, 10), "CO", "+57399", 20, 1, 0.05, 0.8, pytest.approx(7.219, abs=1e-3),
         20, 20, Decimal("1.00"), Decimal("0.95"), "USD",
         ["few convert", "numbers in a row", "sudden", "nobody asks again"]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "found"),
    [
        (cell(9, "+57399", 19, 0), False),
        (cell(9, "+57399", 20, 8), False),  # half the baseline
        (cell(9, "+57399", 20, 7), True),  # z = 4.49
        (cell(9, "57399", 20, 0), True),
        (cell(9, "+57 399", 20, 0), True),
        (cell(9, "whatsapp:+57399", 20, 0), True),
        (cell(9, "+someone@example", 20, 0), False),
        (cell(9, "", 20, 0), False),
        (cell(9, "+57399", 20, 0, numbers=9), False),
        (cell(9, "+57399", 20, 0, numbers=10), True),
        (cell(9, "+57399", 20, 0, status="undelivered"), False),
        (cell(9, "+57399", 20, 0, status="sent"), True),
        (cell(9, "+57399", 20, 0, status=None), True),  # no receipts from this country
        (cell(9, "someone@example", 20, 0, country=None), False),
        (cell(40, "+57399", 20, 0), False),  # no baseline in the 28 days before
        (cell(9, "+57399", 20, 0, country="PK"), True),  # compared with the account
        ([*cell(8, "+57399", 30, 0), *cell(9, "+57399", 20, 0)], True),  # not with itself
    ],
)
def test_what_makes_a_suspect(suspects: Suspects, rows: list[Row], found: bool) -> None:
    told = suspects([*USUAL, *rows], "created_date, baseline")
    day = date(2026, 10, 10)
    assert (day in [suspect[0] for suspect in told]) == found
    assert all(baseline == pytest.approx(0.8) for _, baseline in told)


@pytest.mark.parametrize(
    ("usual", "prefixes", "size"),
    [(300, 2, 20), (300, 6, 20), (300, 1, 2000), (30, 10, 100), (30, 40, 60), (4, 2, 60)],
)
@pytest.mark.parametrize("country", ["PK", pytest.param("US", marks=pytest.mark.long)])
def test_attacks_do_not_hide_each_other(
    suspects: Suspects, usual: int, prefixes: int, size: int, country: str
) -> None:
    """Attacks on many prefixes for ten days, in a country of their own or in the users' country,
    and also if the users' traffic is small beside the attacks."""
    rows = [
        row
        for day in range(38)
        for n in range(2)
        for row in cell(day, f"+1{200 + n}{day:03}", usual // 2, usual * 2 // 5, country="US")
    ]
    for day in range(28, 38):
        for n in range(prefixes):
            rows += cell(day, f"+92{300 + n}", size, 0, country=country)
    told = Counter(suspects(rows, "created_date"))
    assert [*told.values()] == [prefixes] * 10


def month(country: str, prefixes: list[str], verifications: int, converted: int) -> list[Row]:
    return [
        row
        for day in range(28)
        for prefix in prefixes
        for row in cell(day, prefix, verifications, converted, country=country)
    ]


@pytest.mark.parametrize(
    ("elsewhere", "here"), [((50, 30), (50, 10)), ((40, 35), (50, 12)), ((50, 30), (50, 8))]
)
def test_a_country_in_which_few_convert_is_no_attack(
    suspects: Suspects, elsewhere: tuple[int, int], here: tuple[int, int]
) -> None:
    """In this country few convert, day after day: that is normal there, although it looks like an
    attack. Only its first day is reported, as nothing is known yet. A real attack is found, there
    and elsewhere."""
    rows = month("DE", [f"+4930{n}" for n in range(5)], *elsewhere)
    rows += month("NG", [f"+23480{n}" for n in range(3)], *here)
    assert {found for (found,) in suspects(rows, "created_date")} == {date(2026, 10, 1)}
    attacks = {("DE", "+49399"), ("NG", "+23499"), ("PK", "+92300")}
    for country, prefix in attacks:
        rows += cell(20, prefix, 400, 0, country=country)
    assert {*suspects(rows, "country, destination_prefix")[3:]} == attacks


def test_an_account_in_which_few_convert_can_be_attacked(suspects: Suspects) -> None:
    rows = month("DE", [f"+4930{n}" for n in range(5)], 50, 12)
    assert not suspects(rows, "*")
    rows += cell(20, "+49399", 400, 0, country="DE")
    assert suspects(rows, "destination_prefix, baseline") == [("+49399", pytest.approx(0.24))]


@pytest.mark.parametrize(("of", "beside"), [((20, 9), 1), ((40, 19), 3)])
def test_few_others_make_no_baseline(suspects: Suspects, of: tuple[int, int], beside: int) -> None:
    """All others converted, but they are so few that this can be chance."""
    rows = [*cell(0, "+57399", *of), *cell(0, "+57398", beside, beside)]
    assert not suspects(rows, "baseline")
    assert suspects([*rows, *cell(0, "+57397", 100, 99)], "baseline")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], (Decimal("1.00"), Decimal("0.95"), "USD")),
        ([{"price": {"value": "5"}}], (None, None, "mixed")),
        ([{"price": {"value": "9", "currency": "EUR"}}], (None, None, "mixed")),
        # A resend in another currency, so that its verification has two.
        ([{"price": {"value": "9", "currency": "EUR"}, "sid": "VLX"}], (None, None, "mixed")),
        ([{"price": None}] * 20, (None, None, None)),
    ],
)
def test_spend_is_in_one_currency(
    suspects: Suspects, changes: list[Row], expected: tuple[Any, ...]
) -> None:
    rows = cell(9, "+57399", 20, 1)
    for number, changed in enumerate(changes):
        row = rows.pop(0) if "sid" not in changed else rows[number]
        rows.append({**row, **changed})
    found = suspects([*USUAL, *rows], "channel_spend, wasted_spend, currency")
    assert found == [expected]


def test_numbers_in_a_row_may_leave_one_out(suspects: Suspects) -> None:
    near, far = cell(9, "+57399", 20, 0, step=2), cell(9, "+57398", 20, 0, step=3)
    told = suspects([*USUAL, *near, *far], "destination_prefix, longest_number_run, reasons[2]")
    assert sorted(told) == [("+57398", 1, "sudden"), ("+57399", 20, "numbers in a row")]


def test_an_attack_is_sudden_on_its_second_day_too(suspects: Suspects) -> None:
    usual = month("CO", ["+57300", "+57301"], 50, 40)
    attack = [cell(day, "+57301", size, 2)[50:] for day, size in ((20, 1050), (21, 650))]
    told = suspects([*usual, *(row for rows in attack for row in rows)], "created_date, reasons[3]")
    assert told == [(date(2026, 10, 21), "sudden"), (date(2026, 10, 22), "sudden")]


def test_what_was_not_delivered_is_part_of_an_attack(suspects: Suspects) -> None:
    """It does not count for the rate, but its numbers and its cost count."""
    attack = cell(9, "+57399", 40, 1)
    for row in attack[1::2]:
        row["channel_data"]["message_status"] = "undelivered"
    again = {**attack[3], "sid": "VLagain", "date_created": "2026-10-10T01:00:00Z"}
    columns = "verifications, converted, distinct_destinations, longest_number_run, channel_spend,"
    columns += " wasted_spend, reasons"
    few = ["few convert", "numbers in a row", "sudden"]
    spend, wasted = Decimal("2.00"), Decimal("1.95")
    assert suspects([*USUAL, *attack], columns) == [
        (20, 1, 40, 40, spend, wasted, [*few, "nobody asks again"])
    ]
    assert suspects([*USUAL, *attack, again], columns) == [
        (20, 1, 40, 40, Decimal("2.05"), Decimal("2.00"), few)
    ]


def test_undelivered_codes_do_not_make_a_suspect_of_a_tester(suspects: Suspects) -> None:
    tester = cell(9, "+57399", 40, 0, numbers=1)
    others = [{**row, "verification_sid": f"{row['sid']}-"} for row in cell(9, "+57399", 30, 0)]
    for row in others:
        row["sid"] += "-"
        row["channel_data"]["message_status"] = "undelivered"
    assert not suspects([*USUAL, *tester, *others], "*")


def test_a_few_numbers_are_no_row(suspects: Suspects) -> None:
    told = suspects(
        [*USUAL, *cell(9, "+57399", 40, 0, numbers=4)],
        "longest_number_run, reasons",
        pumping=Pumping(destinations=1),
    )
    assert told == [(4, ["few convert", "sudden", "nobody asks again"])]


def test_what_an_account_begins_with_is_not_sudden(suspects: Suspects) -> None:
    usual = [row for day in range(4) for row in cell(day, f"+5730{day}", 50, 40)]
    told = suspects(
        [*usual, *(row for day in range(3) for row in cell(day, "+57399", 30, 0))], "reasons"
    )
    assert [("sudden" in reasons) for (reasons,) in told] == [False, False, False]


def test_thresholds_are_settings(suspects: Suspects) -> None:
    rows = [*USUAL, *cell(9, "+57399", 20, 1)]
    assert suspects(rows, "z_score", pumping=Pumping(verifications=20, destinations=20))
    for strict in ({"verifications": 21}, {"destinations": 21}, {"rate": 0.05}, {"z_score": 7.3}):
        assert not suspects(rows, "z_score", pumping=Pumping(**strict))
