"""A warehouse of the previous release is upgraded; one of a newer release is left alone."""

from __future__ import annotations

import logging
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from pipelines.__main__ import main
from pipelines.warehouse import checks, views
from pipelines.warehouse.connections import STORAGE
from pipelines.warehouse.recovery import loads_of
from pipelines.warehouse.upgrade import LAYOUT
from tests.worlds import NOW, REPOSITORY, Capture, World, environment_of, refused

MakeWorld = Callable[..., World]
# The folders that releases of layout 1 and 2 left after syncs 24 and 23 hours before NOW, with the
# sandbox's account of 300 attempts. Made on Python 3.10, which has the oldest DuckDB of the lock
# file: every newer one can read its files.
PREVIOUS = sorted((REPOSITORY / "tests" / "fixtures").glob("warehouse-*.tar.xz"))
FORMAT = "select tags['storage_version'] from duckdb_databases() where not internal"
NEWER = "update twilio_verify._verify_sync set layout = layout + 1, release = '9.9.9'"


@pytest.fixture(params=PREVIOUS, ids=lambda file: file.name)
def previous(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> World:
    world = make_world(attempts=300)
    with tarfile.open(request.param) as archive:
        archive.extractall(world.settings.directory.parent, filter="data")
    for name, value in environment_of(world).items():
        monkeypatch.setenv(name, value)
    return world


def files(world: World) -> dict[str, bytes]:
    return {
        str(path): path.read_bytes()
        for path in world.settings.directory.rglob("*")
        if path.is_file() and "lock" not in path.name and path.suffix != ".sqlite"
    }


def layout(file: Path) -> list[tuple[object, ...]]:
    with duckdb.connect(str(file), read_only=True) as connection:
        return connection.execute("select * from twilio_verify._verify_sync").fetchall()


def test_the_previous_release_is_brought_along_by_the_next_run(
    previous: World, capsys: Capture
) -> None:
    before = previous.stored()
    assert main(["status"], now=NOW) == 0  # it works before the upgrade
    assert "last successful sync  " in capsys.readouterr().out
    assert main(["sync"], now=NOW) == 0
    asked = len(previous.sandbox.log)
    assert asked <= 8  # only what is due is read again
    after = previous.stored()
    assert before.keys() <= after.keys()
    assert after.keys() == previous.truth().keys()
    *_, run = previous.query("from sync_history order by started_at")
    assert (run["outcome"], run["attempts_new"]) == ("done", len(after) - len(before))
    for name in ("loading.duckdb", "verify.duckdb"):
        assert layout(previous.settings.directory / name)[0][0] == LAYOUT
    assert main(["reconcile", "--days", "3"], now=NOW) == 0  # into a table with a new column
    (found,) = previous.query(
        "select count(conversions_judged) as n from twilio_verify.reconciliations"
    )
    assert found == {"n": 4}
    assert main(["check"], now=NOW) == 0


def test_it_is_said_once_that_a_file_is_rewritten(
    previous: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "verify_sync")
    for _ in range(2):
        assert main(["sync"], now=NOW) == 0
    assert caplog.text.count("rewriting ") == 1
    for name in ("loading.duckdb", "verify.duckdb"):
        with duckdb.connect(str(previous.settings.directory / name), read_only=True) as connection:
            (found,) = connection.execute(FORMAT).fetchall()
        assert STORAGE in found[0]


@pytest.mark.parametrize(
    "moment",
    [
        "upgrade.put",
        "views.create_views",
        *(
            pytest.param(moment, marks=pytest.mark.long)
            for moment in (
                "upgrade.copied",
                "upgrade.create_marks",
                "upgrade._fill_from_extra",
                "publishing.copied_bytes",
                "publishing.put",
            )
        ),
    ],
)
def test_an_upgrade_that_is_killed_goes_on(previous: World, moment: str) -> None:
    before = previous.stored()
    module, function = moment.split(".")
    code = f"""
import os, sys
from datetime import datetime
from pipelines.warehouse import {module}
from pipelines.__main__ import main
original = {module}.{function}
def killed(*given):
    original(*given)
    os.kill(os.getpid(), 9)
{module}.{function} = killed
main(["views"], now=datetime.fromisoformat(sys.argv[1]))
"""
    told = subprocess.run(
        [sys.executable, "-c", code, NOW.isoformat()], cwd=REPOSITORY,
        env={**os.environ, **environment_of(previous)}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert told.returncode == -9, told.stderr
    assert previous.stored() == before
    assert main(["views"], now=NOW) == 0
    assert previous.stored() == before
    assert main(["sync"], now=NOW) == 0
    assert previous.stored().keys() == previous.truth().keys()
    assert main(["check"], now=NOW) == 0


def test_a_column_that_the_previous_release_lacks_is_there_before_the_first_load(
    previous: World,
) -> None:
    """Also in `attempts`: the views need the column even when nothing is read from Twilio."""
    with duckdb.connect(str(previous.settings.directory / "loading.duckdb")) as connection:
        connection.execute("alter table twilio_verify.attempts drop column channel_data__carrier")
    assert main(["views"], now=NOW) == 0
    (found,) = previous.query("select count(*) as n, count(channel_data__carrier) as m from raw")
    assert found["n"] > found["m"] == 0
    assert main(["sync"], now=NOW) == 0
    assert previous.stored().keys() == previous.truth().keys()


def test_a_backup_of_the_previous_release_is_restored(previous: World, tmp_path: Path) -> None:
    backup = previous.settings.published.rename(tmp_path / "backup.duckdb")
    (previous.settings.directory / "loading.duckdb").unlink()
    assert main(["restore", str(backup)], now=NOW) == 0
    assert main(["sync"], now=NOW) == 0
    assert previous.stored().keys() == previous.truth().keys()


@pytest.mark.parametrize("name", ["loading.duckdb", "verify.duckdb"])
def test_a_newer_release_is_left_alone(configured: World, capsys: Capture, name: str) -> None:
    configured.sync()
    with duckdb.connect(str(configured.settings.directory / name)) as connection:
        connection.execute(NEWER)
    before, asked = files(configured), len(configured.sandbox.log)
    capsys.readouterr()
    restored = str(configured.settings.directory / name)
    for argv in (
        ["sync"], ["sync", "--dry-run"], ["backfill"], ["reconcile"], ["views"], ["status"],
        ["check"], ["fetch", "VL" + "0" * 32], ["restore", restored],
    ):  # fmt: skip
        code, line = refused(capsys, *argv)
        assert (code, f"{name} was made by a newer verify-sync, 9.9.9" in line) == (2, True), argv
    assert len(configured.sandbox.log) == asked
    assert files(configured) == before


def test_a_backup_of_a_newer_release_replaces_nothing(
    configured: World, capsys: Capture, tmp_path: Path
) -> None:
    configured.sync()
    backup = tmp_path / "backup.duckdb"
    backup.write_bytes(configured.settings.published.read_bytes())
    with duckdb.connect(str(backup)) as connection:
        connection.execute(NEWER)
    before = files(configured)
    capsys.readouterr()
    code, line = refused(capsys, "restore", str(backup))
    assert (code, "newer verify-sync" in line) == (2, True)
    assert files(configured) == before


def test_up_and_down_and_up_again(configured: World) -> None:
    """An earlier release knows no stamp of the views. It replaces them and leaves the stamp."""
    configured.sync()
    with duckdb.connect(str(configured.settings.directory / "loading.duckdb")) as connection:
        connection.execute("create or replace table settings as from settings")
        connection.execute("create or replace view coverage as select 1 as attempts")
        connection.execute("create or replace view sync_history as select 1 as old")
        connection.execute("alter table twilio_verify.reconciliations drop column outcome")
    configured.move(hours=1)
    configured.sync()
    (found,) = configured.query("select count(*) as n from coverage where api_attempts is null")
    assert found["n"] == 31
    assert len(configured.query("select outcome from sync_history")) == 2
    assert configured.query("select outcome from twilio_verify.reconciliations") == []


def test_views_that_are_current_are_not_made_again(
    configured: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.sync()
    made: list[object] = []
    monkeypatch.setattr(views, "create_views", lambda *given: made.append(given))
    for _ in range(2):
        configured.move(hours=1)
        configured.sync()
    assert made == []


def test_a_file_that_only_a_newer_duckdb_can_read_is_rebuilt(
    configured: World, caplog: pytest.LogCaptureFixture
) -> None:
    """On Python 3.10 the lock file has DuckDB 1.5. The folder may have been used with 2.0."""
    if not duckdb.__version__.startswith("1."):
        pytest.skip("DuckDB 2 can read what DuckDB 2 has written")
    configured.sync()
    before = configured.stored()
    with lzma.open(REPOSITORY / "tests" / "fixtures" / "duckdb-2.0.duckdb.xz") as packed:
        (configured.settings.directory / "loading.duckdb").write_bytes(packed.read())
    configured.move(hours=1)
    configured.sync()
    assert "was written by a newer DuckDB" in caplog.text
    assert "rebuilt from verify.duckdb" in caplog.text
    assert configured.stored().keys() >= before.keys()


@pytest.mark.parametrize(
    "litter",
    [
        ".#coverage.sql",
        *(
            pytest.param(name, marks=pytest.mark.long)
            for name in ("._coverage.sql", "coverage.sql~")
        ),
    ],
)
def test_what_editors_leave_beside_the_views_is_not_sql(
    configured: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, litter: str
) -> None:
    shutil.copytree(REPOSITORY / "sql", tmp_path / "sql")
    for folder in ("reports", "checks", "staging"):
        (tmp_path / "sql" / folder / litter).symlink_to("nobody@nowhere.1234")
    for module in (views, checks):
        monkeypatch.setattr(module, "sql_folder", lambda: tmp_path / "sql")
    assert main(["sync"], now=NOW) == 0
    assert main(["check"], now=NOW) == 0


@pytest.mark.parametrize(
    "name",
    ["reports/coverage.sql", pytest.param("staging/stg_attempts.sql", marks=pytest.mark.long)],
)
def test_a_file_that_cannot_be_read_is_named(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    shutil.copytree(REPOSITORY / "sql", tmp_path / "sql")
    (tmp_path / "sql" / name).unlink()
    (tmp_path / "sql" / name).mkdir()
    monkeypatch.setattr(views, "sql_folder", lambda: tmp_path / "sql")
    assert main(["sync"], now=NOW) == 1
    assert f"{tmp_path}/sql/{name}: it is not a regular file" in capsys.readouterr().err


def test_loads_are_told_apart_whatever_their_order(configured: World) -> None:
    """Publishing copies rows with two threads, in any order, and a clock may be set back."""
    configured.sync()
    file = configured.settings.directory / "loading.duckdb"
    with duckdb.connect(str(file)) as connection:
        connection.execute(
            "create table other as from twilio_verify._dlt_loads order by inserted_at desc;"
            "insert into other select (n::double / 7)::text, 'x', 0, now() - interval 1 year, ''"
            " from range(1000) as t (n); delete from twilio_verify._dlt_loads;"
            "insert into twilio_verify._dlt_loads from other order by hash(load_id)"
        )
        newest = "select load_id from twilio_verify._dlt_loads order by inserted_at desc limit 1"
        (expected,) = connection.execute(newest).fetchone() or ()
    assert loads_of(file) == (expected, 1001)
    shutil.copy(file, configured.settings.published)
    assert configured.sync().unpublished == "nothing new to publish"
    configured.move(hours=1)
    configured.sync()
    with duckdb.connect(str(file)) as connection:
        connection.execute(
            "update twilio_verify._dlt_loads set inserted_at = now() - interval 2 year"
            f" where load_id = '{loads_of(configured.settings.published).newest}'"  # type: ignore[union-attr]
        )
    assert configured.sync().unpublished == "nothing new to publish"


def test_a_key_becomes_a_column_by_one_line(make_world: MakeWorld, tmp_path: Path) -> None:
    """The next run fills it from `extra`. A changed checkout stands for a later release."""
    world = make_world(rows="unknown_keys")
    world.sync()
    (before,) = world.query("select count(extra) as n from raw")
    for folder in ("pipelines", "sql", "tests"):
        shutil.copytree(REPOSITORY / folder, tmp_path / "later" / folder)
    file = tmp_path / "later" / "pipelines" / "twilio" / "columns.py"
    text = file.read_text(encoding="utf-8")
    text = text.replace('"channel", "url",', '"channel", "url", "brand",')
    file.write_text(text.replace('"mnc", "carrier",', '"mnc", "carrier", "segments",'))
    environment = {**os.environ, **environment_of(world), "PYTHONPATH": ""}
    for words in (["views"], ["sync"]):
        argv = ["-m", "tests.crash", world.now.isoformat(), "none", "0", "0", "0", *words]
        told = subprocess.run(
            [sys.executable, *argv], cwd=tmp_path / "later", env=environment, text=True,
            capture_output=True, check=False,
        )  # fmt: skip
        assert told.returncode == 0, told.stderr
        (after,) = world.query(
            "select count(extra) as n, count(*) filter (brand = '{\"id\":7}') as brands,"
            " count(*) filter (channel_data__segments = '2') as segments from raw"
        )
        assert after["n"] == 0
        assert after["brands"] == after["segments"] >= before["n"]
        world.move(hours=30)
    assert after["brands"] > before["n"] > 100


def test_a_key_that_is_spelled_like_a_column_replaces_nothing(configured: World) -> None:
    configured.sync()
    before = configured.stored()
    with duckdb.connect(str(configured.settings.directory / "loading.duckdb")) as connection:
        connection.execute("drop table twilio_verify._verify_sync")
        connection.execute(
            """update twilio_verify.attempts set extra = '{"channel_data.to":"x"}'"""
        )
    assert main(["views"], now=NOW) == 0
    after = configured.stored()
    numbers = {sid: row["channel_data__to"] for sid, row in before.items()}
    assert {sid: row["channel_data__to"] for sid, row in after.items()} == {
        sid: to if to is not None else "x" for sid, to in numbers.items()
    }
