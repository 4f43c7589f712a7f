"""Runs killed or interrupted at any moment: after the next run, nothing is lost or doubled."""

from __future__ import annotations

import itertools
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from pipelines.interrupt import INTERRUPTED
from tests.crash import PHASES, Trial
from tests.worlds import World, run_in_process, slice_small

MakeWorld = Callable[..., World]
Break = Callable[[Path], object]


@pytest.fixture
def trial(make_world: MakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    slice_small(monkeypatch.setattr)
    world = make_world(attempts=1_500)
    settings = replace(world.settings, directory=tmp_path / "twin")
    trial = Trial(world, World(world.sandbox, settings))
    trial.measure()
    return trial


@pytest.mark.parametrize("phase", ["loading", "publishing"])
def test_a_sync_killed_when_it_begins_to(synced: World, tmp_path: Path, phase: str) -> None:
    """The next run reads the same again, or only publishes it. The long tests try any moment."""
    twin = replace(synced.settings, directory=tmp_path / "twin")
    shutil.copytree(synced.settings.directory, twin.directory)
    trial = Trial(synced, World(synced.sandbox, twin))
    trial.took = {phase: [0.0]}
    synced.move(hours=30)
    trial.kill(phase)
    assert trial.killed == {phase: 1}


def test_a_package_that_is_being_loaded_when_a_signal_comes_is_loaded_first(world: World) -> None:
    moment = [world.now.isoformat(), "loading", "0", "0", str(int(signal.SIGINT))]
    told = run_in_process(world, "tests.crash", *moment, "sync")
    assert (told.returncode, INTERRUPTED in told.stderr) == (1, True), told.stderr
    with duckdb.connect(str(world.settings.directory / "loading.duckdb")) as connection:
        query = "select count(*) from twilio_verify.attempts"
        assert connection.execute(query).fetchall() == [(len(world.truth()),)]
    assert not [*world.settings.directory.glob("dlt/**/*.parquet")]  # nothing is pending


@pytest.mark.long
def test_a_first_sync_killed_at_any_moment(trial: Trial) -> None:
    for phase in PHASES:
        if phase == "refreshing":  # a first sync makes the kept tables
            continue
        directory = trial.world.settings.directory.with_name(phase)
        trial.world.settings = replace(trial.world.settings, directory=directory)
        trial.kill(phase)
    assert trial.killed["too late"] == 0


@pytest.mark.long
def test_later_syncs_killed_at_any_moment(trial: Trial) -> None:
    trial.world.sync()
    for phase in PHASES:
        trial.world.move(hours=trial.random.randint(1, 100))
        trial.kill(phase)
    assert trial.killed["too late"] == 0


@pytest.mark.long
def test_syncs_that_are_told_to_end(trial: Trial) -> None:
    """By SIGTERM as a scheduler does, or by SIGINT as the keyboard does: the effect is the same."""
    trial.world.sync()
    for phase, number in zip(PHASES, itertools.cycle([signal.SIGTERM, signal.SIGINT])):
        trial.world.move(hours=trial.random.randint(1, 100))
        trial.kill(phase, number=number)
    assert trial.killed["too late"] == 0
