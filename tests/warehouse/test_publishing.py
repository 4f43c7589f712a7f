"""The published file has the bytes of the run's own; that is compacted when it is loose."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import duckdb
import pytest

from pipelines.errors import Failure
from pipelines.warehouse import files, publishing
from pipelines.warehouse.files import copied_bytes
from tests.worlds import World


def loosen(world: World) -> None:
    """Leaves more free blocks in the run's own file than used ones."""
    with duckdb.connect(str(loading(world))) as connection:
        connection.execute("create table big as select random() as r from range(2_000_000)")
        # DuckDB gives back free blocks at the end of the file, so something must be there.
        connection.execute("create or replace table last as select random() as r from range(1000)")
        connection.execute("checkpoint")
        connection.execute("drop table big")


def loading(world: World) -> Path:
    return world.settings.directory / "loading.duckdb"


def free_blocks(file: Path) -> int:
    with duckdb.connect(str(file), read_only=True) as connection:
        ((free,),) = connection.execute("select free_blocks from pragma_database_size()").fetchall()
    return int(free)


def names_of(world: World) -> set[str]:
    return {file.name for file in world.settings.directory.iterdir()}


def test_the_bytes_are_published(synced: World) -> None:
    assert loading(synced).read_bytes() == synced.settings.published.read_bytes()
    synced.move(hours=1)
    synced.sync()  # dlt's staging tables are gone, and it makes them again
    assert loading(synced).read_bytes() == synced.settings.published.read_bytes()
    assert synced.stored().keys() >= synced.truth().keys()


def test_a_loose_file_is_compacted_once_a_day(
    synced: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "verify_sync")
    sizes = []
    for hours in (25, 1, 23):
        loosen(synced)
        synced.move(hours=hours)
        synced.sync()
        sizes.append((free_blocks(loading(synced)), free_blocks(synced.settings.published)))
    (first, _), (second, published), (third, _) = sizes
    assert first < second > third
    assert published == second
    assert caplog.text.count("compacting") == 2
    assert synced.stored().keys() >= synced.truth().keys()
    assert not {name for name in names_of(synced) if name.endswith((".new", ".tmp"))}


@pytest.mark.parametrize("small", [0, 128])
def test_a_small_file_is_compacted_for_less(
    synced: World, monkeypatch: pytest.MonkeyPatch, small: int
) -> None:
    monkeypatch.setattr(publishing, "_SMALL", small)
    for _ in range(5):
        synced.move(hours=1)
        synced.sync()
    free = free_blocks(loading(synced))
    synced.move(hours=25)
    synced.sync()
    assert (free_blocks(loading(synced)) < free / 2) == (small > 0)


def test_no_room_to_compact_is_no_reason_not_to_publish(
    synced: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(source: Path, _: Path) -> Path:
        raise Failure(f"{source} cannot be used: the disk is full")

    caplog.set_level(logging.INFO, "verify_sync")
    loosen(synced)
    monkeypatch.setattr(publishing, "copied", full)
    synced.move(hours=25)
    synced.sync()
    assert "not compacted: " in caplog.text
    assert synced.stored().keys() >= synced.truth().keys()


@pytest.mark.parametrize("harm", ["short", "empty", "scrambled"])
def test_a_copy_that_does_not_open_is_not_published(
    synced: World, monkeypatch: pytest.MonkeyPatch, harm: str
) -> None:
    def harmed(source: Path, target: Path) -> Path:
        fresh = copied_bytes(source, target)
        whole = fresh.read_bytes()
        middle = b"\xff" * (len(whole) - 12_288 * 2)
        broken = {"short": whole[:8192], "empty": b"", "scrambled": whole[:12_288] + middle}
        fresh.write_bytes(broken[harm])
        return fresh

    before = synced.settings.published.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(publishing, "copied_bytes", harmed)
        synced.move(hours=1)
        with pytest.raises(Failure, match=r"verify\.duckdb"):
            synced.sync()
    assert synced.settings.published.read_bytes() == before
    assert not {name for name in names_of(synced) if name.endswith(".new")}
    assert synced.sync().unpublished is None
    assert synced.stored().keys() >= synced.truth().keys()


def test_a_quota_reached_while_copying_keeps_the_published_file(
    synced: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(_: Path, target: Path) -> None:
        target.write_bytes(b"half a file")
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), str(target))

    before = synced.settings.published.read_bytes()
    with monkeypatch.context() as broken:
        broken.setattr(files, "_cloned", lambda *_: False)
        broken.setattr(files.shutil, "copyfile", fill)
        synced.move(hours=1)
        with pytest.raises(Failure, match="cannot be used: Disk quota exceeded"):
            synced.sync()
    assert synced.settings.published.read_bytes() == before
    assert "verify.duckdb.new" not in names_of(synced)
    synced.sync()
    (run,) = synced.query("select error from sync_history where outcome = 'failed'")
    assert "Disk quota exceeded" in run["error"]


def test_a_file_system_with_shared_blocks_needs_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(2**20))
    monkeypatch.setattr(files, "_SPARE", 2**62)
    if not files._cloned(source, tmp_path / "tried"):
        with pytest.raises(Failure, match="free some space"):
            copied_bytes(source, target)
        pytest.skip("this file system cannot share blocks")
    assert copied_bytes(source, target).read_bytes() == source.read_bytes()
