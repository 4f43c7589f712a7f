"""Copies of database files: complete or absent."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipelines.errors import Failure
from pipelines.warehouse.connections import Damaged
from pipelines.warehouse.files import copied
from tests.warehouse.test_recovery import scramble
from tests.worlds import World


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
