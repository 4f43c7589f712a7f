"""Gaps: a run warns of attempts that Twilio forgot before they were read, or soon will forget."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from pipelines.__main__ import main
from tests.worlds import NOW, Capture, World, refused

MakeWorld = Callable[..., World]
Break = Callable[[Path], object]


@pytest.mark.usefixtures("synced")
def test_a_sync_after_a_long_outage_says_what_is_lost(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.move(days=40)
    with caplog.at_level(logging.WARNING, logger="verify_sync"):
        world.sync()
    assert caplog.text.count("are lost") == 1
    assert "from 2026-11-20 11:59:59 to 2026-11-30 12:00:00 UTC are lost" in caplog.text
    gaps = world.query("select lost_after, lost_before from gaps")
    lost = [NOW - timedelta(seconds=1), NOW + timedelta(days=10)]
    assert [pytest.approx(gap.timestamp(), abs=2) for gap in gaps[0].values()] == [
        instant.timestamp() for instant in lost
    ]
    assert len(gaps) == 1
    caplog.clear()
    world.move(hours=1)
    world.sync()
    assert "lost" not in caplog.text  # logged once; the view `gaps` keeps it


@pytest.mark.parametrize(("days", "warned"), [(24, False), (26, True), (31, True)])
@pytest.mark.usefixtures("synced")
def test_a_failed_run_warns_before_attempts_are_lost(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch, days: int, warned: bool
) -> None:
    capsys.readouterr()
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "a-revoked-token")
    configured.move(days=days)
    assert main(["sync"], now=configured.now) == 2
    told = capsys.readouterr().err
    assert ("attempts that were not read yet will be lost in" in told) == warned
    if warned:
        assert f"in {max(0, 29 - days)} days" in told


def test_a_failed_first_run_warns_of_nothing(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "a-refused-token")
    assert refused(capsys, "sync")[0] == 2
