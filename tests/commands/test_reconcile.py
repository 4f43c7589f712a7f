"""`reconcile`: compared with Twilio's totals, a day agrees, is read again, or still differs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone

import duckdb
import pytest
from hypothesis import given as for_any
from hypothesis import strategies as st

from pipelines.__main__ import main
from pipelines.commands.reconcile import table
from pipelines.errors import Failure
from pipelines.reading.windows import Window
from pipelines.twilio.client import Summary
from pipelines.twilio.filters import Filters
from pipelines.twilio.limits import RETENTION, SECOND
from pipelines.warehouse import reconciliation
from pipelines.warehouse.reconciliation import Comparison, Held, days_of, held_in
from tests.sql.given import given
from tests.worlds import NOW, Capture, World, configure, refused

MakeWorld = Callable[..., World]
DAY = timedelta(days=1)
KEPT = "from twilio_verify.reconciliations order by reconciled_at"
MISSING = "delete from twilio_verify.attempts where {}"
ON_THE_10TH = "date_created::date = date '2026-11-10' and sid < 'VL4'"


@pytest.fixture
def synced(configured: World, synced: World) -> World:
    return synced


def harm(world: World, *statements: str) -> None:
    with duckdb.connect(str(world.settings.directory / "loading.duckdb")) as connection:
        connection.execute("set timezone = 'UTC'")
        for statement in statements:
            connection.execute(statement)


def asked(world: World) -> list[str]:
    return [request.path.rpartition("/")[2] for request in world.sandbox.log]


@pytest.mark.parametrize("inclusive", [True, pytest.param(False, marks=pytest.mark.long)])
def test_every_day_agrees_at_one_request_each(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, capsys: Capture, inclusive: bool
) -> None:
    world = make_world(attempts=8_000, inclusive=inclusive)  # some fall on nearly every midnight
    configure(world, monkeypatch)
    world.sync()
    world.sandbox.log.clear()
    assert main(["reconcile"], now=NOW) == 0
    lines = capsys.readouterr().out.splitlines()
    assert asked(world) == ["Summary"] * 30
    assert len(lines) == 32  # a heading, 29 whole days, today so far, and a summary
    assert [line.split("  ")[-1] for line in lines[1:31]] == [
        *["agrees"] * 28, *["agrees; conversions may still change"] * 2
    ]  # fmt: skip
    assert lines[1].startswith("2026-10-22 ")
    assert lines[30].startswith("2026-11-20 to 11:59:59 ")
    kept = world.query(KEPT)
    assert [row["created_after"] for row in kept] == [
        datetime(2026, 10, 22, tzinfo=timezone.utc) + n * DAY for n in range(30)
    ]
    truth = [row["date_created"].date() for row in world.truth().values()]
    assert [row["attempts"] for row in kept[:-1]] == [
        truth.count(date(2026, 10, 22) + n * DAY) for n in range(29)
    ]
    for row in kept:
        assert row["outcome"] == "agrees"
        assert row["api_converted"] + row["api_unconverted"] == row["api_attempts"]
        assert abs(row["api_attempts"] - row["attempts"]) <= 2
    assert [row["conversions_judged"] for row in kept] == [True] * 28 + [False] * 2
    whole = world.query(
        "from coverage where created_date between '2026-10-22' and '2026-11-19' order by 1"
    )
    assert [row["api_attempts"] for row in whole] == [row["api_attempts"] for row in kept[:-1]]


@pytest.mark.parametrize(
    "statement",
    [
        MISSING.format(ON_THE_10TH),
        f"update twilio_verify.attempts set conversion_status = 'unconverted' where {ON_THE_10TH}",
    ],
)
def test_a_day_that_differs_is_read_again(synced: World, capsys: Capture, statement: str) -> None:
    before = synced.stored()
    harm(synced, statement)
    synced.move(minutes=5)
    assert main(["reconcile", "--days", "12"], now=synced.now) == 0
    told = capsys.readouterr()
    assert "2026-11-10: Twilio counts" in told.err
    assert asked(synced) == [
        *["Summary"] * 3, "Attempts", "Summary", *["Summary"] * 10
    ]  # fmt: skip
    kept = [row for row in synced.query(KEPT) if row["created_after"].day == 10]
    assert [row["outcome"] for row in kept] == ["read again", "agrees"]
    assert kept[0]["api_attempts"] == kept[1]["api_attempts"] == kept[1]["attempts"]
    assert synced.stored() == before
    (run,) = synced.query("from sync_history where command = 'reconcile'")
    assert (run["outcome"], run["windows"], run["requests"]) == ("done", 1, 15)
    assert main(["check"], now=synced.now) == 0
    assert "ok    reconciled" in capsys.readouterr().out


def test_what_lies_on_midnight_is_read_again_with_its_day(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A window excludes its first second, a day does not."""
    world = make_world(attempts=600, days=3, seed=6)
    configure(world, monkeypatch)
    missing = next(s for s, r in world.truth().items() if f"{r['date_created']:%T}" == "00:00:00")
    world.sync()
    harm(world, MISSING.format(f"sid = '{missing}'"))
    world.move(minutes=1)
    day = world.truth()[missing]["date_created"]
    days = str((world.now - day).days)  # leaves out the day before, which ends at that second
    assert main(["reconcile", "--days", days], now=world.now) == 0
    assert missing in world.stored()


def test_what_still_differs_is_an_error(synced: World, capsys: Capture) -> None:
    """As if Twilio had removed an attempt: the warehouse keeps it. The other days agree."""
    harm(
        synced,
        f"insert into twilio_verify.attempts select * replace ('VLx' as sid) from "
        f"twilio_verify.attempts where {ON_THE_10TH} limit 1",
    )
    assert main(["reconcile", "--days", "12"], now=NOW) == 1
    told = capsys.readouterr()
    assert told.err.splitlines()[-1].startswith(
        "verify-sync: 1 day still different from Twilio's totals after reading again: 2026-11-10;"
    )
    assert told.out.count("agrees") == 12
    assert told.out.count("still differs") == 1
    assert [r["outcome"] for r in synced.query(KEPT) if r["created_after"].day == 10] == [
        "read again", "differs"
    ]  # fmt: skip
    (run,) = synced.query("from sync_history where command = 'reconcile'")
    assert (run["outcome"], run["error"][:5]) == ("failed", "1 day")
    assert main(["check"], now=NOW) == 0
    assert "warn  reconciled, 1 row" in capsys.readouterr().out
    assert main(["status"], now=NOW) == 0
    assert "13 days: 1 of them differ" in capsys.readouterr().out
    harm(synced, MISSING.format("sid = 'VLx'"))
    synced.move(minutes=1)
    assert main(["reconcile", "--days", "12", "--quiet"], now=synced.now) == 0
    assert main(["check"], now=synced.now) == 0
    assert "ok    reconciled" in capsys.readouterr().out


def test_a_day_that_could_not_be_read_again_is_not_said_to_have_been(
    synced: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm(synced, MISSING.format(ON_THE_10TH))
    with monkeypatch.context() as broken:

        def fail(*_: object) -> None:
            raise Failure("no answer")

        broken.setattr(reconciliation, "read_windows", fail)
        assert main(["reconcile", "--days", "12"], now=NOW) == 1
    assert main(["check"], now=NOW) == 0
    assert "ok    reconciled" in capsys.readouterr().out
    assert main(["status"], now=NOW) == 0
    assert "3 days: 1 of them differ" in capsys.readouterr().out
    synced.move(minutes=1)
    assert main(["reconcile", "--days", "12", "--quiet"], now=synced.now) == 0


def test_conversions_of_young_attempts_are_not_judged(synced: World, capsys: Capture) -> None:
    harm(
        synced,
        "update twilio_verify.attempts set conversion_status = 'unconverted'"
        " where date_created >= timestamptz '2026-11-19 00:00:00+00'",
    )
    assert main(["reconcile", "--days", "2"], now=NOW) == 0
    assert asked(synced) == ["Summary"] * 3
    judged = [row["conversions_judged"] for row in synced.query(KEPT)]
    assert judged == [True, False, False]


def test_late_arrivals_of_today_are_found(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(attempts=5_000, days=3, visibility_delay=3600)
    configure(world, monkeypatch)
    world.sync()
    world.move(hours=2)
    assert main(["reconcile", "--days", "1"], now=world.now) == 0
    kept = world.query(KEPT)
    assert [row["outcome"] for row in kept] == ["agrees", "read again", "agrees"]
    assert kept[1]["created_before"] == NOW - SECOND  # up to the last second that was read
    stored = world.stored()
    missing = [row for sid, row in world.truth().items() if sid not in stored]
    assert all(row["date_created"] >= NOW for row in missing)


def test_rows_that_are_no_attempts_are_no_difference(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twilio counts these rows. The warehouse knows them once it has read the day again."""
    world = make_world(attempts=300, rows="no_sid")
    configure(world, monkeypatch)
    world.sync()
    assert main(["reconcile", "--days", "3"], now=NOW) == 0
    outcomes = [row["outcome"] for row in world.query(KEPT)]
    assert "read again" in outcomes
    assert outcomes[-1] == "agrees"


def test_filters_that_twilio_counts_by_are_heeded(
    synced: World, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("SOURCES__TWILIO_VERIFY__COUNTRY", "co")
    code, line = refused(capsys, "reconcile")
    assert (code, "run `make sync` first" in line) == (1, True)  # no sync with this filter yet
    assert main(["sync"], now=NOW) == 0
    synced.sandbox.log.clear()
    assert main(["reconcile", "--days", "5"], now=NOW) == 0
    assert asked(synced) == ["Summary"] * 6
    (counted,) = synced.query(
        "select sum(attempts) as n from (select attempts from twilio_verify.reconciliations"
        " order by created_after limit 5)"
    )
    first, end = NOW.replace(hour=0) - 5 * DAY, NOW.replace(hour=0)
    of_country = [
        row for row in synced.truth().values()
        if row["channel_data__country"] == "CO" and first <= row["date_created"] < end
    ]  # fmt: skip
    assert counted["n"] == len(of_country) > 5


@pytest.mark.parametrize(
    ("name", "value"), [("TO", "+573001234567"), ("VERIFICATION_SID", "VE" + "0" * 32)]
)
def test_filters_that_twilio_does_not_count_by_are_refused(
    synced: World, monkeypatch: pytest.MonkeyPatch, capsys: Capture, name: str, value: str
) -> None:
    monkeypatch.setenv(f"SOURCES__TWILIO_VERIFY__{name}", value)
    code, line = refused(capsys, "reconcile")
    assert (code, "has no totals by" in line, value in line) == (2, True, False)
    assert synced.sandbox.log == []


def test_before_the_first_sync(configured: World, capsys: Capture) -> None:
    code, line = refused(capsys, "reconcile")
    assert (code, "run `make sync` first" in line) == (1, True)
    assert configured.sandbox.log == []


def test_what_lies_on_a_bound_may_be_counted_or_not(database: duckdb.DuckDBPyConnection) -> None:
    def attempt(number: int, time: str, **other: object) -> dict[str, object]:
        return {"sid": f"VL{number}", "date_created": f"2026-11-{time}Z", **other}

    given(
        database,
        attempt(1, "10T23:59:59"),
        attempt(2, "11T00:00:00", conversion_status="converted"),
        attempt(3, "11T12:00:00", conversion_status="CONVERTED", age=timedelta(hours=30)),
        attempt(4, "11T13:00:00", conversion_status=None),
        attempt(5, "11T14:00:00", data={"country": None}),
        attempt(6, "11T15:00:00", data={"country": "US"}),
        attempt(7, "11T23:59:59"),
        attempt(8, "12T00:00:00"),
        attempt(9, "12T00:00:01"),
    )
    start = datetime(2026, 11, 11, tzinfo=timezone.utc)
    held = held_in(database, Window(start, start + DAY), Filters(country="CO"))
    assert held.day == Summary(4, 2, 1)
    assert held.least == Summary(3, 1, 1)
    assert held.most == Summary(5, 3, 3)
    assert held.read_age == timedelta(hours=30).total_seconds()
    part = held_in(database, Window(start, start + timedelta(hours=12)), Filters())
    assert (part.day, part.least, part.most) == ((2, 2, 0), (0, 0, 0), (2, 2, 0))


def test_a_verdict_says_why_different_counts_agree() -> None:
    start = datetime(2026, 11, 11, tzinfo=timezone.utc)
    ours, other = Summary(4, 2, 2), Summary(4, 3, 1)

    def verdict(api: Summary, judged: bool = True) -> str:
        held = Held(ours, ours, ours, timedelta(days=3))
        window = Window(start, start + DAY)
        comparison = Comparison(window, NOW, api, held, judged, agrees=True, is_second=False)
        return [*table([comparison])][-1].split("  ")[-1]

    assert verdict(ours) == "agrees"
    assert verdict(other).startswith("agrees but for attempts on the day's bounds, rejected rows")
    assert verdict(other, judged=False) == "agrees; conversions may still change"


@for_any(
    now=st.integers(0, 365 * 86_400).map(lambda s: NOW + timedelta(seconds=s)),
    behind=st.timedeltas(timedelta(), timedelta(days=40)),
    number=st.integers(1, 30),
)
def test_days_are_whole_within_retention_and_up_to_what_was_read(
    now: datetime, behind: timedelta, number: int
) -> None:
    reach = (now - behind).replace(microsecond=0) - SECOND
    days = days_of(now, reach, number)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    for day in days:
        assert day.after == day.after.replace(hour=0, minute=0, second=0, microsecond=0)
        assert now - RETENTION <= day.after < day.before == min(day.after + DAY, reach)
        assert day.after >= midnight - number * DAY
    expected = {
        start
        for start in (midnight - ago * DAY for ago in range(number + 1))
        if now - RETENTION <= start < reach
    }
    assert {day.after for day in days} == expected
