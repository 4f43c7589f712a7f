"""The layout: few, short modules, imports that run one way, and tests that mirror the folders."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.worlds import REPOSITORY

PACKAGE = REPOSITORY / "pipelines"
TESTS = REPOSITORY / "tests"
ROOMS = ("commands", "reading", "sandbox", "twilio", "warehouse")
LONGEST = 300  # lines of a module


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the code, so that a test can add wrong imports."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(PACKAGE, folder / "pipelines", ignore=shutil.ignore_patterns("__pyc*"))
    shutil.copy(REPOSITORY / "pyproject.toml", folder)
    return folder


def lint(checkout: Path) -> subprocess.CompletedProcess[str]:
    program = "from importlinter.cli import lint_imports_command as run; run()"
    command = [sys.executable, "-c", program, "--no-cache", "--no-logo"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)


def test_imports_run_downwards_only(copy: Path) -> None:
    kept = lint(copy)
    assert kept.returncode == 0, kept.stdout
    assert "3 kept, 0 broken" in kept.stdout


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("twilio/clock.py", "pipelines.commands.sync"),
        ("reading/gaps.py", "pipelines.settings"),
        ("source.py", "pipelines.warehouse.lock"),
        ("errors.py", "pipelines.twilio.limits"),
        ("warehouse/views.py", "pipelines.sandbox.account"),
        ("commands/sync.py", "pipelines.sandbox.account"),
        ("sandbox/state.py", "pipelines.twilio.limits"),
        ("sandbox/state.py", "pipelines.errors"),
    ],
)
def test_lint_fails_for_one_that_does_not(copy: Path, module: str, imported: str) -> None:
    file = copy / "pipelines" / module
    text = file.read_text(encoding="utf-8")
    file.write_text(f"{text}\n\ndef wrong() -> None:\n    import {imported}\n", encoding="utf-8")
    try:
        broken = lint(copy)
    finally:
        file.write_text(text, encoding="utf-8")
    assert broken.returncode == 1
    assert "1 broken" in broken.stdout
    assert imported in broken.stdout


def test_few_modules_lie_flat_and_none_is_long() -> None:
    assert len([*PACKAGE.glob("*.py")]) <= 8
    assert {folder.parent.name for folder in PACKAGE.glob("*/__init__.py")} == set(ROOMS)
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert text.count("\n") <= LONGEST, file
        assert ast.get_docstring(ast.parse(text)), file


def test_tests_mirror_the_rooms() -> None:
    """The test of a module is in the module's folder. The names below test several modules."""
    of_a_room = {
        "commands": {"imports"},
        "sandbox": {"sandbox"},
        "warehouse": {"crash", "unwritable"},
    }
    for room in ROOMS:
        modules = {file.stem for file in (PACKAGE / room).glob("*.py")}
        tests = {file.stem.removeprefix("test_") for file in (TESTS / room).glob("test_*.py")}
        assert tests - modules == of_a_room.get(room, set()), room
        assert tests
    flat = {file.stem.removeprefix("test_") for file in TESTS.glob("test_*.py")}
    of_all = {"faults", "hostile", "install", "quarter", "readme", "schedule", "structure", "suite"}
    assert flat - {file.stem.strip("_") for file in PACKAGE.glob("*.py")} == of_all
