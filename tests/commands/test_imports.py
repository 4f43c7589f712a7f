"""What a command imports: almost nothing for help or wrong usage, else only what it uses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import release
from pipelines.commands import names
from tests.worlds import REPOSITORY, World, environment_of

HEAVY = ("dlt", "duckdb", "pyarrow", "numpy", "pendulum", "requests", "tqdm")
PROGRAM = f"""
import sys
from pipelines.__main__ import main
try:
    code = main(sys.argv[1:])
except SystemExit as stopped:
    code = stopped.code
print("ends with", code, "has", *(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)
"""


def imported(*argv: str, **environment: str) -> tuple[str, str]:
    """Runs a command in its own process; returns its stdout and the last line of its stderr."""
    told = subprocess.run(
        [sys.executable, "-c", PROGRAM, *argv], cwd=REPOSITORY, env={**os.environ, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return told.stdout, told.stderr.splitlines()[-1]


def test_the_release_is_told_at_once() -> None:
    assert imported("--version") == (f"verify-sync {release()}\n", "ends with 0 has")


@pytest.mark.parametrize("argv", [["--help"], *([name, "--help"] for name in names())])
def test_help_comes_at_once(argv: list[str]) -> None:
    told, end = imported(*argv)
    assert told.startswith("usage: verify-sync")
    assert end == "ends with 0 has"


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["no-such-command"],
        *([name, "--no-such-option"] for name in names()),
        ["sync", "--wait", "for ever"],
        ["backfill", "--days", "0"],
        ["list", "--limit", "none"],
        ["list", "--format", "xml"],
        ["fetch"],
        ["reconcile", "--days", "31"],
        ["restore"],
        ["sandbox", "--port", "99999"],
        ["status", "--max-age", "soon"],
    ],
)
def test_a_misuse_is_told_at_once(argv: list[str]) -> None:
    assert imported(*argv) == ("", "ends with 2 has")


@pytest.mark.parametrize(
    ("argv", "more"),
    [
        (["sql", "select 17 as seventeen"], ""),
        (["status"], " numpy requests"),
        (["check"], " numpy requests"),
        (["export", "FOLDER"], ""),
    ],
    ids=["sql", "status", "check", "export"],
)
@pytest.mark.usefixtures("synced")
def test_who_asks_does_not_wait_for_what_only_a_sync_needs(
    world: World, argv: list[str], more: str, tmp_path: Path
) -> None:
    argv = [str(tmp_path / "there") if word == "FOLDER" else word for word in argv]
    told, end = imported(*argv, **environment_of(world))
    assert told
    assert end == f"ends with 0 has duckdb{more}"
