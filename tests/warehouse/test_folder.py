"""The folder on disk: publishing while others read, the catalog, and what can go wrong."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from pipelines.commands.fetch import fetch
from pipelines.errors import Failure
from pipelines.reading.package import Package
from pipelines.reading.windows import Window
from pipelines.twilio.columns import REJECTED
from pipelines.twilio.limits import SECOND
from pipelines.warehouse import files
from pipelines.warehouse.connections import STORAGE
from pipelines.warehouse.views import sql_folder, view_files
from tests.worlds import NOW, World, due_windows, read_windows

READER = """
import duckdb, sys
path, mode = sys.argv[1:]
connection = duckdb.connect(path, read_only=mode == "read")
if mode == "write":
    connection.execute("create table mine as select 42 as answer")
def count():
    return connection.execute("select count(*) from twilio_verify.attempts").fetchone()[0]
print(count(), flush=True)
for line in sys.stdin:
    print(count(), flush=True)
"""


class Reader:
    """Another process with an open connection to the published file."""

    def __init__(self, path: Path, mode: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", READER, str(path), mode],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self._answer()

    def count(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.write("again\n")
        self.process.stdin.flush()
        return self._answer()

    def _answer(self) -> int:
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())

    def end(self, how: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait()


@pytest.mark.parametrize(
    ("mode", "killed"),
    [
        ("read", False),
        ("write", True),
        pytest.param("read", True, marks=pytest.mark.long),
        pytest.param("write", False, marks=pytest.mark.long),
    ],
)
@pytest.mark.usefixtures("synced")
def test_readers_and_the_sync_do_not_wait_for_each_other(
    world: World, mode: str, killed: bool
) -> None:
    before = len(world.stored())
    reader = Reader(world.settings.published, mode)
    try:
        assert reader.first == before
        if killed:
            reader.end(signal.SIGKILL)
        world.move(days=2)
        world.sync()
        after = len(world.stored())
        assert after > before
        if not killed:
            assert reader.count() == before  # the open connection keeps its snapshot
        fresh = Reader(world.settings.published, "write")
        assert fresh.first == after
        fresh.end()
    finally:
        reader.end(signal.SIGKILL)
    world.sync()
    assert len(world.stored()) == after


@pytest.mark.usefixtures("synced")
def test_a_log_left_by_a_writer_does_not_survive_publishing(world: World) -> None:
    reader = Reader(world.settings.published, "write")
    reader.end(signal.SIGKILL)
    stale = world.settings.published.with_name("verify.duckdb.wal")
    assert stale.exists()
    world.sync()
    assert not stale.exists()
    assert world.stored() == world.truth()


@pytest.mark.usefixtures("synced")
def test_the_published_file_is_compact_and_readable_by_older_duckdb(world: World) -> None:
    with duckdb.connect(str(world.settings.published), read_only=True) as connection:
        schemas = connection.execute("select distinct schema_name from duckdb_tables()").fetchall()
        (tags,) = connection.execute(
            "select tags from duckdb_databases() where database_name = 'verify'"
        ).fetchall()[0]
        ((free, total),) = connection.execute(
            "select free_blocks, total_blocks from pragma_database_size()"
        ).fetchall()
    assert {name for (name,) in schemas} == {"main", "twilio_verify"}
    assert STORAGE in tags["storage_version"]
    assert free < total / 4
    assert not list(world.settings.directory.glob("verify.duckdb.new*"))


@pytest.mark.usefixtures("synced")
def test_every_view_and_column_says_what_it_is(world: World) -> None:
    views = world.query(
        "select view_name, comment from duckdb_views() where schema_name = 'main' and not internal"
        " union all select table_name, comment from duckdb_tables() where schema_name = 'main'"
        " and table_name not in ('settings', 'revisit_ages')"
    )
    assert {view["view_name"] for view in views} == {file.stem for file in view_files()}
    assert all(view["comment"].startswith("One row per ") for view in views)
    uncommented = world.query(
        "select table_name, column_name from duckdb_columns() "
        "where schema_name = 'main' and not internal"
        " and (comment is null or contains(comment, chr(10)))"
    )
    assert uncommented == []


def test_a_view_reads_only_from_what_is_applied_before_it_and_no_later_folder() -> None:
    names: list[str] = ["settings", "revisit_ages"]
    layers = ["staging", "marts", "reports"]
    layer_of = {file.stem: layers.index(file.parent.name) for file in view_files()}
    for file in view_files():
        text = file.read_text(encoding="utf-8")
        assert re.match(f"create or replace (view|table) {file.stem} as", text)
        assert not re.search(r"select\s+(\w+\.)?\*", text), f"{file.stem} selects *"
        later = {other.stem for other in view_files()} - {*names, file.stem}
        body = text.partition("comment on")[0]
        read = set(re.findall(r"(?:from|join)\s+([\w.]+)", body))
        assert not read & later, f"{file.stem} reads from {read & later}"
        assert all(layer_of[name] <= layer_of[file.stem] for name in read & layer_of.keys())
        names.append(file.stem)
    assert len(names) > 5


def test_settings_reach_the_views(world: World) -> None:
    world.settings = replace(world.settings, timezone="America/Bogota", fee_currency="EUR")
    world.sync()
    assert world.query("select timezone, fee_currency from settings") == [
        {"timezone": "America/Bogota", "fee_currency": "EUR"}
    ]
    local = "cast(timezone('America/Bogota', created_at) as date)"
    expected = world.query(f"select {local} d, count(*) n from stg_attempts group by 1 order by 1")
    assert expected == world.query(
        "select created_date d, cast(sum(attempts) as bigint) n from daily_conversion"
        " group by 1 order by 1"
    )


@pytest.mark.usefixtures("synced")
def test_views_of_an_older_release_disappear(world: World) -> None:
    with duckdb.connect(str(world.settings.directory / "loading.duckdb")) as connection:
        connection.execute("create view once_upon_a_time as select 1 as one")
    world.sync()
    assert world.query("select 1 from duckdb_views() where view_name = 'once_upon_a_time'") == []


def test_nothing_new_is_not_published(make_world: Callable[..., World]) -> None:
    world = make_world(attempts=300)
    world.sync()
    file = world.settings.published
    before = file.stat().st_ino
    world.move(seconds=2)
    outcome = world.sync()  # reads two seconds in which nothing was created
    assert (outcome.slices > 0, outcome.attempts) == (True, 0)
    assert outcome.unpublished == "nothing new to publish"
    assert file.stat().st_ino == before
    world.settings = replace(world.settings, timezone="Asia/Kolkata")
    assert world.sync().unpublished is None  # readers get different views
    before = file.stat().st_ino  # only the inode of the file just replaced is surely not reused
    world.move(hours=1)
    assert world.sync().unpublished is None
    assert file.stat().st_ino != before
    assert world.query("select count(*) as n from twilio_verify.windows_read")[0]["n"] > 3


@pytest.mark.parametrize("what", ["sync", "fetch"])
@pytest.mark.usefixtures("synced")
def test_what_an_interrupted_run_did_not_publish_is_new(
    world: World, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    before = world.stored()
    sid = next(iter(before))
    world.move(hours=3)
    now = world.now
    commands = {"sync": world.sync, "fetch": lambda: fetch(world.settings, [sid], now)}
    monkeypatch.setattr(files, "_SPARE", 2**62)  # no room to publish
    with pytest.raises(Failure, match="free some space"):
        commands[what]()
    monkeypatch.undo()
    assert world.stored() == before
    warehouse = world.warehouse()
    with warehouse.opened():  # a run that finds no new attempts
        warehouse.loader.load(Package.of(read_windows(world, [Window(NOW - SECOND, NOW)])))
        assert warehouse.publisher.reason_to_keep() is None
        warehouse.publisher.publish(NOW)
    with warehouse.opened():
        warehouse.loader.load(Package.of(read_windows(world, [Window(NOW - SECOND, NOW)])))
        assert warehouse.publisher.reason_to_keep() == "nothing new to publish"
    (row,) = world.query("select max(read_at) as at from raw")
    assert row["at"] >= now


@pytest.mark.usefixtures("synced")
def test_rows_that_are_no_attempts_are_something_to_publish(world: World) -> None:
    warehouse = world.warehouse()
    window = Window(NOW - SECOND, NOW)
    row = {"reason": "no usable sid", "read_at": NOW, "attempt": "{}"}
    with warehouse.opened():
        warehouse.loader.load(Package.of(read_windows(world, [window])))
        assert warehouse.publisher.reason_to_keep() == "nothing new to publish"
        package = Package.of(read_windows(world, [window]))
        package = replace(package, rejected=pa.Table.from_pylist([row], REJECTED))
        warehouse.loader.load(package)
        assert package.attempts.num_rows == 0
        assert warehouse.publisher.reason_to_keep() is None


@pytest.mark.usefixtures("synced")
def test_a_published_file_from_the_future_does_not_hold_back_the_next(world: World) -> None:
    """As when the machine's clock was ahead, or the file was copied from such a machine."""
    world.settings = replace(world.settings, publish_every=timedelta(hours=6))
    future = world.settings.published.stat().st_mtime + 86_400
    os.utime(world.settings.published, times=(future, future))
    world.move(hours=3)
    assert world.sync().unpublished is None
    assert world.stored().keys() >= world.truth().keys()


@pytest.mark.usefixtures("synced")
def test_publishing_is_spaced_out_as_told(world: World) -> None:
    before = world.stored()
    world.settings = replace(world.settings, publish_every=timedelta(hours=6))
    world.move(hours=3)
    outcome = world.sync()
    assert outcome.attempts
    assert outcome.unpublished
    assert "publish_every" in outcome.unpublished
    assert world.stored() == before
    file = world.settings.published
    os.utime(file, times=(file.stat().st_mtime - 6 * 3600,) * 2)
    assert world.sync().unpublished is None  # nothing is due, but there is something to publish
    assert len(world.stored()) > len(before)


@pytest.mark.usefixtures("synced")
def test_too_little_disk_keeps_what_was_read_and_what_was_published(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = world.stored()
    world.move(hours=11)
    monkeypatch.setattr(files, "_SPARE", 2**62)
    with pytest.raises(Failure, match="free some space"):
        world.sync()
    assert world.stored() == before
    monkeypatch.undo()
    assert world.sync().slices == 0
    assert len(world.stored()) > len(before)


@pytest.mark.usefixtures("synced")
def test_loaded_packages_leave_no_phone_number_behind(world: World) -> None:
    number = next(r["channel_data__to"] for r in world.stored().values() if r["channel"] == "sms")
    for file in world.settings.directory.rglob("*"):
        assert number not in str(file)
        if file.is_file() and file.suffix != ".duckdb":
            assert number.encode() not in file.read_bytes(), file


def test_a_warehouse_can_be_opened_again(world: World) -> None:
    warehouse = world.warehouse()
    windows = due_windows(world)[:2]
    for _ in range(2):
        with warehouse.opened():
            warehouse.loader.finish_pending()
            warehouse.loader.load(Package.of(read_windows(world, windows)))
    world.sync()
    assert world.stored() == world.truth()


def test_a_foreign_file_is_one_clear_line(world: World) -> None:
    world.settings.directory.mkdir(parents=True)
    (world.settings.directory / "loading.duckdb").write_bytes(b"this is no database" * 1000)
    with pytest.raises(
        Failure, match=r"loading\.duckdb is damaged or not a database.*move it away"
    ):
        world.sync()


def test_the_views_are_found_beside_the_package() -> None:
    assert (sql_folder() / "settings.sql").is_file()
    assert {file.parent.name for file in view_files()} == {"staging", "marts", "reports"}
