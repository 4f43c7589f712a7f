"""`export`: every view and raw table as files."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from pipelines.__main__ import main
from pipelines.warehouse.views import view_files
from tests.clocks import wait_until
from tests.worlds import NOW, Capture, World, refused


@pytest.mark.usefixtures("synced")
def test_an_export_has_every_view_and_raw_table(
    configured: World, capsys: Capture, tmp_path: Path
) -> None:
    folder = tmp_path / "here" / "it's"
    for mode in (0o640, 0o604):  # the second export replaces the first
        assert main(["export", str(folder)], now=NOW) == 0
        assert mode == 0o640 or f"{(folder / 'settings.parquet').stat().st_mode & 0o777:o}" == "640"
        (folder / "settings.parquet").chmod(mode)
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    raw = ["attempts", "windows_read", "sync_runs", "reconciliations", "rejected_attempts"]
    views = [*(file.stem for file in view_files()), "settings", "revisit_ages"]
    expected = [*views, *(f"twilio_verify/{name}" for name in raw)]
    assert names == {f"{name}.parquet" for name in expected}
    for name in expected:  # read with another library than DuckDB
        rows = pq.read_table(folder / f"{name}.parquet").num_rows
        relation = name.replace("/", ".")
        assert [{"n": rows}] == configured.query(f"select count(*) as n from {relation}"), name
    ages = pq.read_table(folder / "verification_attempts.parquet", columns=["read_age"])
    (oldest,) = configured.query("select max(read_age) as age from verification_attempts")
    assert max(ages["read_age"].to_pylist()) == oldest["age"]


def test_an_export_that_cannot_be_written_says_so(
    configured: World, capsys: Capture, tmp_path: Path
) -> None:
    assert main(["export", str(tmp_path / "out")], now=NOW) == 1
    assert "run `make sync` first" in capsys.readouterr().err
    configured.sync()
    (tmp_path / "file").touch()
    assert main(["export", str(tmp_path / "file")], now=NOW) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "/file is a file: give a folder" in told
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "twilio_verify").touch()
    assert main(["export", str(tmp_path / "folder")], now=NOW) == 1
    assert "folder/twilio_verify: " in capsys.readouterr().err


@pytest.mark.usefixtures("synced")
def test_an_export_as_csv(configured: World, tmp_path: Path) -> None:
    assert main(["export", str(tmp_path / "out"), "--format", "csv"], now=NOW) == 0
    files = {path.name for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert {name.rpartition(".")[2] for name in files} == {"csv"}
    with (tmp_path / "out" / "verification_attempts.csv").open(newline="") as text:
        lines = {line["attempt_sid"]: line for line in csv.DictReader(text)}
    rows = configured.query(
        "select attempt_sid, destination, price::varchar as price, created_at, read_age"
        " from verification_attempts"
    )
    assert len(rows) == len(lines) > 1000
    for row in rows:
        line = lines[row["attempt_sid"]]
        assert line["destination"] == (row["destination"] or "")
        assert line["price"] == (row["price"] or "")
        assert line["created_at"] == f"{row['created_at']:%F %T}+00"
        assert float(line["read_age"]) == row["read_age"]


@pytest.mark.usefixtures("synced")
def test_an_export_names_the_view_that_fails(
    configured: World, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = tmp_path / "mine" / "reports"
    reports.mkdir(parents=True)
    (reports / "aaa.sql").write_text('create view aaa as select 1 as "a ""column"", of mine"')
    (reports / "bbb.sql").write_text(
        "create view bbb as select cast('x' || channel as int) as n from stg_attempts"
    )
    monkeypatch.setenv("WAREHOUSE__SQL", str(tmp_path / "mine"))
    assert main(["views"], now=NOW) == 0
    capsys.readouterr()
    code, line = refused(capsys, "export", str(tmp_path / "out"))
    assert (code, "files written, but not view bbb: Conversion Error" in line) == (1, True)
    assert (tmp_path / "out" / "verifications.parquet").exists()  # the others are there
    table = pq.read_table(tmp_path / "out" / "aaa.parquet")
    assert table.column_names == ['a "column", of mine']


@pytest.mark.usefixtures("synced")
def test_ctrl_c_ends_an_export(
    configured: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = tmp_path / "mine" / "reports"
    reports.mkdir(parents=True)
    (reports / "aaa.sql").write_text(
        "create view aaa as select count(*) as n from range(1000000000) a, range(1000000) b"
    )
    monkeypatch.setenv("WAREHOUSE__SQL", str(tmp_path / "mine"))
    assert main(["views"], now=NOW) == 0
    command = [sys.executable, "-m", "pipelines", "export", str(tmp_path / "out")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True,
        # Whoever starts the tests in the background has them ignore SIGINT.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.default_int_handler),
    ) as export:  # fmt: skip
        try:
            process = psutil.Process(export.pid)
            wait_until(lambda: (tmp_path / "out").exists())
            begun = process.cpu_times().user
            wait_until(lambda: process.cpu_times().user > begun + 0.5)  # the view is computed
            export.send_signal(signal.SIGINT)
            _, told = export.communicate()
        finally:
            export.kill()
    assert (export.returncode, told) == (1, "verify-sync: interrupted\n")
    assert not [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
