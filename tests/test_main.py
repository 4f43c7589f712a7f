"""The command line: exit codes, one clear line for every mistake, and no secrets in it."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.commands import parser
from pipelines.commands._output import log, log_to_stderr, shown
from pipelines.errors import keep_secret, masked, redact
from pipelines.warehouse import database
from tests.clocks import Time
from tests.worlds import NOW, REPOSITORY, Capture, World, refused, run_in_process


def test_sync_then_sql(configured: World, capfd: Capture) -> None:
    assert main(["sync"], now=NOW) == 0
    said = capfd.readouterr()
    assert "attempts in 1 slice with 3 requests" in said.out
    assert str(configured.settings.published) in said.out
    assert main(["sql", "from daily_conversion limit 5"], now=NOW) == 0
    assert "created_date" in capfd.readouterr().out


def test_sync_without_credentials_names_them_and_the_demo(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE__DIR", str(tmp_path / "w"))
    for argv in (["sync"], ["sync", "--dry-run"], ["list"], ["fetch", "VL" + "0" * 32]):
        code, line = refused(capsys, *argv)
        assert code == 2
        for name in ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_API_KEY", "make demo"):
            assert name in line
    assert not (tmp_path / "w").exists()


def test_refused_credentials_exit_2_without_telling_them(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "a-wrong-token")
    code, line = refused(capsys, "sync")
    assert (code, "TWILIO_AUTH_TOKEN" in line, "a-wrong-token" in line) == (2, True, False)
    assert len(configured.sandbox.log) <= 3  # one per reader, no retries


def test_debug_shows_a_traceback_and_still_no_secret(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "a-wrong-token")
    assert main(["sync", "--debug"], now=NOW) == 2
    told = capsys.readouterr().err
    assert "Traceback" in told
    assert "a-wrong-token" not in told


@pytest.mark.parametrize("argv", [["sql", "select 1"], ["sql"], ["views"]])
def test_asking_before_the_first_sync(argv: list[str], configured: World, capsys: Capture) -> None:
    code, line = refused(capsys, *argv)
    assert (code, "make sync" in line) == (1, True)
    assert not configured.settings.directory.exists()


def test_wrong_usage_exits_2(capsys: Capture) -> None:
    sandbox = (
        ["--port", "99999"],
        ["--days", "0"],
        ["--attempts", "-1"],
        ["--requests", "x"],
        ["--rows", "blue"],
    )
    for argv in (["sink"], ["sync", "--fast"], [], *(["sandbox", *wrong] for wrong in sandbox)):
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.usefixtures("synced")
def test_a_run_in_another_process_is_said_to_be_one(
    configured: World, capsys: Capture, time: Time
) -> None:
    time.rule(database)
    capsys.readouterr()
    code = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print(1, flush=True); input()"
    loading = str(configured.settings.directory / "loading.duckdb")
    command = [sys.executable, "-c", code, loading]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        for argv in (["sync", "--dry-run"], ["views"]):
            exit_code, line = refused(capsys, *argv)
            assert (exit_code, "another run" in line) == (1, True)
        other.kill()


@pytest.mark.parametrize(
    "signals",
    [
        [signal.SIGTERM],
        pytest.param([signal.SIGINT], marks=pytest.mark.long),
        pytest.param([signal.SIGINT] * 3, marks=pytest.mark.long),
    ],
)
def test_a_sync_that_waits_for_an_answer_ends_when_told(
    tmp_path: Path, signals: list[signal.Signals]
) -> None:
    """Nothing listens on port 1, so the readers wait for minutes between two tries."""
    environment = {
        **os.environ, "SOURCES__TWILIO_VERIFY__BASE_URL": "http://127.0.0.1:1",
        "TWILIO_ACCOUNT_SID": "AC" + "0" * 32, "TWILIO_AUTH_TOKEN": "token",
        "WAREHOUSE__DIR": str(tmp_path / "w"),
    }  # fmt: skip
    command = [sys.executable, "-m", "pipelines", "sync"]
    # A shell starts a background job with SIGINT ignored, and its children inherit that.
    heeding = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    with subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heeding,
    ) as run:
        assert run.stderr is not None
        assert "trying again" in run.stderr.readline()
        for number in signals:
            run.send_signal(number)
        assert run.wait() == 1
        told = run.stderr.read()
        # Later signals may arrive after the message was printed.
        assert 1 <= told.count("verify-sync: interrupted") <= len(signals)
        assert "Traceback" not in told


def test_a_signal_that_comes_before_anything_has_begun(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The signal arrives while the commands are imported."""

    def interrupted() -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr("pipelines.__main__.parser", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, line = refused(capsys, "status")
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, line.startswith("verify-sync: interrupted")) == (1, True)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is always full")
@pytest.mark.usefixtures("synced")
def test_output_that_cannot_be_written_is_a_failure(world: World) -> None:
    prepare = (__name__, print_to.__name__, "/dev/full")
    told = run_in_process(world, "pipelines", "sql", "select 1", prepare=prepare)
    assert (told.returncode, told.stderr.count("\n")) == (1, 1)
    assert "No space left" in told.stderr


def print_to(place: str) -> None:
    os.dup2(os.open(place, os.O_WRONLY), 1)


@pytest.mark.usefixtures("synced")
def test_views_are_applied_again_with_new_settings(
    configured: World, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WAREHOUSE__TIMEZONE", "Asia/Kolkata")
    requests = len(configured.sandbox.log)
    assert main(["views"]) == 0
    assert len(configured.sandbox.log) == requests
    assert configured.query("select timezone from settings") == [{"timezone": "Asia/Kolkata"}]
    assert "views applied" in capfd.readouterr().out


def test_dry_run_says_what_is_due(configured: World, capfd: Capture) -> None:
    assert main(["sync", "--dry-run"], now=NOW) == 0
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 3
    assert "1 window, 3 requests; after this dry run's 1 request the rate" in lines[-1]
    assert not configured.settings.published.exists()
    main(["sync"], now=NOW)
    capfd.readouterr()
    assert main(["sync", "--dry-run"], now=NOW) == 0
    assert capfd.readouterr().out.startswith("due: 0 attempts in 0 windows")


def test_a_dry_run_says_what_the_summary_cannot(
    configured: World, capfd: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCES__TWILIO_VERIFY__TO", "+573003003030")
    assert main(["sync", "--dry-run"], now=NOW) == 0
    assert "unknown number of attempts" in capfd.readouterr().out
    assert configured.sandbox.log == []


def test_what_was_typed_wrongly_is_not_repeated_when_it_is_a_number(capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["list", "+573003003030"])
    assert caught.value.code == 2
    assert "3003003030" not in capsys.readouterr().err


def test_what_is_printed_hides_what_is_personal() -> None:
    keep_secret("s3cret-token")
    told = redact("s3cret-token +4930123456 %2B4930123456 someone@example.com a%40b.co VL12")
    assert told == "[secret] [redacted] [redacted] [redacted] [redacted] VL12"


@pytest.mark.parametrize(
    ("argv", "code"),
    [(["backfill", "--days", "x"], 2), pytest.param(["--help"], 0, marks=pytest.mark.long)],
)
def test_a_process_says_nothing_after_its_last_word(argv: list[str], code: int) -> None:
    """At exit, a library inside DuckDB may complain about leaked objects."""
    command = [sys.executable, "-m", "pipelines", *argv]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert told.returncode == code
    assert told.stderr == "" or told.stderr.splitlines()[-1].startswith(
        "verify-sync backfill: error"
    )


def test_log_lines_have_their_time_in_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "America/Bogota")
        time.tzset()
        log_to_stderr(parser().parse_args(["sync"]))
        record = logging.makeLogRecord({"msg": "a message", "created": 0.0})
        assert log.handlers[0].format(record) == "1970-01-01T00:00:00Z a message"
    time.tzset()


def test_a_path_is_shown_as_one_types_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(shown(tmp_path / "warehouse" / "verify.duckdb")) == "warehouse/verify.duckdb"
    assert str(shown(tmp_path.parent)) == str(tmp_path.parent)
    monkeypatch.chdir("/")
    assert str(shown(tmp_path)) == str(tmp_path)


def cpu(work: Callable[[], object]) -> float:
    """Seconds of CPU time of this thread, the least of three."""
    found = []
    for _ in range(3):
        began = time.thread_time()
        work()
        found.append(time.thread_time() - began)
    return min(found)


@pytest.mark.parametrize("part", ["a", "+", "1", "%40", "a@", "a.", "a@b.", "+1 ", "\x1b", "é\n"])
@pytest.mark.parametrize("clean", [redact, masked])
def test_the_time_to_redact_grows_with_the_length(clean: Callable[[str], str], part: str) -> None:
    """A value of a megabyte must not hold the run. A hundred times longer, it may take ten times
    longer than that; by its square it would take 10,000 times longer."""
    keep_secret("a-token-of-ours")
    short, long = part * (10_000 // len(part)), part * (1_000_000 // len(part))
    assert cpu(lambda: clean(long)) < 1_000 * max(cpu(lambda: clean(short)), 0.001)


def test_a_text_from_outside_is_cut_but_never_inside_of_a_secret() -> None:
    keep_secret("s3cr3t-t0k3n")
    for before in range(480, 510):
        told = masked("x" * before + "s3cr3t-t0k3n" + "y" * 1_000)
        assert len(told) <= 501
        assert "s3c" not in told
    assert masked("to 573003003030 or +57 3003003030") == "to [redacted] or +57 [redacted]"
    assert masked("VL" + "0" * 32) == "VL" + "0" * 32
    assert masked("a\x1b[2J\rb\u202ec") == "a\\x1b[2J b\\u202ec"
