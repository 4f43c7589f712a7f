"""`restore`: a backup replaces the published file, and the replaced file is kept."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.errors import Misuse
from pipelines.reading.package import Package
from pipelines.source import package_source
from pipelines.twilio.credentials import Credentials
from pipelines.warehouse.files import copied
from pipelines.warehouse.restore import restore
from tests.warehouse.test_recovery import a_database, garble, scramble
from tests.worlds import Capture, World, due_windows, read_windows, refused


@pytest.mark.usefixtures("synced")
def test_restore_starts_again_from_a_backup(
    configured: World, tmp_path: Path, capsys: Capture
) -> None:
    backup, older = tmp_path / "backup.duckdb", configured.stored()
    shutil.copy(configured.settings.published, backup)
    configured.move(hours=50)
    lost = due_windows(configured)
    configured.sync()
    newer = configured.stored()
    assert main(["restore", str(backup)]) == 0
    assert "set-aside" in capsys.readouterr().out
    assert configured.stored() == older
    assert due_windows(configured) == lost
    configured.sync()
    assert configured.stored() == newer
    assert main(["restore", str(backup)]) == 0
    kept = configured.settings.published.with_name("verify.duckdb.set-aside-2")
    assert main(["restore", str(kept)]) == 0  # undoes the restore
    assert configured.stored() == newer
    assert main(["restore", str(configured.settings.published)]) == 0
    assert configured.stored() == newer


@pytest.mark.usefixtures("synced")
def test_restore_keeps_what_it_replaces_where_there_are_no_hard_links(
    configured: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backup, before = tmp_path / "backup.duckdb", configured.settings.published.read_bytes()
    shutil.copy(configured.settings.published, backup)

    def no_link(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", no_link)
    assert main(["restore", str(backup)]) == 0
    kept = configured.settings.published.with_name("verify.duckdb.set-aside-1")
    assert kept.read_bytes() == before


@pytest.mark.usefixtures("synced")
def test_restore_drops_a_load_package_of_what_it_replaces(
    configured: World, tmp_path: Path, capsys: Capture
) -> None:
    backup = tmp_path / "backup.duckdb"
    shutil.copy(configured.settings.published, backup)
    configured.move(hours=50)
    due_again, warehouse = due_windows(configured), configured.warehouse()
    with warehouse.opened():
        package = Package.of(read_windows(configured, due_again))
        warehouse.loader.pipeline.extract(package_source(package, materialize=False))
    assert main(["restore", str(backup)]) == 0
    assert not [*configured.settings.directory.glob("dlt/**/*.parquet")]
    assert main(["sync"], now=configured.now) == 0
    assert "interrupted run" not in capsys.readouterr().err
    (read,) = configured.query("select count(*) as n from twilio_verify.windows_read")
    assert read == {"n": 1 + len(due_again)}


@pytest.mark.usefixtures("synced")
def test_restore_into_an_empty_folder(configured: World, tmp_path: Path) -> None:
    before = configured.stored()
    backup = tmp_path / "backup.duckdb"
    shutil.move(configured.settings.published, backup)
    shutil.rmtree(configured.settings.directory)
    assert main(["restore", str(backup)]) == 0
    assert configured.stored() == before
    assert configured.sync().slices == 0


@pytest.mark.usefixtures("synced")
def test_restore_refuses_what_is_no_backup(
    configured: World, tmp_path: Path, capsys: Capture
) -> None:
    before = configured.stored()
    file = tmp_path / "file.duckdb"
    assert refused(capsys, "restore", str(file))[0] == 2
    for make in (garble, a_database):
        make(file)
        assert refused(capsys, "restore", str(file))[0] == 2
    copied(configured.settings.published, file).replace(file)
    scramble(file)
    assert refused(capsys, "restore", str(file))[0] == 1
    other = Credentials.of("AC" + "b" * 32, "token")
    shutil.copy(configured.settings.published, file)
    of_another = World(
        configured.sandbox, replace(configured.settings, credentials=other), configured.now
    )
    with pytest.raises(Misuse, match="own folder"):
        restore(of_another.warehouse(), file)
    assert configured.stored() == before
    configured.move(hours=1)
    configured.sync()
