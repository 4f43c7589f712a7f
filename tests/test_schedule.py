"""The schedules of the READMEs, run as cron and systemd would, and the table of intervals."""

from __future__ import annotations

import configparser
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests import intervals
from tests.test_readme import BENCH, PIPELINES, README
from tests.worlds import PACELESS, REPOSITORY, World

MakeWorld = Callable[..., World]
PLACE = "/srv/verify-sync"
CRONTAB = re.findall(r"```cron\n(.*?)```", README, re.DOTALL)[0].splitlines()
UNITS = dict(re.findall(r"```ini\n# /etc/systemd/system/(\S+)\n(.*?)```", PIPELINES, re.DOTALL))
FIELDS = re.compile(r"(\d+|\*) (\d+|\*) \* \* \* (/\S.*)")
MAKE = re.search(r"`(make --silent -C /srv/verify-sync .*?)`", PIPELINES)
# What `pip install --editable` makes, of this copy.
SCRIPT = """#!{python}
import sys
sys.path.insert(0, {place!r})
from pipelines.__main__ import entry
entry()
"""


@pytest.fixture
def installed(make_world: MakeWorld, tmp_path: Path) -> World:
    """A checkout in another folder, set up and configured by files. Its clock is the real one."""
    world = make_world(attempts=300, now=datetime.now(timezone.utc))
    world.sandbox.now = time.time
    place = tmp_path / "srv"
    for name in ("pipelines", "sql"):
        shutil.copytree(REPOSITORY / name, place / name, ignore=shutil.ignore_patterns("__pyc*"))
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(REPOSITORY / name, place)
    script = place / ".venv" / "bin" / "verify-sync"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT.format(python=sys.executable, place=str(place)))
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    (script.parent / "python").symlink_to(sys.executable)
    (place / ".venv" / "lib" / "python{}.{}".format(*sys.version_info)).mkdir(parents=True)
    (place / ".venv" / "ready").write_text(f"{place}\n")
    (place / ".dlt").mkdir()
    (place / ".dlt" / "config.toml").write_text(
        f'[sources.twilio_verify]\nbase_url = "{world.sandbox.url}"\n'
        f"requests_per_minute = {PACELESS}\n"
    )
    configure(world, world.sandbox.auth_token)
    return world


def place_of(world: World) -> Path:
    return world.settings.directory.parent / "srv"


def configure(world: World, token: str) -> None:
    secrets = place_of(world) / ".dlt" / "secrets.toml"
    secrets.write_text(
        f'[sources.twilio_verify]\naccount_sid = "{world.sandbox.account_sid}"\n'
        f'auth_token = "{token}"\n'
    )


def as_cron_does(world: World, command: str) -> subprocess.CompletedProcess[str]:
    """Runs `command` like cron: /bin/sh, the home directory, the four variables that cron sets."""
    home = world.settings.directory.parent / "home"
    if not home.exists():
        (home.with_name("homes") / ".dlt").mkdir(parents=True)  # like a user of other dlt pipelines
        home.symlink_to("homes")
    return subprocess.run(
        ["/bin/sh", "-c", command.replace(PLACE, str(place_of(world)))],
        cwd=home, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        env={"HOME": str(home), "LOGNAME": "root", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"},
    )  # fmt: skip


def test_the_crontab_as_cron_runs_it(installed: World) -> None:
    commands = [FIELDS.fullmatch(line)[3] for line in CRONTAB]  # type: ignore[index]
    assert [command.split()[1] for command in commands] == ["sync", "reconcile"]
    assert not any("%" in command for command in commands)  # cron replaces % by a line break
    assert MAKE is not None
    before = {path.name for path in place_of(installed).parent.iterdir()}
    for command in [*commands, MAKE[1]]:
        told = as_cron_does(installed, command)
        assert (told.returncode, told.stdout, told.stderr) == (0, "", ""), command
    assert {p.name for p in place_of(installed).parent.iterdir()} == before | {"home", "homes"}
    warehouse = replace(installed.settings, directory=place_of(installed) / "warehouse")
    synced = World(installed.sandbox, warehouse, installed.now)
    assert synced.stored().keys() >= installed.truth().keys()
    done = synced.query("select command, outcome from sync_history order by started_at")
    assert [(run["command"], run["outcome"]) for run in done][:2] == [
        ("sync", "done"), ("reconcile", "done")
    ]  # fmt: skip
    configure(installed, "a-wrong-token")
    told = as_cron_does(installed, commands[0])
    assert (told.returncode, told.stdout, told.stderr.count("\n")) == (2, "", 1)
    assert "Twilio answered 401" in told.stderr


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="there is no systemd")
def test_the_units_are_what_systemd_understands(installed: World, tmp_path: Path) -> None:
    assert sorted(UNITS) == ["verify-sync.service", "verify-sync.timer"]
    for name, text in UNITS.items():
        (tmp_path / name).write_text(text.replace(PLACE, str(place_of(installed))))
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    ours = [line for line in told.stderr.splitlines() if "verify-sync" in line]
    assert (told.returncode, ours) == (0, [])
    wrong = UNITS["verify-sync.timer"].replace(
        "*-*-*", "hourlyish"
    )  # proves that the check can fail
    (tmp_path / "verify-sync.timer").write_text(wrong)
    told = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / "verify-sync.timer")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "OnCalendar" in told.stderr or told.returncode


def test_the_service_does_what_its_unit_says(installed: World) -> None:
    """Runs in systemd's minimal environment, from the root folder."""
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNITS["verify-sync.service"])
    command = unit["Service"]["ExecStart"].replace(PLACE, str(place_of(installed))).split()
    told = subprocess.run(
        command, cwd="/", env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (told.returncode, told.stderr) == (0, "")
    assert re.fullmatch(r"read [\d,]+ attempts in \d slices? with .*verify\.duckdb\n", told.stdout)


def test_the_table_of_intervals_is_the_planners() -> None:
    assert "\n".join(intervals.table()) in BENCH
