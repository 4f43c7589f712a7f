"""Every run is recorded, however it ends. It prints what it did on one line, or nothing."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable

import pytest

from pipelines.__main__ import main
from pipelines.errors import Failure
from pipelines.reading import windows
from pipelines.warehouse import publishing
from pipelines.warehouse.runs import Run, record
from tests.clocks import Time
from tests.warehouse.test_lock import holding
from tests.worlds import NOW, Capture, World, configure, run_in_process

MakeWorld = Callable[..., World]
HISTORY = "from sync_history order by started_at"


def raising(error: BaseException) -> Callable[..., None]:
    def function(*_: object) -> None:
        raise error

    return function


def test_what_a_run_did_is_published_with_it(configured: World) -> None:
    began = time.monotonic()
    assert main(["sync"], now=NOW) == 0
    took = time.monotonic() - began
    (first,) = configured.query(HISTORY)
    known = len(configured.truth())
    assert (first["command"], first["outcome"], first["error"]) == ("sync", "done", None)
    assert (first["started_at"], first["requests"]) == (NOW, len(configured.sandbox.log))
    assert 0 < first["seconds"] <= took
    assert (first["attempts_read"], first["attempts_new"], first["windows"]) == (known, known, 1)
    assert (first["retries"], first["throttled"], first["rejected"]) == (0, 0, 0)
    configured.move(hours=3)
    assert main(["sync"], now=configured.now) == 0
    _, second = configured.query(HISTORY)
    (stored,) = configured.query("select count(*) as n from raw")
    assert second["attempts_new"] == stored["n"] - known > 0
    assert second["attempts_read"] > second["attempts_new"]  # others were read again
    assert second["requests"] == len(configured.sandbox.log) - first["requests"]
    configured.move(minutes=1)
    assert main(["backfill", "--days", "2"], now=configured.now) == 0
    assert main(["fetch", *[*configured.truth()][:2]], now=configured.now) == 0
    *_, backfilled, fetched = configured.query(HISTORY)
    assert (backfilled["command"], fetched["command"]) == ("backfill", "fetch")
    assert (fetched["attempts_read"], fetched["attempts_new"], fetched["requests"]) == (2, 0, 2)
    (read,) = configured.query("select sum(attempts) as n from twilio_verify.windows_read")
    runs = configured.query(HISTORY)
    assert sum(run["attempts_read"] for run in runs if run["command"] != "fetch") == read["n"]


def test_a_run_ends_as_long_after_its_beginning_as_it_took(time: Time) -> None:
    run = Run("sync", NOW)
    time.sleep(90)
    run.end("done")
    assert run.seconds == pytest.approx(90, abs=0.1)
    assert run.finished_at is not None
    assert (run.finished_at - NOW).total_seconds() == pytest.approx(90, abs=0.1)


def test_a_run_that_failed_is_told_by_the_next_that_does_not(
    configured: World, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """From the first run on, and without secrets or phone numbers."""
    with monkeypatch.context() as wrong:
        wrong.setenv("TWILIO_AUTH_TOKEN", "a-wrong-token")
        assert main(["sync"], now=NOW) == 2
    capsys.readouterr()
    assert main(["status"], now=NOW) == 0
    assert "newest run            sync, failed" in capsys.readouterr().out
    for error in (Failure("+573001234567 and a-wrong-token"), ValueError("odd"), KeyboardInterrupt):
        with monkeypatch.context() as broken:
            broken.setattr(windows, "plan", raising(error))  # type: ignore[arg-type]
            configured.move(minutes=1)
            assert main(["sync"], now=configured.now) == 1
    with monkeypatch.context() as full:
        full.setattr(publishing, "copied_bytes", raising(Failure("publishing needs more")))
        configured.move(minutes=1)
        assert main(["sync"], now=configured.now) == 1
    configured.move(minutes=1)
    assert main(["sync"], now=configured.now) == 0
    told = [(run["outcome"], run["error"]) for run in configured.query(HISTORY)]
    assert told[0][0] == "failed"
    assert "Twilio answered 401" in str(told[0][1])
    assert told[1:] == [
        ("failed", "[redacted] and [secret]"),
        ("failed", "ValueError: odd"),
        ("interrupted", None),
        ("failed", "publishing needs more"),
        ("done", None),
    ]


def test_a_killed_run_is_found_by_the_next(configured: World, capsys: Capture) -> None:
    moment = [NOW.isoformat(), "paging", "0", "0", str(int(signal.SIGKILL))]
    told = run_in_process(configured, "tests.crash", *moment, "sync")
    assert told.returncode == -signal.SIGKILL
    assert main(["status"], now=NOW) == 0
    assert "newest run            sync, killed 2026-11-20 12:00:00 UTC" in capsys.readouterr().out
    configured.move(minutes=1)
    configured.sync()
    killed, done = configured.query(HISTORY)
    assert (killed["outcome"], killed["finished_at"], killed["seconds"]) == ("killed", None, None)
    assert done["outcome"] == "done"


@pytest.mark.usefixtures("synced")
def test_a_backfill_that_goes_on_is_not_taken_for_dead(configured: World) -> None:
    with configured.warehouse().opened():
        pass
    begun = configured.warehouse()
    with begun.opened():
        begun.run.command = "backfill"
        record(begun.connection, begun.run, False)  # then it reads, and other runs take their turn
    outcomes = f"select outcome {HISTORY}"
    with holding(configured.settings.directory / "backfill.lock", "backfill"):
        configured.move(hours=1)
        configured.sync()
        assert {run["outcome"] for run in configured.query(outcomes)} == {"done", "running"}
    configured.move(hours=1)
    configured.sync()
    assert {run["outcome"] for run in configured.query(outcomes)} == {"done", "killed"}


@pytest.mark.parametrize("command", ["sync", "backfill", "fetch", "reconcile", "views"])
@pytest.mark.usefixtures("synced", "waits")
def test_quiet_says_nothing_when_all_is_well(
    configured: World, monkeypatch: pytest.MonkeyPatch, capfd: Capture, command: str
) -> None:
    """Not even about requests that failed and succeeded on retry."""
    world = configured
    fails = iter([503])
    world.sandbox.failure = lambda _: next(fails, None)  # type: ignore[method-assign,assignment]
    options = {"fetch": [*world.truth()][:1], "backfill": ["--days=1"], "reconcile": ["--days=1"]}
    argv = [command, *options.get(command, [])]
    world.move(seconds=5)
    capfd.readouterr()
    assert main([*argv, "--quiet"], now=world.now) == 0
    assert capfd.readouterr() == ("", "")
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "a-wrong-token")
    world.move(hours=1)
    if command != "views":
        assert main([*argv, "--quiet"], now=world.now) == 2
        assert capfd.readouterr().err.count("\n") == 1


def test_logs_for_machines_are_an_object_a_line(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    world = make_world(attempts=300, fail="503", fail_rate=0.5)
    configure(world, monkeypatch)
    assert main(["backfill", "--log-format", "json"], now=NOW) == 0
    told = capfd.readouterr()
    (summary,) = map(json.loads, told.out.splitlines())  # one line per run
    assert summary["command"] == "backfill"
    assert summary["outcome"] == "done"
    assert summary["requests"] == len(world.sandbox.log)
    assert summary["attempts_read"] == summary["attempts_new"] == len(world.truth())
    assert summary["started_at"] == "2026-11-20T12:00:00Z"
    lines = [json.loads(line) for line in told.err.splitlines()]
    assert len(lines) > 1
    for line in lines:
        assert list(line) == ["time", "level", "command", "message"]
        assert (line["level"], line["command"]) == ("info", "backfill")
    with world.warehouse().opened():
        assert main(["sync", "--log-format", "json"], now=NOW) == 1
    told = capfd.readouterr()
    assert told.out == ""
    (line,) = map(json.loads, told.err.splitlines())
    assert (line["level"], line["command"], line["exit_code"]) == ("error", "sync", 1)
    assert f"pid {os.getpid()}" in line["message"]
