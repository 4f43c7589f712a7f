"""Kept tables equal what their queries give, whatever was loaded, killed or restored."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines.settings import Settings
from pipelines.warehouse import kept, session
from pipelines.warehouse.changes import changes_since, stretches
from pipelines.warehouse.kept import differing, kept_tables, refresh
from pipelines.warehouse.marks import create_marks
from pipelines.warehouse.recovery import Loads, loads_in
from pipelines.warehouse.scope import Scope
from pipelines.warehouse.views import create_views, view_files
from tests.sql.given import add
from tests.worlds import World, in_memory

START = datetime(2026, 3, 1, 22, 30, tzinfo=timezone.utc)
TABLES = kept_tables(view_files())
SHARED = [HealthCheck.function_scoped_fixture]
OF_A_STATE = ("twilio_verify.attempts", "twilio_verify._dlt_loads", "twilio_verify._marks", *TABLES)
ROW = st.fixed_dictionaries(
    {
        "number": st.integers(0, 11),
        "is_moved": st.booleans(),
        "channel": st.sampled_from(["sms", "call", None]),
        "conversion_status": st.sampled_from(["converted", "unconverted"]),
        "price": st.sampled_from([None, ("0.05", "usd"), ("0.07", "EUR")]),
        "age": st.sampled_from([timedelta(minutes=2), timedelta(hours=1), timedelta(days=4)]),
        "message_status": st.sampled_from(["delivered", "failed", None]),
    }
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["load", "load", "load", "killed", "save", "restore"]),
        st.lists(ROW, min_size=1, max_size=8),
    ),
    min_size=2,
    max_size=8,
)


class Loading:
    """Loads attempts into a database as dlt does, but without dlt."""

    def __init__(self, database: duckdb.DuckDBPyConnection) -> None:
        self.database, self.number = database, 0
        create_views(database, Settings(directory=Path()))
        for column in ("_dlt_load_id", "_changed_load_id"):
            database.execute(f"alter table twilio_verify.attempts add column {column} varchar")
        database.execute("alter table twilio_verify._dlt_loads add column inserted_at timestamptz")
        create_marks(database)

    def empty(self, zone: str) -> None:
        """Empties the database, for days of this zone. Later loads get ids of their own, as dlt's
        do."""
        for name in OF_A_STATE:
            self.database.execute(f"delete from {name}")
        self.database.execute("update settings set timezone = ?", [zone])
        self.save()

    def load(self, rows: list[dict[str, Any]]) -> None:
        self.number += 1
        rows = [*{row["number"]: row for row in rows}.values()]
        self.database.execute(
            "create or replace temp table old as from twilio_verify.attempts;"
            "delete from twilio_verify.attempts; alter table twilio_verify.attempts"
            " drop column _dlt_load_id; alter table twilio_verify.attempts drop column"
            " _changed_load_id"
        )
        add(self.database, *map(attempt_of, rows))
        self.database.execute(
            "alter table twilio_verify.attempts add column _dlt_load_id varchar default"
            f" '{self.number}'; alter table twilio_verify.attempts add column _changed_load_id"
            f" varchar default '{self.number}'; insert into twilio_verify.attempts from old"
            " where sid not in (select sid from twilio_verify.attempts);"
            "insert into twilio_verify._dlt_loads values"
            f" ('{self.number}', 0, timestamptz '2026-01-01' + interval {self.number} second)"
        )

    def save(self) -> None:
        for number, name in enumerate(OF_A_STATE):
            self.database.execute(f"create or replace temp table saved_{number} as from {name}")

    def restore(self) -> None:
        for number, name in enumerate(OF_A_STATE):
            self.database.execute(f"delete from {name}; insert into {name} from saved_{number}")


@pytest.fixture
def loading() -> Iterator[Loading]:
    with in_memory() as database:
        yield Loading(database)


def attempt_of(row: dict[str, Any]) -> dict[str, Any]:
    """Two verifications a night, of three attempts each, on both sides of midnight. Nights are nine
    days apart."""
    number = row["number"]
    night, place = divmod(number, 6)
    verification = night * 2 + (place + row["is_moved"]) % 2
    at = START + timedelta(days=9 * night, minutes=37 * place)
    price = row["price"]
    return {
        "sid": f"VL{number:02}",
        "verification_sid": f"VE{verification}",
        "date_created": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "channel": row["channel"],
        "conversion_status": row["conversion_status"],
        "price": price and {"value": price[0], "currency": price[1]},
        "age": row["age"],
        "data": {"message_status": row["message_status"]},
    }


@pytest.fixture(autouse=True)
def always_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_MOST", 2)  # else a small table is made anew


@settings(max_examples=settings.default.max_examples, suppress_health_check=SHARED)
@given(steps=STEPS, zone=st.sampled_from(["UTC", "America/Santiago", "Asia/Kolkata"]))
def test_a_refreshed_table_is_a_table_made_anew(
    loading: Loading, steps: list[tuple[str, list[dict[str, Any]]]], zone: str
) -> None:
    database = loading.database
    loading.empty(zone)
    for what, rows in steps:
        if what == "save":
            loading.save()
        elif what == "restore":
            loading.restore()
        else:
            seen = loads_in(database)
            loading.load(rows)
            if what == "killed":  # before the refresh
                continue
            refresh(database, TABLES)
            scope = Scope.since(database, seen)
            assert differing(database, TABLES, scope.touched) == []
        refresh(database, TABLES)
        assert differing(database, TABLES, None) == []


@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31"])
@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "Pacific/Pago_Pago"])
def test_a_date_at_the_end_of_the_calendar_stops_nothing(
    loading: Loading, day: str, zone: str
) -> None:
    loading.empty(zone)
    usual = {
        "number": 0, "is_moved": False, "channel": "sms", "conversion_status": "converted",
        "price": None, "age": timedelta(hours=1), "message_status": None,
    }  # fmt: skip
    loading.load([usual])
    refresh(loading.database, TABLES)
    seen = loads_in(loading.database)
    loading.load([{**usual, "number": 1}])
    loading.database.execute(
        f"update twilio_verify.attempts set date_created = '{day} 12:00:00Z' where sid = 'VL01'"
    )
    refresh(loading.database, TABLES)
    scope = Scope.since(loading.database, seen)
    assert differing(loading.database, TABLES, scope.touched) == []
    assert [*scope.passes("getvariable('first_day')", loading.database)]


def test_what_changed_is_told_from_what_was_only_read_again(synced: World) -> None:
    file = str(synced.settings.directory / "loading.duckdb")
    for hours in (1, 26, 70):
        before = synced.stored()
        with duckdb.connect(file) as connection:
            seen = loads_in(connection)
        assert seen
        synced.move(hours=hours)
        synced.sync()
        after = synced.stored()
        with duckdb.connect(file) as connection:
            changes = changes_since(connection, seen)
            found = dict(
                connection.execute(
                    "select attempt_sid, is_changed from changed_attempts"
                ).fetchall()
            )
            read = connection.execute(
                "select sid from twilio_verify.attempts where _dlt_load_id > ?", [seen.newest]
            ).fetchall()
        assert found == {sid: before.get(sid) != after[sid] for (sid,) in read}
        assert changes
        assert (changes.attempts, changes.changed) == (len(found), sum(found.values()))
        assert 0 < changes.changed < changes.attempts
        days = {f"{after[sid]['date_created']:%F}" for sid in found}
        assert sorted(map(str, changes.days)) == sorted(days)


def test_what_cannot_be_told_is_everything(synced: World) -> None:
    with duckdb.connect(str(synced.settings.directory / "loading.duckdb")) as connection:
        now = loads_in(connection)
        assert now
        assert changes_since(connection, now) is not None
        for seen in (Loads("1", 1), Loads(now.newest, now.number + 1), Loads(now.newest, 0)):
            assert changes_since(connection, seen) is None


def test_attempts_further_apart_than_twilio_allows_are_put_right(
    synced: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Also if they are found by the daily check only."""
    with duckdb.connect(str(synced.settings.directory / "loading.duckdb")) as connection:
        connection.execute(
            "update twilio_verify.attempts set verification_sid = 'VEodd' where sid in"
            " (select sid from twilio_verify.attempts order by date_created limit 3)"
            " or date_created = (select max(date_created) from twilio_verify.attempts)"
        )
    synced.move(hours=25)
    synced.sync()
    assert "making the kept tables again, because " in caplog.text
    (odd,) = synced.query("select attempts from verifications where verification_sid = 'VEodd'")
    assert odd["attempts"] >= 3
    assert synced.query("select count(*) as n from daily_conversion") != []


def test_a_load_does_not_read_what_lies_elsewhere(synced: World) -> None:
    """The stretches of days that it reads do not grow with the days between them."""
    days = [datetime(2026, 3, day, tzinfo=timezone.utc).date() for day in (1, 2, 5, 30)]
    assert stretches(days) == [(days[0], days[1]), (days[2], days[2]), (days[3], days[3])]
    assert stretches(days, apart=3) == [(days[0], days[2]), (days[3], days[3])]
    many = [days[0] + timedelta(days=2 * n) for n in range(100)]
    assert stretches(many) == [(many[0], many[-1])]


def test_views_are_not_published_while_checks_of_all_rows_fail(
    synced: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failure found on all rows stands: the next run looks at all rows again."""
    seen = []
    usual = session.check

    def watched(*given: Any) -> Any:
        scope, answers = usual(*given)
        seen.append(scope.changes is None)
        return scope, answers

    monkeypatch.setattr(session, "check", watched)
    for hours, is_full in ((1, False), (1, False), (24, True), (1, False)):
        synced.move(hours=hours)
        synced.sync()
        assert seen.pop() == is_full
    with duckdb.connect(str(synced.settings.directory / "loading.duckdb")) as connection:
        connection.execute("update twilio_verify._marks set value = '[\"x\"]' where name='failing'")
    for is_full in (True, False):
        synced.move(hours=1)
        synced.sync()
        assert seen.pop() == is_full
