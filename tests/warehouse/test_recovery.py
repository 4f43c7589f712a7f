"""Files that are missing, damaged or not ours: nothing that was stored is lost."""

from __future__ import annotations

import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipelines.__main__ import main
from pipelines.errors import Failure
from pipelines.reading.package import Package
from pipelines.source import package_source
from pipelines.twilio.credentials import Credentials
from pipelines.warehouse.ingest import due
from tests.worlds import (
    NOW,
    Capture,
    Row,
    World,
    due_windows,
    nothing_is_due,
    read_windows,
    refused,
)

Break = Callable[[Path], object]


def failure_of(world: World) -> str:
    try:
        world.sync()
    except Failure as failure:
        return str(failure)
    return ""


def empty(file: Path) -> None:
    file.write_bytes(b"")


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def scramble(file: Path) -> None:
    """Keeps the first blocks, so that the file opens, and damages a byte of each later page."""
    content = bytearray(file.read_bytes())
    for place in range(600_000, len(content), 4096):
        content[place] ^= 0xFF
    file.write_bytes(content)


def garble(file: Path) -> None:
    file.write_bytes(b"this is no database" * 1000)


@pytest.mark.parametrize("harm", [Path.unlink, cut, scramble, garble], ids=lambda h: h.__name__)
@pytest.mark.usefixtures("synced")
def test_the_loading_file_is_rebuilt_from_the_published_one(
    world: World, harm: Break, caplog: pytest.LogCaptureFixture
) -> None:
    before = world.stored()
    loading = world.settings.directory / "loading.duckdb"
    harm(loading)
    world.move(hours=30)
    with caplog.at_level(logging.WARNING, logger="verify_sync"):
        message = failure_of(world)
        if message:  # DuckDB 2 notices the damage only when it writes
            assert (harm, "run again" in message) == (scramble, True)
            assert world.stored() == before
            world.sync()
    (said,) = [message for message in caplog.messages if "rebuilt from verify.duckdb" in message]
    is_gone = harm is Path.unlink or message
    why = "is missing: rebuilt" if is_gone else r"is damaged or not a database \(.* .*\): rebuilt"
    assert re.match(f"{re.escape(str(loading))} {why}", said)
    assert before.keys() | world.truth().keys() == world.stored().keys()
    assert nothing_is_due(world)
    kept = loading.with_name("loading.duckdb.set-aside-1")
    assert kept.exists() == (harm is not Path.unlink)


@pytest.mark.parametrize("name", ["verify.duckdb", "loading.duckdb"])
@pytest.mark.usefixtures("synced")
def test_a_log_that_belongs_to_another_file_is_no_obstacle(
    world: World, tmp_path: Path, name: str
) -> None:
    """A kill between two renames would leave such a log, or a file restored by hand."""
    before = world.stored()
    writing = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]);"
        "c.execute('create table mine as select 1'); os.kill(os.getpid(), 9)"
    )
    other = tmp_path / name
    shutil.copy(world.settings.directory / name, other)
    subprocess.run([sys.executable, "-c", writing, str(other)], check=False)
    with duckdb.connect(str(world.settings.directory / name)) as connection:
        connection.execute("create table later as select 1")  # invalidates that log
    shutil.move(other.with_name(f"{name}.wal"), world.settings.directory)
    world.sync()
    assert world.stored() == before


@pytest.mark.usefixtures("synced")
def test_a_rebuild_waits_for_who_writes_into_the_published_file(world: World) -> None:
    before = world.stored()
    (world.settings.directory / "loading.duckdb").unlink()
    with holding(world.settings.published), pytest.raises(Failure, match="end that process"):
        world.sync()
    world.sync()
    assert world.stored() == before


@pytest.mark.parametrize("note", ["", "' or true --", "1764000000.5 x", "\xff\x00"])
@pytest.mark.usefixtures("synced")
def test_a_failure_is_told_even_while_somebody_writes_into_the_published_file(
    world: World, note: str
) -> None:
    """And even if the note about that file is nonsense."""
    world.settings.published.with_name("verify.duckdb.load").write_bytes(note.encode("latin-1"))
    wrong = Credentials.of(world.sandbox.account_sid, "a-wrong-token")
    world.settings = replace(world.settings, credentials=wrong)
    world.move(hours=1)
    with holding(world.settings.published), pytest.raises(Failure, match="Twilio answered 401"):
        world.sync()


@pytest.mark.usefixtures("synced")
def test_a_loading_file_that_somebody_has_open_is_left_to_them(
    configured: World, capsys: Capture
) -> None:
    loading = configured.settings.directory / "loading.duckdb"
    before = configured.stored()
    with holding(loading):
        code, line = refused(capsys, "sync")
    assert (code, configured.sandbox.log) == (1, [])
    assert f"{loading} is open in another process, perhaps another run; try again later" in line
    assert main(["sync"], now=NOW) == 0
    assert configured.stored() == before


@pytest.mark.usefixtures("synced")
def test_a_published_file_without_a_note_that_cannot_be_asked(world: World) -> None:
    """As when somebody put it there by hand: it is no reason to discard what was loaded."""
    before = world.stored()
    world.settings.published.with_name("verify.duckdb.load").unlink()
    with holding(world.settings.published):
        assert world.sync().slices == 0
    assert world.stored() == before


@pytest.mark.usefixtures("synced")
def test_what_was_loaded_but_not_published_is_due_again(world: World) -> None:
    old = world.settings.published.read_bytes()
    world.move(hours=3)
    expected = due_windows(world)
    world.sync()
    world.settings.published.write_bytes(old)
    (world.settings.directory / "loading.duckdb").unlink()
    assert due_windows(world) == expected  # as a dry run shows
    assert world.sync().slices == len(expected)
    assert world.stored().keys() == world.truth(NOW).keys() | world.truth().keys()


@pytest.mark.usefixtures("synced")
def test_what_was_loaded_but_not_published_is_published_where_it_was_loaded(world: World) -> None:
    """As after a kill between loading and publishing: the published file is the older one."""
    old = world.settings.published.read_bytes()
    world.move(hours=3)
    world.sync()
    before = world.stored()
    world.settings.published.write_bytes(old)
    assert world.sync().slices == 0
    assert world.stored() == before


def put_back_older(world: World) -> dict[str, Row]:
    """Puts back loading.duckdb as it was a month ago; returns the attempts stored by now."""
    loading = world.settings.directory / "loading.duckdb"
    older = loading.read_bytes()
    world.move(days=31)
    world.sync()
    before = world.stored()
    loading.write_bytes(older)
    return before


@pytest.mark.usefixtures("synced")
def test_an_older_loading_file_does_not_replace_what_is_published(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    loading = world.settings.directory / "loading.duckdb"
    before = put_back_older(world)
    world.sync()
    assert (
        f"{loading} is an older copy: rebuilt from verify.duckdb; the old file is now"
        in caplog.text
    )
    assert world.stored().keys() >= before.keys()
    assert nothing_is_due(world)


@pytest.mark.usefixtures("synced")
def test_a_deleted_working_folder_is_no_loss(world: World) -> None:
    shutil.rmtree(world.settings.directory / "dlt")
    world.move(days=4)
    world.sync()
    truth, stored = world.truth(), world.stored()
    assert {sid: stored[sid] for sid in truth} == truth


@pytest.mark.parametrize("harm", [Path.unlink, cut, garble], ids=lambda h: h.__name__)
@pytest.mark.usefixtures("synced")
def test_the_published_file_is_published_anew(
    world: World, harm: Break, caplog: pytest.LogCaptureFixture
) -> None:
    before = world.stored()
    harm(world.settings.published)
    with caplog.at_level(logging.WARNING, logger="verify_sync"):
        world.sync()
    assert world.stored() == before
    if harm is not Path.unlink:
        (said,) = [message for message in caplog.messages if "published again" in message]
        assert said.startswith(f"{world.settings.published} is damaged")
        assert f"renamed to {world.settings.published}.set-aside-1, it" in said


@pytest.mark.parametrize("harm", [Path.unlink, garble], ids=lambda h: h.__name__)
@pytest.mark.usefixtures("synced")
def test_views_publish_it_anew_without_a_request(configured: World, harm: Break) -> None:
    before = configured.stored()
    harm(configured.settings.published)
    assert main(["views"], now=NOW) == 0
    assert configured.stored() == before
    assert configured.sandbox.log == []


def a_database(file: Path) -> None:
    file.unlink(missing_ok=True)
    with duckdb.connect(str(file)) as connection:
        connection.execute("create table mine as select 42 as answer")


def views_alone(file: Path) -> None:
    file.unlink(missing_ok=True)
    with duckdb.connect(str(file)) as connection:
        connection.execute("create view mine as select 42 as answer")


def a_sqlite_file(file: Path) -> None:
    file.unlink(missing_ok=True)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("create table mine (answer integer)")


@pytest.mark.parametrize("name", ["verify.duckdb", "loading.duckdb"])
@pytest.mark.parametrize(
    "foreign",
    [
        garble,
        a_database,
        pytest.param(a_sqlite_file, marks=pytest.mark.long),
        pytest.param(views_alone, marks=pytest.mark.long),
    ],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("is_synced", [False, True])
def test_a_file_of_somebody_elses_is_not_overwritten(
    configured: World, capsys: Capture, first_sync: Path, name: str, foreign: Break, is_synced: bool
) -> None:
    """If verify-sync has its own copy of it, garbage is set aside. Otherwise the run stops."""
    file = configured.settings.directory / name
    if is_synced:
        shutil.copytree(first_sync, file.parent)
    file.parent.mkdir(exist_ok=True)
    foreign(file)
    content, requests = file.read_bytes(), len(configured.sandbox.log)
    if is_synced and foreign in (garble, a_sqlite_file):
        assert main(["sync"], now=NOW) == 0
        assert file.with_name(f"{name}.set-aside-1").read_bytes() == content
        return
    code, line = refused(capsys, "sync")
    assert (code, str(file) in line, "move it" in line) == (1, True, True)
    assert file.read_bytes() == content
    assert len(configured.sandbox.log) == requests
    file.unlink()
    if foreign is a_database:  # the foreign file is gone now
        assert main(["sync"], now=NOW) == 0


def test_the_log_of_somebody_elses_database_stays(world: World) -> None:
    file = world.settings.published
    file.parent.mkdir()
    program = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]);"
        "c.execute('create table t (i int)');"
        "c.execute('checkpoint'); c.execute('insert into t values (42)'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, str(file)], check=False)
    with pytest.raises(Failure, match="move it"):
        world.sync()
    with duckdb.connect(str(file)) as connection:
        assert connection.execute("from t").fetchall() == [(42,)]


@pytest.mark.usefixtures("synced")
def test_a_file_of_another_account_is_not_taken_for_a_newer_copy(
    world: World, tmp_path: Path
) -> None:
    before = world.stored()
    other = World(world.sandbox, replace(world.settings, directory=tmp_path / "theirs"))
    shutil.copytree(world.settings.directory, other.settings.directory)
    give_to(other, "AC" + "b" * 32)
    shutil.copy(other.settings.published, world.settings.published)
    with pytest.raises(Failure, match="different accounts"):
        world.sync()
    world.settings.published.unlink()
    world.sync()
    assert world.stored() == before


def give_to(world: World, account_sid: str) -> None:
    """Makes the warehouse another account's, with a load package that ours does not have."""
    for file in ("loading.duckdb", "verify.duckdb"):
        with duckdb.connect(str(world.settings.directory / file)) as connection:
            for table in ("attempts", "windows_read"):
                connection.execute(
                    f"update twilio_verify.{table} set account_sid = ?", [account_sid]
                )
            connection.execute("update twilio_verify._dlt_loads set load_id = 'theirs'")


@pytest.mark.parametrize("table", ["attempts", "windows_read"])
@pytest.mark.parametrize("harm", ["unlinked", pytest.param("older", marks=pytest.mark.long)])
@pytest.mark.usefixtures("synced")
def test_a_package_loaded_in_part_into_a_file_that_is_gone(
    world: World, tmp_path: Path, table: str, harm: str
) -> None:
    """dlt would load only the rest, for example the record of windows without their attempts."""
    loading, older = world.settings.directory / "loading.duckdb", tmp_path / "older.duckdb"
    shutil.copy(loading, older)
    world.move(days=4)
    expected = len(due_windows(world))
    warehouse = world.warehouse()
    pieces = due_windows(world)
    with warehouse.opened():
        package = Package.of(read_windows(world, pieces))
        warehouse.loader.pipeline.extract(package_source(package, materialize=False))
        warehouse.loader.pipeline.normalize()
    (job,) = world.settings.directory.glob(f"dlt/**/new_jobs/{table}.*.parquet")
    job.rename(job.parents[1] / "completed_jobs" / job.name)  # as a kill during the load leaves it
    loading.unlink()
    if harm == "older":
        shutil.move(older, loading)
    assert world.sync().slices == expected
    truth, stored = world.truth(), world.stored()
    assert {sid: stored[sid] for sid in truth} == truth


@pytest.mark.usefixtures("synced")
def test_an_older_loading_file_while_the_published_one_cannot_be_asked(
    world: World, tmp_path: Path
) -> None:
    before = put_back_older(world)
    with holding(world.settings.published), pytest.raises(Failure, match="end that process"):
        world.sync()
    world.sync()
    assert world.stored().keys() >= before.keys()


@pytest.mark.usefixtures("synced")
def test_what_others_write_into_the_published_file_is_not_taken_over(world: World) -> None:
    """Their write-ahead log ends up beside the next published file, and DuckDB would apply it."""
    before = world.stored()
    with holding(world.settings.published) as other:
        world.sync()
        other.stdin.write(b"delete from twilio_verify.attempts\n")
        other.stdin.flush()
        other.stdout.readline()
        other.kill()
    (world.settings.directory / "loading.duckdb").unlink()
    assert world.sync().slices == 0
    assert world.stored() == before


@pytest.mark.parametrize(
    ("of_published", "of_loading"),
    [(garble, garble), (scramble, Path.unlink), (garble, Path.unlink)],
    ids=lambda harm: harm.__name__,
)
@pytest.mark.usefixtures("synced")
def test_where_no_copy_is_whole_all_stays_as_it_is(
    configured: World, capsys: Capture, of_published: Break, of_loading: Break
) -> None:
    folder = configured.settings.directory
    of_published(configured.settings.published)
    of_loading(folder / "loading.duckdb")
    before = {file.name: file.read_bytes() for file in folder.glob("*.duckdb*")}
    code, line = refused(capsys, "sync")
    assert (code, str(configured.settings.published) in line) == (1, True)
    assert "there is no other copy here: move it away to start over, or restore a backup" in line
    assert {file.name: file.read_bytes() for file in folder.glob("*.duckdb*")} == before
    assert configured.sandbox.log == []


@pytest.mark.usefixtures("synced")
def test_beginning_anew_where_there_was_a_warehouse_is_said(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    assert "are missing" not in caplog.text
    for name in ("verify.duckdb", "loading.duckdb"):
        (world.settings.directory / name).unlink()
    caplog.clear()
    world.sync()
    (said,) = [message for message in caplog.messages if "are missing" in message]
    assert said.startswith(f"{world.settings.directory / 'loading.duckdb'} and verify.duckdb are")
    assert "if you have a backup, run `make restore ARGS=FILE`" in said


@pytest.mark.parametrize("harm", [garble, Path.unlink])
@pytest.mark.usefixtures("synced")
def test_all_files_of_dlts_may_be_damaged(world: World, harm: Break) -> None:
    for file in (world.settings.directory / "dlt").rglob("*"):
        if file.is_file():
            harm(file)
    world.move(minutes=30)
    world.sync()
    assert world.stored().keys() >= world.truth().keys()


@pytest.mark.long
@pytest.mark.parametrize("harm", [empty, garble, Path.unlink])
@pytest.mark.usefixtures("synced")
def test_any_file_of_dlts_may_be_damaged(world: World, harm: Break) -> None:
    folder = world.settings.directory / "dlt"
    for file in [file for file in folder.rglob("*") if file.is_file()]:
        harm(file)
        world.move(minutes=30)
        world.sync()
    assert world.stored().keys() >= world.truth().keys()


@pytest.mark.usefixtures("synced")
def test_a_dry_run_tells_what_a_run_would_do_that_rebuilds_first(world: World) -> None:
    world.move(hours=2)
    expected = due(world.warehouse(), world.now)
    garble(world.settings.directory / "loading.duckdb")
    assert due(world.warehouse(), world.now) == expected


@contextmanager
def holding(file: Path) -> Iterator[Any]:
    """A process with a database open for writing. It runs each line of SQL, then answers a line."""
    program = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(1, flush=True)\n"
        "for line in sys.stdin: c.execute(line); print(2, flush=True)"
    )
    command = [sys.executable, "-c", program, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            yield other
        finally:
            other.kill()
