"""An installed package is whole: it has its SQL, runs from any folder, names its own commands."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path

import pytest

from pipelines import release
from tests.worlds import REPOSITORY, World, environment_of

MakeWorld = Callable[..., World]
# What it needs is there: nothing is fetched.
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
MAKES_READY = "-m venv .venv"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip puts what `pip install .` makes of a checkout."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", *OFFLINE, "--target"]
    subprocess.run([*install, folder, REPOSITORY], check=True)
    return folder


@pytest.fixture
def installed(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs its console script in an empty folder; returns exit code, output and complaints."""
    monkeypatch.delenv("DLT_PROJECT_DIR")
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def run(*argv: str) -> tuple[int, str, str]:
        (tmp_path / "here").mkdir(exist_ok=True)
        command = [sys.executable, site / "bin" / "verify-sync", *argv]
        told = subprocess.run(
            command, cwd=tmp_path / "here", capture_output=True, text=True, check=False
        )
        return told.returncode, told.stdout, told.stderr

    return run


def test_a_package_has_all_of_its_sql_and_no_tests(site: Path) -> None:
    there = {str(file.relative_to(site / "pipelines")) for file in site.rglob("*.sql")}
    assert there == {str(file.relative_to(REPOSITORY)) for file in REPOSITORY.glob("sql/**/*.sql")}
    assert not (site / "tests").exists()
    code = REPOSITORY / "pipelines"
    modules = {str(file.relative_to(code)) for file in code.rglob("*.py")}
    assert modules == {
        str(file.relative_to(site / "pipelines")) for file in site.glob("pipelines/**/*.py")
    }


def test_it_works_where_it_is_installed(
    installed: Callable[..., tuple[int, str, str]],
    make_world: MakeWorld,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    assert installed("--version") == (0, f"verify-sync {release()}\n", "")
    code, _, error = installed("sql", "from daily_conversion")
    assert (code, "run `verify-sync sync` first" in error, "make " in error) == (1, True, False)
    assert str(tmp_path / "here" / "warehouse") in error
    world = make_world(attempts=300, now=datetime.now(timezone.utc))
    world.sandbox.now = time.time
    for name, value in environment_of(world).items():
        monkeypatch.setenv(name, value)
    assert installed("sync")[0] == 0
    code, answer, _ = installed("sql", "select sum(attempts)::bigint as n from daily_conversion")
    assert (code, str(len(world.stored())) in answer) == (0, True)
    assert installed("check")[0] == 0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One that was set up."""
    for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
        shutil.copy(REPOSITORY / name, tmp_path)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / ".venv" / "ready").write_text(f"{tmp_path}\n")
    (tmp_path / ".venv" / "ready-dev").touch()
    return tmp_path


def planned(checkout: Path, target: str) -> str:
    """What make would do."""
    command = ["make", "--dry-run", target]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        command, cwd=checkout, env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_a_checkout_is_set_up_once(checkout: Path) -> None:
    for target in ("sync", "test", "lint"):
        assert MAKES_READY not in planned(checkout, target)
    shutil.copy(REPOSITORY / "requirements-dev.lock", checkout)
    os.utime(checkout / "requirements-dev.lock", (time.time() + 60, time.time() + 60))
    assert "requirements-dev.lock" in planned(checkout, "test")
    assert "install" not in planned(checkout, "sync")


def test_one_that_was_moved_is_set_up_anew(checkout: Path) -> None:
    moved = checkout.with_name("moved to here")
    checkout.rename(moved)
    told = planned(moved, "sync")
    assert told.index("rm -rf .venv") < told.index(MAKES_READY) < told.index("requirements.lock")


def test_one_whose_python_is_gone_is_set_up_anew(checkout: Path) -> None:
    python = checkout / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python")
    assert "rm -rf .venv" in planned(checkout, "sync")


def test_one_whose_set_up_was_interrupted_is_set_up_anew(checkout: Path) -> None:
    (checkout / ".venv" / "ready").unlink()
    assert "rm -rf .venv" in planned(checkout, "sync")
