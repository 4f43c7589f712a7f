"""Runs the tests on each Python that verify-sync supports and this machine has.

`make test-pythons` uses all of them, `make test-pythons ARGS="-s ends"` the lowest and highest.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nox

REPOSITORY = Path(__file__).resolve().parents[1]
PYTHONS = re.findall(
    r"Python :: (3\.\d+)", (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
)
nox.options.sessions = ["tests"]
nox.options.error_on_missing_interpreters = False
nox.options.stop_on_first_error = False
nox.options.envdir = str(REPOSITORY / ".nox")


def pyenv() -> list[str]:
    """Folders of pyenv's interpreters. pyenv's shims start only the selected version."""
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()
    return [str(folder) for version in PYTHONS for folder in root.glob(f"versions/{version}.*/bin")]


path = os.environ["PATH"].split(os.pathsep)
os.environ["PATH"] = os.pathsep.join([*pyenv(), *(f for f in path if not f.endswith("/shims"))])
FOUND = [version for version in PYTHONS if shutil.which(f"python{version}")]


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """One session per Python. nox ends with a table of the results."""
    session.install("--quiet", "-r", str(REPOSITORY / "requirements-dev.lock"))
    session.install("--quiet", "--no-deps", "--no-build-isolation", "--editable", str(REPOSITORY))
    session.chdir(REPOSITORY)
    session.run("python", "--version")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session(python=FOUND[:1])
def reader(session: nox.Session) -> None:
    """The oldest DuckDB that published files are promised to open in reads every relation."""
    folder = session.create_tmp()
    session.install("--quiet", "-r", str(REPOSITORY / "requirements.lock"))
    session.install("--quiet", "--no-deps", "--no-build-isolation", "--editable", str(REPOSITORY))
    session.run("verify-sync", "demo", env={"WAREHOUSE__DIR": folder}, silent=True)
    session.install("--quiet", "duckdb==1.3.0", "pandas==2.3.3")
    session.run("python", str(REPOSITORY / "tests" / "reader.py"), f"{folder}/demo/verify.duckdb")


@nox.session(python=False)
def ends(session: nox.Session) -> None:
    """Only the lowest and the highest Python, and the oldest reader."""
    for version in dict.fromkeys([*FOUND[:1], *FOUND[-1:]]):
        session.notify(f"tests-{version}")
    for version in FOUND[:1]:
        session.notify(f"reader-{version}")
