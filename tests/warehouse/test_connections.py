"""How DuckDB's errors are classified."""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest

from pipelines.__main__ import main
from pipelines.errors import Failure
from pipelines.sandbox.api import Refusal
from pipelines.warehouse.connections import Damaged, OpenElsewhere, unusable
from tests.worlds import NOW, REPOSITORY, Capture, World, run_in_process


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (duckdb.IOException('Could not set lock on file "f"'), OpenElsewhere, "another process"),
        (duckdb.Error("Corrupt database file: wrong checksum\nmore"), Damaged, "wrong checksum)"),
        (duckdb.IOException("Cannot write: No space left on device"), Failure, "No space"),
        (
            duckdb.IOException("Trying to read a database file with version number 69, but"),
            Damaged,
            "was written by a newer DuckDB",
        ),
        (duckdb.ConversionException("Could not read enough bytes"), Failure, "cannot be used"),
        (duckdb.ConstraintException("Duplicate key: Corrupt database"), Failure, "cannot be used"),
    ],
)
def test_only_damage_is_taken_for_damage(
    error: duckdb.Error, kind: type[Failure], told: str
) -> None:
    """A file is set aside only if it is damaged."""
    failure = unusable(Path("f"), error)
    assert type(failure) is kind
    assert told in str(failure)


@pytest.mark.parametrize(
    "words",
    [
        "Could not read enough bytes",
        *(
            pytest.param(words, marks=pytest.mark.long)
            for words in ("Corrupt database", "not a valid DuckDB database file")
        ),
    ],
)
def test_a_servers_words_are_not_taken_for_damage(
    configured: World, synced: World, monkeypatch: pytest.MonkeyPatch, capsys: Capture, words: str
) -> None:
    """Neither in an error nor in a value."""

    def refusing(*_: object) -> str:
        raise Refusal(400, 60200, words)

    with monkeypatch.context() as patch:
        patch.setattr(configured.sandbox, "answer", refusing)
        assert main(["sync"], now=NOW + timedelta(hours=1)) == 1
    assert f"Twilio answered 400: {words}" in capsys.readouterr().err
    assert not [*configured.settings.directory.glob("*.set-aside-*")]


@pytest.mark.parametrize(
    "zone",
    ["JST", *(pytest.param(z, marks=pytest.mark.long) for z in ("ACT", "Mars/Olympus", "EST5EDT"))],
)
def test_no_command_depends_on_the_zone_of_the_machine(world: World, zone: str) -> None:
    """DuckDB knows 41 zones that Python's pytz does not."""
    moment = [world.now.isoformat(), "", "0", "0", "0"]
    for command in ("sync", "sync", "status", "check", "list", "sql"):
        words = ["select created_at, now() from stg_attempts"] if command == "sql" else []
        argv = [*moment, command, *words]
        told = run_in_process(world, "tests.crash", *argv, prepare=(__name__, "live_in", zone))
        assert told.returncode == 0, (command, told.stderr)


def live_in(zone: str) -> None:
    os.environ["TZ"] = zone
    time.tzset()


def test_there_is_one_way_to_connect() -> None:
    """It sets the zone. The settings only ask whether DuckDB knows a zone."""
    files = (REPOSITORY / "pipelines").rglob("*.py")
    found = {file.name for file in files if "duckdb.connect(" in file.read_text(encoding="utf-8")}
    assert found == {"connections.py", "settings.py"}
