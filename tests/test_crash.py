"""Killed or told to end at any moment: the next run ends as if nothing had happened."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import World, slice_small
from tests.crash import PHASES, Trial

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


def test_a_first_sync_killed_at_any_moment(trial: Trial) -> None:
    for phase in PHASES:
        directory = trial.world.settings.directory.with_name(phase)
        trial.world.settings = replace(trial.world.settings, directory=directory)
        trial.kill(phase)
    assert trial.killed["too late"] <= 2


def test_later_syncs_killed_at_any_moment(trial: Trial) -> None:
    trial.world.sync()
    for phase in PHASES:
        trial.world.move(hours=trial.random.randint(1, 100))
        trial.kill(phase)
    assert trial.killed["too late"] <= 3


def test_syncs_that_are_told_to_end(trial: Trial) -> None:
    """By a scheduler or from the keyboard, which is the same to all but the signal's name."""
    trial.world.sync()
    for phase, number in zip(PHASES, itertools.cycle([signal.SIGTERM, signal.SIGINT])):
        trial.world.move(hours=trial.random.randint(1, 100))
        trial.kill(phase, number=number)
    assert trial.killed["too late"] <= 3
