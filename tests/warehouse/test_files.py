"""Copies of database files: complete or absent."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import duckdb
import pytest

from pipelines.errors import Failure
from pipelines.warehouse.connections import Damaged
from pipelines.warehouse.files import copied
from pipelines.warehouse.restore import restore
from tests import nursery
from tests.warehouse.test_recovery import scramble
from tests.worlds import REPOSITORY, World, environment_of


def test_half_a_copy_does_not_stay(synced: World, tmp_path: Path) -> None:
    """A leftover would take space on a full disk."""
    source, target = tmp_path / "source.duckdb", tmp_path / "target.duckdb"
    shutil.copy(synced.settings.published, source)
    scramble(source)
    with pytest.raises(Damaged):
        copied(source, target)
    assert [*tmp_path.glob("target*")] == []


def test_a_copy_into_a_folder_that_is_gone_is_one_clear_failure(
    synced: World, tmp_path: Path
) -> None:
    with pytest.raises(Failure, match=r"cannot be used: .*No such file"):
        copied(synced.settings.published, tmp_path / "gone" / "target.duckdb")


def count(file: Path) -> int:
    with duckdb.connect(str(file), read_only=True) as connection:
        ((found,),) = connection.execute("select count(*) from twilio_verify.attempts").fetchall()
    return int(found)


def modes(world: World) -> dict[str, str]:
    folder = world.settings.directory
    files = [folder, *folder.rglob("*")]
    return {
        file.relative_to(folder.parent).as_posix(): f"{file.stat().st_mode & 0o777:o}"
        for file in files
    }


def run(world: World, *words: str) -> None:
    """A real process: it decides who may read its files."""
    environment = {**os.environ, **environment_of(world)}
    argv = [world.now.isoformat(), "", "0", "0", "0", *words]
    told = nursery.run(
        "tests.crash", tuple(argv), environment, prepare=(__name__, "let_all_read", 0)
    )
    assert told.returncode == 0, told.stderr


def let_all_read(_: int) -> None:
    os.umask(0o022)


def test_only_the_owner_can_read_the_files(world: World) -> None:
    """They hold phone numbers."""
    for words in (
        ["sync"],
        ["backfill", "--days", "1"],
        ["restore", str(world.settings.published)],
    ):
        run(world, *words)
        folders = {
            name for name in modes(world) if (world.settings.directory.parent / name).is_dir()
        }
        assert {mode for name, mode in modes(world).items() if name in folders} == {"700"}
        assert {mode for name, mode in modes(world).items() if name not in folders} == {"600"}
        world.move(hours=30)


def test_a_file_that_is_replaced_keeps_its_mode_owner_and_group(synced: World) -> None:
    files = [synced.settings.published, synced.settings.directory / "loading.duckdb"]
    is_root = os.geteuid() == 0
    for file in files:
        file.chmod(0o640)
        if is_root:
            os.chown(file, 1234, 4321)
    before = files[0].stat()
    synced.move(hours=30)
    run(synced, "sync")
    run(synced, "restore", str(synced.settings.published))
    for file in files:
        after = file.stat()
        assert (after.st_uid, after.st_gid) == (before.st_uid, before.st_gid)
        assert f"{after.st_mode & 0o777:o}" == "640"
    assert files[0].stat().st_ino != before.st_ino


@pytest.mark.parametrize("name", ["verify.duckdb", "loading.duckdb"])
def test_a_link_is_followed(synced: World, tmp_path: Path, name: str) -> None:
    link, share = synced.settings.directory / name, tmp_path / "share" / "other-name.duckdb"
    share.parent.mkdir()
    shutil.move(link, share)
    link.symlink_to(share)
    before = len(synced.stored())
    synced.move(hours=30)
    synced.sync()
    restore(synced.warehouse(), synced.settings.published)
    assert link.is_symlink()
    with duckdb.connect(str(share), read_only=True) as connection:
        (found,) = (
            connection.execute("select count(*) from twilio_verify.attempts").fetchone() or ()
        )
    assert found == len(synced.stored()) > before
    assert [file.name for file in share.parent.iterdir()] == [share.name]


def test_a_damaged_file_behind_a_link_is_replaced_there(synced: World, tmp_path: Path) -> None:
    link, share = synced.settings.directory / "loading.duckdb", tmp_path / "loading.duckdb"
    shutil.move(link, share)
    link.symlink_to(share)
    share.write_bytes(b"this is no database" * 1000)
    synced.sync()
    assert link.is_symlink()
    assert synced.stored() == synced.truth()
    assert link.with_name("loading.duckdb.set-aside-1").read_bytes()[:4] == b"this"


def test_a_restore_keeps_the_log_of_what_it_replaces(synced: World, tmp_path: Path) -> None:
    """After a kill, most rows may be in the log."""
    loading = synced.settings.directory / "loading.duckdb"
    writing = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]);"
        "c.execute('insert into twilio_verify.attempts select a.* replace (sid || n::text as sid)"
        " from (from twilio_verify.attempts limit 1) as a, range(500) as t (n)');"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", writing, str(loading)], check=False)
    assert loading.with_name("loading.duckdb.wal").exists()
    shutil.copy(synced.settings.published, tmp_path / "backup.duckdb")
    kept = restore(synced.warehouse(), tmp_path / "backup.duckdb")
    (aside,) = (file for file in kept if file.name.startswith("loading"))
    with duckdb.connect(str(aside), read_only=True) as connection:
        (found,) = (
            connection.execute("select count(*) from twilio_verify.attempts").fetchone() or ()
        )
    assert found == len(synced.truth()) + 500


def test_nothing_is_written_outside_of_the_folder(world: World, tmp_path: Path) -> None:
    """Everything else may be read-only, as in a container or with systemd's ProtectSystem."""
    world.now = datetime.now(timezone.utc)
    world.sandbox.now = time.time
    environment = {**os.environ, **environment_of(world), "PYTHONPATH": str(REPOSITORY)}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "HOME": str(tmp_path / "home")}
    for words in (["sync"], ["check"]):
        command = [sys.executable, "-c", WATCHING, str(world.settings.directory), *words]
        told = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stderr
        assert "outside" not in told.stderr, told.stderr
    assert sorted(file.name for file in tmp_path.iterdir()) == ["warehouse"]


WATCHING = """
import os, sys
import filelock  # it probes the temporary folder once, and goes on without
folder = os.path.realpath(sys.argv.pop(1))
def watch(event, given):
    path = given[0] if given else None
    if event == "open" and isinstance(path, str):
        writes = isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    else:
        writes = event in ("os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link")
    if writes and isinstance(path, str) and path.startswith("/") and path[:5] != "/dev/":
        if not (os.path.realpath(path) + "/").startswith(folder + "/"):
            os.write(2, f"outside: {event} {path}\\n".encode())
sys.addaudithook(watch)
from pipelines.__main__ import entry
entry(sys.argv[1:])
"""
