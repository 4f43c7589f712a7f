"""`status`: how fresh and complete a warehouse is. It disturbs no run and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from pipelines.__main__ import main
from pipelines.twilio.limits import SECOND
from pipelines.warehouse import database
from tests.clocks import Change, Time
from tests.worlds import NOW, Capture, World, refused, run_in_process

READS = """
import sys, duckdb
with duckdb.connect(sys.argv[1], read_only=True):
    print("open", flush=True)
    sys.stdin.read()
"""


def told(capsys: Capture, world: World, *argv: str) -> dict[str, str]:
    """Runs `status`; returns the text of each line by the line's name."""
    capsys.readouterr()
    assert main(["status", *argv], now=world.now) == 0
    lines = capsys.readouterr().out.splitlines()
    return {line[:22].strip(): line[22:] for line in lines}


def as_json(capsys: Capture, world: World) -> dict[str, object]:
    capsys.readouterr()
    assert main(["status", "--json"], now=world.now) == 0
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.usefixtures("synced")
def test_it_says_how_things_stand(configured: World, capsys: Capture) -> None:
    configured.move(minutes=50)
    lines = told(capsys, configured)
    assert lines["last successful sync"].startswith("2026-11-20 12:00:0")
    assert lines["last successful sync"].endswith(" UTC, 50 min ago")
    assert lines["newest run"].startswith("sync, done 2026-11-20 12:00:0")
    assert lines["attempts"] == f"{len(configured.stored()):,}"
    assert lines["created"] == "from 2026-10-21 12:00:00 to 2026-11-20 11:59:59 UTC"
    assert lines["gaps"] == "none"
    assert lines["next loss"] == "in 719 h, if nothing is read until then"
    assert lines["reconciled"] == "never"
    assert "verify.duckdb " in lines["files"]
    assert not lines.keys() & {"running now", "source"}
    found = as_json(capsys, configured)
    (counts,) = configured.query(
        "select count(*) as n, count(*) filter (where read_age >= 3 * 86400) as settled"
        " from stg_attempts"
    )
    assert (found["attempts"], found["settled"]) == (counts["n"], counts["settled"])
    assert found["pending"] == counts["n"] - counts["settled"] > 0
    assert found["forgotten"] == found["gaps"] == 0
    assert found["age"] == pytest.approx(50 * 60, abs=1)
    assert found["covered_before"] == "2026-11-20T11:59:59Z"
    for file in ("verify.duckdb", "loading.duckdb"):
        assert found["files"][file] >= (configured.settings.directory / file).stat().st_size  # type: ignore[index]


@pytest.mark.usefixtures("synced")
def test_instants_are_utc_wherever_it_runs(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["reconcile", "--days", "1", "--quiet"], now=NOW) == 0
    here = told(capsys, configured), as_json(capsys, configured)
    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert (told(capsys, configured), as_json(capsys, configured)) == here
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert here[0]["reconciled"].startswith("2026-11-20 12:00:0")


@pytest.mark.usefixtures("synced")
def test_what_was_lost_shows(configured: World, capsys: Capture) -> None:
    configured.move(days=40)
    lines = told(capsys, configured)
    assert lines["next loss"] == "in 0 h, if nothing is read until then"
    configured.sync()
    lines = told(capsys, configured)
    assert lines["gaps"] == "1 gap, 240 h 1 min in all (view gaps)"
    assert "forgotten" in lines["settled"]


def test_monitors_get_an_exit_code(configured: World, capsys: Capture) -> None:
    code, line = refused(capsys, "status", "--max-age", "2h")
    assert (code, "run `make sync` first" in line) == (1, True)
    assert not configured.settings.directory.exists()
    main(["fetch", *[*configured.truth()][:1]], now=NOW)
    capsys.readouterr()
    assert main(["status", "--max-age", "2h"], now=NOW) == 1
    assert "no sync has succeeded yet" in capsys.readouterr().err
    configured.sync()
    for hours, code in ((1.9, 0), (2.1, 1)):
        capsys.readouterr()
        assert main(["status", "--max-age", "2h"], now=NOW + timedelta(hours=hours)) == code
        heard = capsys.readouterr()
        assert heard.out.startswith("last successful sync")
        assert ("ended 2 h 6 min ago, more than 2 h 0 min" in heard.err) == bool(code)
    with pytest.raises(SystemExit) as ended:
        main(["status", "--max-age", "soon"], now=NOW)
    assert ended.value.code == 2
    assert "'soon' is not a length of time" in capsys.readouterr().err


@pytest.mark.usefixtures("synced")
def test_a_sync_that_failed_is_no_success(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured.move(hours=3)
    with monkeypatch.context() as wrong:
        wrong.setenv("TWILIO_AUTH_TOKEN", "a-wrong-token")
        assert main(["sync"], now=configured.now) == 2
    lines = told(capsys, configured)
    assert lines["last successful sync"].endswith("3 h 0 min ago")
    assert "sync, failed 2026-11-20 15:00:0" in lines["newest run"]
    assert "Twilio answered 401" in lines["newest run"]


@pytest.mark.usefixtures("synced")
def test_it_writes_nothing_and_needs_no_credentials(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:

    def state() -> dict[Path, tuple[int, int]]:
        paths = [configured.settings.directory, *configured.settings.directory.rglob("*")]
        return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}

    before = state()
    for name in ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN"):
        monkeypatch.delenv(name)
    assert "attempts" in told(capsys, configured)
    assert state() == before


@pytest.mark.usefixtures("synced")
def test_while_a_sync_runs_it_answers_all_the_same(configured: World, capsys: Capture) -> None:
    """It shows the newest success, though the published file does not contain it."""
    configured.move(hours=1)
    newest = configured.sync()
    configured.move(hours=1)
    reading, gate = threading.Event(), threading.Event()

    def answer_later(_: str | None) -> None:
        reading.set()
        gate.wait()

    configured.sandbox.failure = answer_later  # type: ignore[method-assign]
    ended: list[subprocess.CompletedProcess[str]] = []
    moment = [configured.now.isoformat(), "none", "0", "0", "9"]
    running = threading.Thread(
        target=lambda: ended.append(run_in_process(configured, "tests.crash", *moment, "sync"))
    )
    running.start()
    reading.wait()
    try:
        lines = told(capsys, configured, "--max-age", "2h")
    finally:
        gate.set()
        running.join()
    assert ended[0].returncode == 0, ended[0].stderr
    assert lines["running now"].startswith("sync (pid ")
    assert lines["source"] == "verify.duckdb, because loading.duckdb cannot be read now"
    assert lines["last successful sync"].startswith(f"{newest.finished_at:%F %T}")
    lines = told(capsys, configured)
    assert not lines.keys() & {"running now", "source"}


@pytest.mark.usefixtures("synced")
def test_a_sync_does_not_fail_because_somebody_looks(
    configured: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sync tries to open the database repeatedly. The reader closes it at the third wait."""
    configured.move(hours=1)
    loading = str(configured.settings.directory / "loading.duckdb")
    with subprocess.Popen(
        [sys.executable, "-c", READS, loading],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as reader:  # fmt: skip
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        looks = Looks(monkeypatch.setattr, lambda: reader.communicate())
        looks.rule(database)
        assert main(["sync", "--quiet"], now=configured.now) == 0
    assert looks.number >= 3
    (reach,) = configured.query("select max(created_before) as at from twilio_verify.windows_read")
    assert reach["at"] == configured.now - SECOND


class Looks(Time):
    """A clock that calls `end` at the third wait."""

    def __init__(self, change: Change, end: Callable[[], object]) -> None:
        super().__init__(change)
        self.number, self._end = 0, end

    def sleep(self, seconds: float) -> None:
        super().sleep(seconds)
        self.number += 1
        if self.number == 3:
            self._end()


@pytest.mark.usefixtures("synced")
def test_another_warehouse_in_a_subfolder_does_not_count(
    configured: World, capsys: Capture
) -> None:
    def files() -> dict[str, int]:
        capsys.readouterr()
        assert main(["status", "--json"], now=NOW) == 0
        sizes: dict[str, int] = json.loads(capsys.readouterr().out)["files"]
        return sizes

    folder = configured.settings.directory
    before = files()
    for name in ("verify.duckdb", "loading.duckdb", "other"):
        (folder / "demo").mkdir(exist_ok=True)
        (folder / "demo" / name).write_bytes(b"x" * 10_000_000)
    assert files() == before
    (folder / "verify.duckdb.set-aside-1").write_bytes(b"x" * 1000)
    assert files() == {**before, "in all": before["in all"] + 1000}


@pytest.mark.usefixtures("synced")
def test_it_shows_what_warns_until_it_is_over(configured: World, capsys: Capture) -> None:
    """A warning is said when it is new and when it is over; in between only `status` shows it."""
    file = str(configured.settings.directory / "loading.duckdb")
    price = "update twilio_verify.attempts set price__value = '{}' where sid = (select min(sid)"
    for value, said, shown in (
        ("-0.01", "check warn: prices_are_positive, 1 row", True),
        ("-0.01", "", True),
        ("0.01", "check ok: prices_are_positive no longer warns", False),
        ("0.01", "", False),
    ):
        with duckdb.connect(file) as connection:
            connection.execute(f"{price.format(value)} from twilio_verify.attempts)")
        configured.move(hours=25)
        capsys.readouterr()
        assert main(["sync"], now=configured.now) == 0
        told = capsys.readouterr().err
        assert said in told
        assert ("prices_are_positive" in told) == bool(said)
        assert main(["status"], now=configured.now) == 0
        told = capsys.readouterr().out
        assert ("checks                prices_are_positive warns" in told) == shown
        assert main(["status", "--json"], now=configured.now) == 0
        found = json.loads(capsys.readouterr().out)["checks"]
        assert found == {"fail": [], "warn": ["prices_are_positive"] * shown}
