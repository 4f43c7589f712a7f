"""A run end to end: the real dlt and DuckDB against the sandbox, compared with its truth."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import dlt
import duckdb
import pytest

from pipelines.commands.fetch import fetch
from pipelines.errors import Misuse
from pipelines.reading import slices
from pipelines.reading.package import Package, SliceRead
from pipelines.reading.raw_tables import TABLES
from pipelines.reading.windows import WindowsRead, cut
from pipelines.source import package_source, twilio_verify
from pipelines.twilio.credentials import Credentials
from pipelines.warehouse import loading as loader
from pipelines.warehouse.ingest import due
from pipelines.warehouse.views import apply_views
from tests.worlds import NOW, World, due_windows, read_windows

MakeWorld = Callable[..., World]
ANSWERS = [
    {},
    {"inclusive": False, "doubled": True, "no_error": "mixed"},
    *(
        pytest.param(switches, marks=pytest.mark.long)
        for switches in (
            {"inclusive": False, "oldest_first": True},
            {"upper_case": True, "no_error": "mixed", "converts": "last"},
            {"doubled": True, "price_touches_updated": False},
        )
    ),
]


@pytest.mark.parametrize("switches", ANSWERS, ids=lambda s: "-".join(s) or "default")
def test_both_syncs_equal_the_truth_whatever_the_api_answers(
    make_world: MakeWorld, switches: dict[str, object]
) -> None:
    """Four days later every attempt that can still change has been revisited, or is new."""
    world = make_world(**switches)
    world.settings = replace(world.settings, page_size=150)
    world.sync()
    before = world.stored()
    assert before == world.truth()
    world.move(days=4)
    world.sync()
    after = world.stored()
    assert len(after) == world.query("select count(*) as n from raw")[0]["n"]
    assert {sid: after[sid] for sid in world.truth()} == world.truth()
    changed = [sid for sid in before if before[sid] != after[sid]]
    for column in ("conversion_status", "channel_data__message_status", "price__value"):
        assert any(before[sid][column] != after[sid][column] for sid in changed), column


def test_a_row_is_what_the_api_said_when_it_was_read(make_world: MakeWorld) -> None:
    """Between revisits rows may be stale, but never a mixture of two instants."""
    world = make_world(attempts=4_000, days=5)
    world.sync()
    world.move(hours=2)
    world.sync()
    sandbox_time = "case when read_at < timestamptz '2026-11-20 13:00:00+00' then 0 else 1 end"
    read_late = {
        row["sid"]: row["t"] for row in world.query(f"select sid, {sandbox_time} t from raw")
    }
    truths = (world.truth(NOW), world.truth())
    stored = world.stored()
    assert set(read_late.values()) == {0, 1}
    assert all(stored[sid] == truths[late][sid] for sid, late in read_late.items())
    assert stored.keys() == truths[1].keys()


@pytest.mark.usefixtures("synced")
def test_twice_at_the_same_time_reads_nothing_the_second_time(world: World) -> None:
    requests = len(world.sandbox.log)
    outcome = world.sync()
    assert (outcome.slices, outcome.attempts) == (0, 0)
    assert len(world.sandbox.log) == requests


def test_an_hour_later_only_new_and_due_attempts_are_read(make_world: MakeWorld) -> None:
    world = make_world(attempts=6_000)
    world.sync()
    world.move(hours=1)
    outcome = world.sync()
    ages = [(0, 1.25), (26, 27), (72, 73), (29 * 24, 29 * 24 + 1)]
    created = [row["date_created"] for row in world.truth().values()]
    due_now = sum(
        any(timedelta(hours=a) <= world.now - at < timedelta(hours=b) for a, b in ages)
        for at in created
    )
    assert outcome.slices == len(ages)
    assert abs(outcome.attempts - due_now) <= 8  # attempts in the seconds at the edges


def test_attempts_that_appear_late_are_found_by_the_first_revisit(make_world: MakeWorld) -> None:
    world = make_world(attempts=3_000, days=3, visibility_delay=800)
    for _ in range(2):
        world.sync()
        world.move(minutes=30)
    created_before = world.now - timedelta(minutes=30 + 15)
    late = {s for s, row in world.truth().items() if row["date_created"] < created_before}
    assert late <= world.stored().keys()


def test_of_doubles_in_one_load_the_last_read_stays(world: World) -> None:
    """Two reads of a window in one package, the later one first: the later read wins."""
    windows = cut(due_windows(world)[0], 10)[-3:]
    early = read_windows(world, windows)
    world.move(hours=3)
    late = read_windows(world, windows)
    warehouse = world.warehouse()
    with warehouse.opened():
        warehouse.loader.load(Package.of([*late, *early]))
        apply_views(warehouse.database, warehouse.settings)
        warehouse.publisher.publish(NOW)
    stored, truth = world.stored(), world.truth()
    assert stored
    assert stored == {sid: truth[sid] for sid in stored}


def test_an_empty_account_creates_every_table_and_view(make_world: MakeWorld) -> None:
    world = make_world(attempts=0)
    assert world.sync().attempts == 0
    tables = {row["table_name"] for row in world.query("select table_name from duckdb_tables()")}
    assert tables >= {"attempts", *TABLES, "settings"}
    for view in ("stg_attempts", "verification_attempts", "verifications", "daily_conversion"):
        assert world.query(f"select count(*) as n from {view}") == [{"n": 0}]
    columns = {r["column_name"] for r in world.query("describe twilio_verify.attempts")}
    assert {"price__value", "channel_data__to", "extra", "read_at"} <= columns


@pytest.mark.parametrize("concurrency", [1, pytest.param(4, marks=pytest.mark.long)])
def test_packages_are_small_and_begun_oldest_first(in_slices: World, concurrency: int) -> None:
    """With one chain they are also loaded oldest first."""
    in_slices.settings = replace(in_slices.settings, concurrency=concurrency)
    outcome = in_slices.sync()
    loads = in_slices.query(
        "select _dlt_load_id, min(created_after) as first, max(created_before) as last,"
        " sum(pages) as pages from twilio_verify.windows_read group by 1 order by 1"
    )
    assert outcome.packages == len(loads) > 1
    assert all(load["pages"] <= slices.ENOUGH_PAGES + slices.MOST_PAGES for load in loads)
    assert concurrency > 1 or all(a["last"] == b["first"] for a, b in pairwise(loads))
    assert in_slices.stored() == in_slices.truth()


def test_new_attempts_are_appended_others_merged(
    in_slices: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Append gives the same result as merge only if none of the attempts is stored yet."""
    new: list[bool] = []

    def told(package: Package, materialize: bool = True, is_new: bool = False) -> Any:
        new.append(is_new)
        return package_source(package, materialize, is_new)

    monkeypatch.setattr(loader, "package_source", told)
    in_slices.sync()
    assert len(new) > 1
    assert all(new)
    new.clear()
    in_slices.move(hours=27)
    in_slices.sync()
    assert False in new  # attempts that are read again
    assert in_slices.truth().keys() <= in_slices.stored().keys()
    fetch(in_slices.settings, [*in_slices.truth()][:1], in_slices.now)
    assert new[-1] is False


@pytest.mark.parametrize("known", ["sid", "window"])
def test_what_is_stored_in_part_is_not_appended(world: World, known: str) -> None:
    """Merge if a sid is stored, whatever its date, or if the window has other stored attempts."""
    window = cut(due_windows(world)[0], 2)[1]
    (read,) = read_windows(world, [window])
    change = "date_created = '2026-10-25 00:00:00'" if known == "sid" else "sid = 'VL0'"
    warehouse = world.warehouse()
    with warehouse.opened():
        warehouse.loader.load(Package.of([read]))
        warehouse.connection.execute(
            f"delete from twilio_verify.attempts where sid <> '{read.attempts['sid'][0]}'"
        )
        warehouse.connection.execute(f"update twilio_verify.attempts set {change}")
        assert not warehouse.loader._is_new(Package.of([read]))
        warehouse.loader.load(Package.of([read]))
        apply_views(warehouse.database, warehouse.settings)
        warehouse.publisher.publish(NOW)
    assert len(world.stored()) == read.attempts.num_rows + (known == "window")


@pytest.mark.parametrize("is_loaded", [True, False])
def test_an_interrupted_append_adds_nothing_twice(world: World, is_loaded: bool) -> None:
    """The run is killed after its attempts are stored but before dlt records that, or earlier."""
    warehouse, package = world.warehouse(), Package.of(_package(world))
    with warehouse.opened():
        warehouse.loader.pipeline.extract(package_source(package, new=True))
        warehouse.loader.pipeline.normalize()
        (job,) = world.settings.directory.glob("dlt/**/new_jobs/attempts.*.parquet")
        if is_loaded:
            warehouse.loader.pipeline.sync_schema()
            warehouse.connection.execute(
                f"insert into twilio_verify.attempts by name select * from read_parquet('{job}')"
            )
    world.sync()
    assert world.stored() == world.truth()


def test_a_pending_package_is_finished_first(in_slices: World) -> None:
    world = in_slices
    warehouse, package = world.warehouse(), _package(world)
    with warehouse.opened():
        warehouse.loader.pipeline.extract(package_source(Package.of(package)))
        warehouse.loader.pipeline.normalize()
    with_it = {read.record()["created_after"] for read in package}
    world.sync()
    read = world.query(
        "select created_after, count(*) as reads from twilio_verify.windows_read group by 1"
    )
    assert with_it < {row["created_after"] for row in read}
    assert {row["reads"] for row in read} == {1}  # the pending windows are not read again
    assert world.stored() == world.truth()


def test_a_package_that_cannot_be_loaded_is_given_up_and_read_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    warehouse, package = world.warehouse(), _package(world)
    with warehouse.opened():
        warehouse.loader.pipeline.extract(package_source(Package.of(package)))
        warehouse.loader.pipeline.normalize()
    (file,) = world.settings.directory.glob("dlt/**/new_jobs/attempts.*.parquet")
    file.write_bytes(b"not parquet")
    with caplog.at_level(logging.WARNING, logger="verify_sync"):
        outcome = world.sync()
    assert "dropping the package" in caplog.text
    assert not list(world.settings.directory.glob("dlt/**/attempts.*"))  # it holds phone numbers
    assert outcome.attempts == len(world.truth())
    assert world.stored() == world.truth()


@pytest.mark.usefixtures("synced")
def test_windows_of_an_incomplete_package_do_not_count(world: World) -> None:
    assert due(world.warehouse(), world.now) == []
    with duckdb.connect(str(world.settings.directory / "loading.duckdb")) as connection:
        connection.execute("delete from twilio_verify._dlt_loads")
    assert len(due(world.warehouse(), world.now)) == 1


def test_a_dry_run_tells_the_cost_and_changes_nothing(make_world: MakeWorld) -> None:
    world = make_world(attempts=4_000)
    world.settings = replace(world.settings, page_size=100)
    found = due(world.warehouse(), world.now)
    assert [file.name for file in world.settings.directory.iterdir()] == ["requests.sqlite"]
    before = len(world.sandbox.log)
    outcome = world.sync()
    (window,) = found
    summaries = sum("Summary" in request.path for request in world.sandbox.log[before:])
    assert len(world.sandbox.log) - before == outcome.pages + summaries
    assert window.requests == pytest.approx(outcome.pages + summaries, abs=4)
    assert window.attempts == pytest.approx(outcome.attempts, abs=30)


@pytest.mark.usefixtures("synced")
def test_a_warehouse_belongs_to_one_account(world: World) -> None:
    requests = len(world.sandbox.log)
    world.settings = replace(world.settings, credentials=Credentials.of("AC" + "b" * 32, "token"))
    with pytest.raises(Misuse, match="own folder"):
        world.sync()
    with pytest.raises(Misuse, match="own folder"):
        due(world.warehouse(), world.now)
    assert len(world.sandbox.log) == requests


def test_a_key_of_another_account_is_refused(world: World) -> None:
    other = Credentials.of("AC" + "b" * 32, None, world.sandbox.api_key, world.sandbox.api_secret)
    world.settings = replace(world.settings, credentials=other)
    with pytest.raises(Misuse, match="one account"):
        world.sync()
    assert not world.settings.published.exists()


def test_the_source_works_in_anyones_pipeline(world: World, tmp_path: object) -> None:
    def run() -> None:
        pipeline = dlt.pipeline(
            "theirs",
            pipelines_dir=f"{tmp_path}/theirs",
            destination=dlt.destinations.duckdb(f"{tmp_path}/theirs.duckdb"),
            dataset_name="raw",
        )
        pipeline.run(
            twilio_verify(
                world.sandbox.account_sid,
                world.sandbox.auth_token,
                base_url=world.settings.base_url,
                now=world.now,
            )
        )

    run()
    first = len(world.sandbox.log)
    run()
    assert len(world.sandbox.log) == first  # it knows what it has read
    world.move(days=4)
    run()
    with duckdb.connect(f"{tmp_path}/theirs.duckdb", read_only=True) as connection:
        sql = "select sid, channel_data__message_status, price__value from raw.attempts"
        stored = {sid: rest for sid, *rest in connection.execute(sql).fetchall()}
    truth = world.truth()
    names = ("channel_data__message_status", "price__value")
    assert {sid: stored[sid] for sid in truth} == {
        sid: [row[name] for name in names] for sid, row in truth.items()
    }


def test_the_source_heeds_no_variable_of_somebody_elses(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """dlt by itself would use these variables as arguments of the same names."""
    for name, value in {"BASE_URL": "http://127.0.0.1:9", "COUNTRY": "CO", "TO": "x"}.items():
        monkeypatch.setenv(name, value)
    pipeline = dlt.pipeline(
        "theirs", pipelines_dir=f"{tmp_path}/theirs",
        destination=dlt.destinations.duckdb(f"{tmp_path}/theirs.duckdb"), dataset_name="raw",
    )  # fmt: skip
    sandbox = world.sandbox
    token = (sandbox.account_sid, sandbox.auth_token)
    only = {"country": "BR"}
    pipeline.run(twilio_verify(*token, filters=only, base_url=sandbox.url, now=world.now))
    with duckdb.connect(f"{tmp_path}/theirs.duckdb", read_only=True) as connection:
        stored = {sid for (sid,) in connection.execute("select sid from raw.attempts").fetchall()}
    truth = world.truth().items()
    assert stored == {sid for sid, row in truth if row["channel_data__country"] == "BR"}


def test_the_source_heeds_the_same_settings(
    configured: World, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    """Its address, its filters, its page size, as in verify-sync itself."""
    sandbox = configured.sandbox
    for name, value in {"COUNTRY": "BR", "PAGE_SIZE": "77", "REVISIT_AFTER": '["4d"]'}.items():
        monkeypatch.setenv(f"SOURCES__TWILIO_VERIFY__{name}", value)

    def run(**given: Any) -> set[str]:
        pipeline = dlt.pipeline(
            "theirs", pipelines_dir=f"{tmp_path}/theirs",
            destination=dlt.destinations.duckdb(f"{tmp_path}/theirs.duckdb"), dataset_name="raw",
        )  # fmt: skip
        token = (sandbox.account_sid, sandbox.auth_token)
        pipeline.run(twilio_verify(*token, now=configured.now, **given))
        with duckdb.connect(f"{tmp_path}/theirs.duckdb", read_only=True) as connection:
            return {sid for (sid,) in connection.execute("select sid from raw.attempts").fetchall()}

    truth = configured.truth().items()
    of = {code: {sid for sid, row in truth if row["channel_data__country"] == code}
          for code in ("BR", "CO")}  # fmt: skip
    assert run() == of["BR"]
    assert {r.parameters["PageSize"] for r in sandbox.log if "PageSize" in r.parameters} == {"77"}
    asked = len(sandbox.log)
    configured.move(minutes=1)
    run()
    assert len(sandbox.log) == asked + 3  # what is new, the one revisit, and the last call
    assert run(filters={"country": "CO"}, page_size=500) >= of["BR"] | of["CO"]


def test_the_source_refuses_a_setting_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUS__DIR", "a folder of another program's")
    monkeypatch.setenv("SOURCES__TWILIO_VERIFY__CONTRY", "CO")
    with pytest.raises(Misuse, match="CONTRY: no such setting"):
        twilio_verify("AC" + "0" * 32, "token")


@pytest.mark.parametrize("filters", [{"status": "converted"}, {"contry": "CO"}, {"country": "C"}])
def test_the_source_refuses_a_filter_that_is_none(filters: dict[str, str]) -> None:
    with pytest.raises(Misuse, match=next(iter(filters))):
        twilio_verify("AC" + "0" * 32, "token", filters=filters)


def test_a_pending_package_of_another_account_is_not_mixed_in(world: World) -> None:
    """The package's account is known only once it is loaded, so the check comes after that."""
    warehouse, package = world.warehouse(), _package(world)
    with warehouse.opened():
        warehouse.loader.pipeline.extract(package_source(Package.of(package)))
    world.settings = replace(world.settings, credentials=Credentials.of("AC" + "b" * 32, "token"))
    with pytest.raises(Misuse, match="own folder"):
        world.sync()


@pytest.mark.parametrize(
    "window",
    [
        {"created_after": "2026-11-10"},
        {"created_before": datetime(2026, 11, 10)},  # noqa: DTZ001
        {"created_after": NOW - timedelta(days=2), "created_before": NOW - timedelta(days=3)},
        {"created_before": NOW - timedelta(days=40)},
    ],
)
def test_the_source_refuses_a_window_that_is_none(world: World, window: dict[str, Any]) -> None:
    with pytest.raises(Misuse, match="created_"):
        twilio_verify("AC" + "0" * 32, "token", now=NOW, **window)


def test_windows_read_come_back_in_utc() -> None:
    """A database session in a zone with daylight saving must not shift what has been read."""
    berlin = ZoneInfo("Europe/Berlin")
    after, read_at = datetime(2026, 3, 28, tzinfo=berlin), datetime(2026, 3, 29, 12, tzinfo=berlin)
    found = WindowsRead.of([(after, read_at, read_at)])
    utc = datetime.fromtimestamp(int(found.read_at[0]), timezone.utc)
    assert utc - timedelta(hours=26) == datetime(2026, 3, 28, 8, tzinfo=timezone.utc)


def _package(world: World) -> list[SliceRead]:
    return read_windows(world, cut(due_windows(world)[0], 30)[:10])
