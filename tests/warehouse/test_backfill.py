"""Backfills: resuming after a kill, and taking turns with other runs."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from pipelines.__main__ import main
from pipelines.commands.backfill import backfill, window_of
from pipelines.commands.sync import sync
from pipelines.errors import Failure, Misuse
from pipelines.reading import slices
from pipelines.reading.defaults import CONCURRENCY
from pipelines.reading.package import Package
from pipelines.reading.sizing import Sizing
from pipelines.reading.windows import Window, remaining
from pipelines.twilio.clock import Clock
from pipelines.twilio.filters import Filters
from pipelines.twilio.limits import RETENTION, SECOND
from pipelines.warehouse import files
from pipelines.warehouse.ingest import connect, windows_read
from pipelines.warehouse.loading import Loader
from pipelines.warehouse.lock import LockHolder
from pipelines.warehouse.runs import Run
from pipelines.warehouse.views import apply_views
from tests.clocks import wait_until
from tests.commands.test_backfill import DAY, FIELDS, pages_asked, run, unfinished
from tests.worlds import NOW, PATIENT, Capture, World, read_windows, run_in_process

# --- interrupted half way


def killed_at(world: World, package: int, number: int, delay: float) -> None:
    """Runs a backfill in its own process and ends it while it loads package number `package`."""
    moment = [world.now.isoformat(), "loading", str(package), str(delay), str(int(number))]
    told = run_in_process(world, "tests.crash", *moment, "backfill")
    assert told.returncode != 0, told.stderr


Interrupt = Callable[..., None]


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Interrupt:
    """Starts a backfill of `world` and interrupts it after one loaded package."""

    def interrupted(world: World, *options: Any) -> None:
        load, loads = Loader.load, itertools.count()

        def loading(loader: Loader, package: Package) -> int:
            if next(loads):
                raise KeyboardInterrupt
            return load(loader, package)

        with monkeypatch.context() as patch:
            patch.setattr(Loader, "load", loading)
            with pytest.raises(KeyboardInterrupt):
                run(world, *options)
        assert len(unfinished(world)) == 1

    return interrupted


@pytest.mark.parametrize(
    ("number", "delay"),
    [
        (signal.SIGKILL, 0.0),
        pytest.param(signal.SIGKILL, 0.02, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, 0.02, marks=pytest.mark.long),
    ],
)
def test_a_killed_backfill_spends_no_more_than_a_package_again(
    in_slices: World, caplog: pytest.LogCaptureFixture, number: int, delay: float
) -> None:
    world = in_slices
    client = connect(world.settings, Clock(world.now))
    with client, Sizing(client) as sizing:
        window = window_of(30, None, None, world.now)
        needed = sum(piece.pages for piece in sizing.cut(sizing.measured([window])))
    killed_at(world, 1, number, delay)
    (job,) = unfinished(world)
    begun = pages_asked(world)
    held = slices.ENOUGH_PAGES + 4 * slices.USUAL_PAGES
    assert begun > held
    world.move(minutes=20)
    with caplog.at_level(logging.INFO, logger="verify_sync"):
        outcome = run(world)
    assert f"resuming the backfill that began {job['began_at']}" in caplog.text
    # So many pages may be read but not loaded. The rest is cut again, perhaps into more slices.
    assert pages_asked(world) <= needed + held + 3
    assert 0 < outcome.attempts < len(world.truth())
    assert world.stored().keys() >= world.truth(NOW).keys()
    assert max(row["date_created"] for row in world.stored().values()) < NOW  # window unchanged
    assert unfinished(world) == []


def test_after_the_last_load_only_publishing_is_left(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(files, "_SPARE", 2**62)
        with pytest.raises(Failure, match="free some space"):
            run(world)
    before = len(world.sandbox.log)
    assert run(world).slices == 0
    assert len(world.sandbox.log) == before
    assert world.stored() == world.truth()


def test_another_window_while_one_is_unfinished(in_slices: World, interrupt: Interrupt) -> None:
    world = in_slices
    interrupt(world)
    with pytest.raises(Misuse, match=r"the backfill that began .* is not finished: .*--restart"):
        run(world, 5, "--days 5")
    other = replace(world.settings, filters=Filters.of({"channel": "sms"}))
    backfill(other, window_of(5, None, None, world.now), "--days 5", world.now)  # separate progress
    assert len(unfinished(world)) == 1
    outcome = run(world, 5, "--days 5", restart=True)
    assert {row["date_created"] for row in world.truth().values()} > set()
    assert outcome.attempts < len(world.truth()) / 4
    assert unfinished(world) == []


def test_one_that_read_nothing_is_not_in_the_way(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("TWILIO_AUTH_TOKEN", "a-wrong-token")
        assert main(["backfill", "--days", "1"], now=NOW) == 2
    assert main(["backfill", "--days", "2"], now=NOW) == 0


def test_what_got_lost_meanwhile_is_read_again(
    in_slices: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the loading file had been rebuilt between two packages and had lost the last one."""
    world, load, loads = in_slices, Loader.load, 0

    def loading(loader: Loader, package: Package) -> int:
        nonlocal loads
        loads += 1
        new = load(loader, package)
        if loads == 2:
            loader._database.connection.execute(
                "delete from twilio_verify.windows_read where _dlt_load_id ="
                " (select max(_dlt_load_id) from twilio_verify.windows_read)"
            )
        return new

    monkeypatch.setattr(Loader, "load", loading)
    run(world)
    assert loads > 3
    assert unfinished(world) == []
    assert nothing_left(world)


def nothing_left(world: World) -> bool:
    reads = windows_read(world.warehouse(), world.now)
    window = Window(world.now - RETENTION, world.now - SECOND)
    return remaining(reads, window, world.now) == []


def test_restart_reads_the_same_window_unless_told_another(
    in_slices: World, interrupt: Interrupt
) -> None:
    whole = len([r for r in in_slices.truth().values() if r["date_created"] > NOW - 25 * DAY])
    interrupt(in_slices, 25, "--days 25")
    in_slices.move(hours=1)
    assert abs(run(in_slices, restart=True).attempts - whole) <= 2


def test_what_twilio_has_forgotten_meanwhile_is_not_vouched_for(
    in_slices: World, interrupt: Interrupt
) -> None:
    world = in_slices
    world.settings = replace(world.settings, concurrency=1)  # so that the oldest slices are loaded
    interrupt(world)
    world.move(days=20)
    run(world)
    oldest = world.query(
        "select min(created_after) as at from twilio_verify.windows_read"
        " where read_at >= timestamptz '2026-12-09 00:00:00+00'"
    )
    assert oldest == [{"at": world.now - RETENTION}]
    world.sync()
    assert len(world.query("from gaps")) == 1


@pytest.mark.parametrize(
    "content",
    ['[{"asked": ', "7", '[{"asked": 1}]', json.dumps([dict.fromkeys(FIELDS, "2026-11-20")])],
)
def test_a_damaged_note_of_what_was_unfinished(
    synced: World, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    (synced.settings.directory / "backfill.json").write_text(content)
    synced.move(seconds=5)
    assert run(synced, days=1).attempts > 0
    assert caplog.text.count("backfill.json is damaged") == 1
    assert unfinished(synced) == []


# --- other runs


def test_syncs_get_their_turn_and_what_they_read_counts(in_slices: World) -> None:
    """A sync comes while half of the backfill is read, and reads the rest."""
    world, answer, synced = in_slices, in_slices.sandbox.answer, threading.Event()
    world.settings = replace(world.settings, page_size=60)
    others = str(world.settings.page_size - 1)
    told: list[subprocess.CompletedProcess[str]] = []
    pages = itertools.count()  # of the backfill: only six before the sync has ended

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        if parameters.get("PageSize", others) != others and next(pages) >= 6:
            synced.wait()
        return answer(path, parameters, *rest)

    def backfill() -> None:
        moment = [world.now.isoformat(), "none", "0", "0", "9"]
        told.append(run_in_process(world, "tests.crash", *moment, "backfill"))
        synced.set()

    world.sandbox.answer = answering  # type: ignore[method-assign]
    running = threading.Thread(target=backfill)
    running.start()
    wait_until(lambda: loaded_windows(world))
    settings = replace(world.settings, page_size=int(others))
    in_between = sync(settings, world.now, wait=PATIENT)
    synced.set()
    running.join()
    assert told[0].returncode == 0, told[0].stderr
    assert in_between.attempts > 200
    (read,) = world.query(
        "select sum(attempts) as rows, max(attempts) as largest from twilio_verify.windows_read"
    )
    # Read twice: at most the pages that the backfill had read or begun, but had not loaded.
    begun = (6 + CONCURRENCY - 1) * read["largest"]
    assert len(world.truth()) <= read["rows"] <= len(world.truth()) + begun
    assert begun < len(world.truth()) - read["largest"]  # else the test proves nothing
    assert world.stored() == world.truth()


def loaded_windows(world: World) -> int:
    """The number of loaded windows; 0 while another run has the database open."""
    with suppress(Failure):
        return len(windows_read(world.warehouse(), world.now).before)
    return 0


def test_an_older_reading_does_not_replace_a_newer_one(world: World) -> None:
    world.sync()
    window = Window(NOW - 2 * DAY, NOW - DAY)
    mine, others = world.warehouse(), world.warehouse()
    with mine.opened():
        pass  # as a backfill does before it reads
    early = read_windows(world, [window])
    world.move(hours=20)
    late = read_windows(world, [window])
    truth = world.truth()
    for warehouse, reads in ((others, late), (mine, early)):
        with warehouse.opened():
            warehouse.loader.load(Package.of(reads))
            apply_views(warehouse.database, warehouse.settings)
            warehouse.publisher.publish(world.now)
    stored = world.stored()
    inside = [sid for sid in truth if window.after < truth[sid]["date_created"] <= window.before]
    assert {sid: stored[sid] for sid in inside} == {sid: truth[sid] for sid in inside}
    assert early[0].attempts.num_rows == late[0].attempts.num_rows == len(inside)


def test_it_waits_for_a_sync_that_is_loading(
    in_slices: World, caplog: pytest.LogCaptureFixture
) -> None:
    """It also reads no further ahead than it may."""
    caplog.set_level(logging.INFO, logger="verify_sync")
    world, answer, held = in_slices, in_slices.sandbox.answer, threading.Event()
    found: list[Run] = []

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        if "PageSize" in parameters:
            held.wait()
        return answer(path, parameters, *rest)

    world.settings = replace(world.settings, page_size=60)
    world.sandbox.answer = answering  # type: ignore[method-assign]
    running = threading.Thread(target=lambda: found.append(run(world)))
    running.start()
    wait_until(lambda: world.sandbox.log)  # after the Summary it has released the lock
    with world.warehouse().lock.held(LockHolder("sync", os.getpid(), "today"), PATIENT):
        held.set()
        wait_until(lambda: "waiting for another run to finish" in caplog.text)
        most = slices.ENOUGH_PAGES + 4 * slices.USUAL_PAGES
        assert pages_asked(world) <= most + 4  # a slice may turn out to have a page more each
    running.join()
    assert found[0].pages > 2 * most
    assert world.stored() == world.truth()
