"""Installation: the package has its SQL, runs from any folder, names its own commands."""

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
# The dependencies are installed already: pip must download nothing.
OFFLINE = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
# A fake Python for make. The files `fail` and `pause` in its folder make it fail or wait.
PYTHON = """#!/bin/sh
case "$*" in
-V) echo "Python 3.11.7" ;;
"-m venv --clear .venv")
    rm -rf .venv; mkdir -p .venv/bin .venv/lib/python3.11; cp "$0" .venv/bin/python
    touch .venv/has-pip; echo venv >> told ;;
"-m pip --version") test -e .venv/has-pip ;;
"-m pip install "*)
    if test -e fail; then echo "ERROR: no such package" >&2; exit 1; fi
    if test -p pause; then cat pause; fi
    case "$*" in *--quiet*) ;; *) echo "Collecting" ;; esac
    for last do :; done; case "$last" in *.lock) echo "$last" ;; *) echo editable ;; esac >> told ;;
esac
"""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which `pip install` has put this checkout."""
    folder = tmp_path_factory.mktemp("installed") / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", *OFFLINE, "--target"]
    subprocess.run([*install, folder, REPOSITORY], check=True)
    return folder


@pytest.fixture
def installed(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Runs the installed script in an empty folder; returns exit code, stdout and stderr."""
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


def test_another_package_of_that_name_does_not_shadow_ours(
    installed: Callable[..., tuple[int, str, str]],
    site: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "theirs" / "pipelines").mkdir(parents=True)
    (tmp_path / "theirs" / "pipelines" / "__init__.py").write_text("raise SystemExit('theirs')")
    (tmp_path / "theirs" / "pipelines" / "__main__.py").write_text("raise SystemExit('theirs')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path / 'theirs'}{os.pathsep}{site}")
    assert installed("--version") == (0, f"verify-sync {release()}\n", "")


def locked(name: str) -> set[str]:
    """The requirements of a lock file: names, versions and markers."""
    return set((REPOSITORY / name).read_text(encoding="utf-8").splitlines())


def test_what_runs_is_installed_without_what_lints_and_tests() -> None:
    """Both lock files have the same versions, because the second is installed over the first."""
    runs, all_of_it = locked("requirements.lock"), locked("requirements-dev.lock")
    only_dev = {
        "hypothesis",
        "import-linter",
        "mypy",
        "nox",
        "pytest",
        "ruff",
        "sqlfluff",
        "twilio",
    }
    assert only_dev <= {line.partition("==")[0] for line in all_of_it}
    assert not only_dev & {line.partition("==")[0] for line in runs}
    assert {line.partition(" ;")[0] for line in runs} <= {
        line.partition(" ;")[0] for line in all_of_it
    }


class Checkout:
    """A folder that make sets up with a fake Python, which records its steps in the file `told`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("Makefile", "pyproject.toml", "requirements.lock", "requirements-dev.lock"):
            shutil.copy(REPOSITORY / name, folder)
        python = folder / "python"
        python.write_text(PYTHON, encoding="utf-8")
        python.chmod(0o755)

    def start(self, target: str) -> subprocess.Popen[str]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        environment["PYTHON"] = f"{self.folder}/python".replace(" ", "\\ ")
        return subprocess.Popen(
            ["make", target], cwd=self.folder, env=environment, text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip

    def make(self, target: str = ".venv/ready") -> tuple[int, str, list[str]]:
        """Runs make; returns its exit code, its stderr and Python's steps, in short."""
        (self.folder / "told").write_text("")
        running = self.start(target)
        _, complaints = running.communicate()
        return running.returncode, complaints, self.told()

    def told(self) -> list[str]:
        return (self.folder / "told").read_text().split()

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A checkout that make has set up."""
    checkout = Checkout(tmp_path)
    code, progress, told = checkout.make(".venv/ready-dev")
    assert (code, told) == (0, ["venv", "requirements.lock", "editable", "requirements-dev.lock"])
    assert progress.count("Collecting") == 2  # pip is not silent
    (checkout.venv / "mark").touch()
    return checkout


def test_it_is_set_up_once(checkout: Checkout) -> None:
    for target in (".venv/ready", ".venv/ready-dev"):
        assert checkout.make(target)[::2] == (0, [])
    assert "install" not in planned(checkout.folder, "sync")


def test_only_what_has_changed_is_installed(checkout: Checkout) -> None:
    later = time.time() + 60
    os.utime(checkout.folder / "requirements-dev.lock", (later, later))
    assert checkout.make() == (0, "", [])
    assert checkout.make(".venv/ready-dev")[::2] == (0, ["requirements-dev.lock"])
    assert (checkout.venv / "mark").exists()


def test_one_that_was_moved_is_set_up_anew(checkout: Checkout) -> None:
    moved = Checkout(checkout.folder.rename(checkout.folder.with_name("moved to here")))
    assert moved.make()[::2] == (0, ["venv", "requirements.lock", "editable"])
    assert not (moved.venv / "mark").exists()
    assert moved.make() == (0, "", [])


def test_another_name_of_the_same_place_is_no_move(checkout: Checkout) -> None:
    link = checkout.folder.with_name("link")
    link.symlink_to(checkout.folder)
    assert "install" not in planned(link, "sync")
    # The shell's PWD is the link, not the folder.
    command = f"cd '{link}' && make --dry-run sync"
    told = subprocess.run(command, shell=True, capture_output=True, text=True, check=True).stdout
    assert "install" not in told


@pytest.mark.parametrize("harm", ["gone", "another"])
def test_one_whose_python_is_gone_is_set_up_anew(checkout: Checkout, harm: str) -> None:
    python = checkout.venv / "bin" / "python"
    if harm == "gone":
        python.unlink()
        python.symlink_to("/no/such/python")
    else:  # as an upgrade of the system leaves it
        python.write_text(PYTHON.replace("3.11", "3.12"), encoding="utf-8")
    assert checkout.make()[::2] == (0, ["venv", "requirements.lock", "editable"])
    assert not (checkout.venv / "mark").exists()


def test_one_whose_set_up_was_interrupted_is_set_up_to_its_end(checkout: Checkout) -> None:
    (checkout.venv / "ready").unlink()
    assert checkout.make()[::2] == (0, ["requirements.lock", "editable"])
    assert (checkout.venv / "mark").exists()
    (checkout.venv / "ready").unlink()
    (checkout.venv / "has-pip").unlink()
    assert checkout.make()[::2] == (0, ["venv", "requirements.lock", "editable"])


def test_a_set_up_that_fails_says_why_and_is_tried_again(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    (tmp_path / "fail").touch()
    for _ in range(2):
        code, complaints, _ = checkout.make()
        assert code != 0
        assert "no such package" in complaints
    (tmp_path / "fail").unlink()
    assert checkout.make()[::2] == (0, ["requirements.lock", "editable"])


@pytest.mark.skipif(shutil.which("flock") is None, reason="flock is not installed")
def test_of_two_at_once_one_waits_and_finds_nothing_to_do(tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    pause = tmp_path / "pause"
    os.mkfifo(pause)
    (tmp_path / "told").touch()
    with (
        checkout.start(".venv/ready") as one,
        pause.open("w") as paused,  # opens when the first make installs
        checkout.start(".venv/ready") as other,
    ):
        assert other.stderr is not None
        assert "waiting" in other.stderr.readline()
        pause.unlink()
        paused.close()
        assert (one.wait(), other.wait()) == (0, 0)
    assert checkout.told() == ["venv", "requirements.lock", "editable"]


def planned(folder: Path, target: str) -> str:
    """The commands that make would run."""
    command = ["make", "--dry-run", target]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True
    ).stdout
