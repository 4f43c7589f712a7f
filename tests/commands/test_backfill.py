"""`backfill`: the requested window, its cost, and what is read. Interrupted ones: warehouse."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import termios
import threading
from contextlib import suppress
from datetime import timedelta

import pytest

from pipelines.__main__ import main
from pipelines.commands.backfill import backfill, window_of
from pipelines.twilio.limits import RETENTION, SECOND
from pipelines.warehouse.runs import Run
from tests.worlds import NOW, Capture, World, refused, run_in_process

DAY = timedelta(days=1)
FIELDS = ("account_sid", "filters_hash", "asked", "after", "before", "began_at")


def run(world: World, days: int = 30, asked: str = "", restart: bool = False) -> Run:
    window = window_of(days, None, None, world.now)
    return backfill(world.settings, window, asked, world.now, restart)


def pages_asked(world: World) -> int:
    return sum(request.path.endswith("/Attempts") for request in world.sandbox.log)


def unfinished(world: World) -> list[dict[str, str]]:
    found = json.loads((world.settings.directory / "backfill.json").read_bytes())
    assert isinstance(found, list)
    return found


def test_a_window_is_read_again_whatever_is_due(synced: World) -> None:
    world = synced
    old = world.stored()
    world.move(hours=30)
    outcome = run(world, days=10)
    assert outcome.slices == 1
    stored, truth = world.stored(), world.truth()
    inside = {sid for sid in truth if truth[sid]["date_created"] >= world.now - 10 * DAY}
    assert {sid: stored[sid] for sid in inside} == {sid: truth[sid] for sid in inside}
    assert {sid: stored[sid] for sid in old.keys() - inside} == {
        sid: old[sid] for sid in old.keys() - inside
    }
    assert unfinished(world) == []
    assert run(world, days=10).attempts == 0  # at the same instant all of it is read already
    world.move(seconds=5)
    assert run(world, days=10).attempts == outcome.attempts  # a new backfill reads it again


def test_a_backfill_is_the_first_sync_as_well(in_slices: World) -> None:
    outcome = run(in_slices)
    assert outcome.packages > 1
    assert in_slices.stored() == in_slices.truth()
    assert in_slices.sync().attempts == 0


@pytest.mark.parametrize(
    ("options", "after", "before"),
    [
        ({}, NOW - RETENTION, NOW - SECOND),
        ({"days": 7}, NOW - 7 * DAY, NOW - SECOND),
        ({"days": 300}, NOW - RETENTION, NOW - SECOND),
        ({"after": NOW - 2 * DAY}, NOW - 2 * DAY - SECOND, NOW - SECOND),
        ({"before": NOW - 2 * DAY}, NOW - RETENTION, NOW - 2 * DAY),
        ({"after": NOW - 40 * DAY, "before": NOW + DAY}, NOW - RETENTION, NOW - SECOND),
    ],
)
def test_options_name_a_window_within_retention(
    options: dict[str, object], after: object, before: object
) -> None:
    given = {"days": None, "after": None, "before": None, **options}
    found = window_of(**given, now=NOW)  # type: ignore[arg-type]
    assert abs(found.after - after) <= SECOND  # type: ignore[operator]
    assert found.before == before


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--days", "0"], "not a number from 1"),
        (["--days", "x"], "not a number from 1"),
        (["--days", "3", "--after", "yesterday"], "either --days, or --after"),
        (["--after", "soon"], "is not a time"),
        (["--after", "2026-11-10", "--before", "2026-11-09"], "earlier than --before"),
        (["--after", "2026-12-24"], "earlier than --before"),
        (["--before", "2026-10-01"], "no longer has"),
    ],
)
def test_a_window_that_is_none_is_one_line_and_no_request(
    configured: World, capsys: Capture, argv: list[str], said: str
) -> None:
    try:
        code, line = refused(capsys, "backfill", *argv)
    except SystemExit as stopped:  # argparse exits itself, after printing the usage
        code, line = int(str(stopped.code)), capsys.readouterr().err
    assert (code, said in line) == (2, True), line
    assert configured.sandbox.log == []
    assert not (configured.settings.directory / "backfill.json").exists()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--days", "31"], "no longer has"),
        (["--after", "2026-10-01T00:00:00+02:00"], "no longer has"),
        (["--before", "2026-12-24"], "is in the future"),
    ],
)
@pytest.mark.usefixtures("synced")
def test_what_is_left_out_of_a_window_is_said(
    configured: World, capsys: Capture, argv: list[str], said: str
) -> None:
    """Nothing is left to read: the sync has read everything at this same instant."""
    assert main(["backfill", *argv], now=NOW) == 0
    assert said in capsys.readouterr().err
    assert configured.stored() == configured.truth()


def test_what_it_takes_is_known_before_it_starts(configured: World, capsys: Capture) -> None:
    assert main(["backfill"], now=NOW) == 0
    told = capsys.readouterr()
    window, first, *slices, loaded = told.err.splitlines()
    total = len(configured.truth())
    assert f"{total:,} attempts to read with about 2 requests" in first
    assert "from 2026-10-21 12:00:00 to 2026-11-20 11:59:59 UTC" in window
    assert f"{total:,} of {total:,} (100%)" in slices[-1]
    assert f"loaded {total:,} of {total:,} attempts" in loaded
    assert "published" in told.out


def test_a_terminal_gets_a_bar(configured: World) -> None:
    try:
        reader, terminal = pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminal can be opened here: {error}")
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))
    told = [b""]

    def listen() -> None:
        with suppress(OSError):  # raised when the terminal closes
            while part := os.read(reader, 2**16):
                told.append(part)

    listening = threading.Thread(target=listen)
    listening.start()
    moment = [NOW.isoformat(), "none", "0", "0", "9"]
    prepare = (__name__, complain_to.__name__, os.ttyname(terminal))
    ended = run_in_process(configured, "tests.crash", *moment, "backfill", prepare=prepare)
    os.close(terminal)
    listening.join()
    os.close(reader)
    said = b"".join(told)
    assert ended.returncode == 0, said
    total = len(configured.truth())
    bar = rf"100%\|.*\| {total:,} of {total:,}, .*, 1 slice"
    assert re.search(bar, said.decode()), said
    assert b"Traceback" not in said


def complain_to(terminal: str) -> None:
    os.dup2(os.open(terminal, os.O_RDWR | os.O_NOCTTY), 2)
