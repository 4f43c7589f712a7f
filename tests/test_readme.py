"""The README's promises: each console block is run, and its output is the real one."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.commands import names
from pipelines.sandbox.account import Account
from pipelines.sandbox.server import Sandbox
from pipelines.warehouse.views import view_files
from tests.worlds import PACELESS, PATIENT, REPOSITORY, UNLIMITED, World

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
THEN = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)  # when its output was made
_SECONDS = re.compile(r"\b\d+\.\d s(, of which \d+\.\d s publishing)?")  # said from a second on
_NUMBERS = re.compile(r" *\d+(\.\d+(?= MB))?")


def comparable(command: str, output: str) -> str:
    """Without what depends on the machine: how long it took, and so the edges of what is due."""
    output = _SECONDS.sub("1.0 s", output).strip()
    depends = command.startswith(("make sync", "make backfill", "make status"))
    return _NUMBERS.sub(" 1", output) if depends else output


def console_blocks() -> Iterator[tuple[str, str]]:
    """(command line, output) of every ```console block."""
    for block in re.findall(r"```console\n(.*?)```", README, re.DOTALL):
        command, _, output = block.removeprefix("$ ").partition("\n")
        yield command, output


def answers() -> list[tuple[str, str]]:
    """(query, output) of every ```sql block, whose answer is the ```text block below it."""
    return re.findall(r"```sql\n(.*?)```\n\n```text\n(.*?)```", README, re.DOTALL)


def argv(command: str, environment: pytest.MonkeyPatch) -> list[str]:
    """What the make target runs, as arguments of `main`; variables before it are set."""
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment.setenv(name, value)
    assert words[0] == "make"
    given = dict(word.split("=", 1) for word in words[2:])
    query = [given["QUERY"]] if "QUERY" in given else []
    return [words[1], *shlex.split(given.get("ARGS", "")), *query]


def test_every_output_is_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DLT_PROJECT_DIR", str(tmp_path))
    started = int((THEN - timedelta(days=30)).timestamp())
    account = Account(attempts=20_000, since=started)
    present = [THEN - timedelta(hours=1)]
    with Sandbox(account, now=lambda: present[0].timestamp(), limits=UNLIMITED) as sandbox:
        monkeypatch.setenv("SOURCES__TWILIO_VERIFY__BASE_URL", sandbox.url)
        monkeypatch.setenv("TWILIO_ACCOUNT_SID", sandbox.account_sid)
        monkeypatch.setenv("TWILIO_AUTH_TOKEN", sandbox.auth_token)
        monkeypatch.setenv("SOURCES__TWILIO_VERIFY__REQUESTS_PER_MINUTE", str(PACELESS))
        monkeypatch.setenv("SOURCES__TWILIO_VERIFY__TIMEOUT", str(PATIENT))
        assert main(["sync"], now=present[0]) == 0
        present[0] = THEN
        capfd.readouterr()
        told = 0
        for command, output in console_blocks():
            with monkeypatch.context() as environment:
                assert main(argv(command, environment), now=THEN) == 0
            real = capfd.readouterr().out
            assert comparable(command, real) == comparable(command, output), command
            told += 1
        assert told >= 4
        monkeypatch.setenv("WAREHOUSE__DIR", "warehouse/demo")
        for query, output in answers():
            assert main(["sql", query], now=THEN) == 0, query
            assert capfd.readouterr().out.strip() == output.strip(), query
            assert query.count("\n") <= 4, query
    assert len(answers()) == 15


def test_the_figures_it_quotes_are_what_the_bench_found() -> None:
    found = (REPOSITORY / "tests" / "bench" / "results.txt").read_text(encoding="utf-8")
    *_, quoted = re.findall(r"```text\n(.*?)```", README, re.DOTALL)
    lines = [line for line in quoted.splitlines() if line]
    assert len(lines) > 10
    assert set(lines) <= set(found.splitlines())


def test_it_names_every_command_and_every_make_target_it_names_exists() -> None:
    named = set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)?)", README))
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    others = {"test", "test-long", "test-busy", "test-pythons", "lint", "bench"}
    assert {*names(), *others} <= named


@pytest.mark.parametrize("target", names())
def test_a_make_target_runs_the_command_of_its_name(target: str) -> None:
    command = ["make", "-n", target, "ARGS=--some-option", "QUERY=select 1"]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert f"verify-sync {target} --some-option" in told.stdout


def test_the_table_of_views_is_what_the_views_say_of_themselves(world: World) -> None:
    """The same views; of each the same grain as its comment, by columns that tell its rows apart:
    real ones, none of them ever null, no two rows alike in all of them."""
    line = re.compile(r"^\| `(\w+)` \| ([^|]+) \| (`[^|]+`) \| [^|]+\? \|$", re.MULTILINE)
    documented = {
        name: (grain, columns.split(", ")) for name, grain, columns in line.findall(README)
    }
    assert {file.stem for file in view_files()} == set(documented)
    world.sync()
    counts = {}
    for view, (grain, key) in documented.items():
        (file,) = [file for file in view_files() if file.stem == view]
        (comment,) = re.findall(r"comment on view \w+ is\s*'One row per (.*?)';", file.read_text())
        assert comment.startswith(grain), (view, comment)
        columns = ", ".join(key).replace("`", '"')
        is_null = columns.replace(",", " is null or") + " is null"
        (found,) = world.query(
            f"select count(*) as n, count(distinct ({columns})) as apart,"
            f" count(*) filter (where {is_null}) as nulls from {view}"
        )
        assert found["nulls"] == 0, view
        assert found["apart"] == found["n"], view
        counts[view] = found["n"]
    assert sum(n > 1 for n in counts.values()) >= 15, counts  # or it would show nothing


def test_every_setting_is_documented() -> None:
    config = (REPOSITORY / ".dlt" / "example.config.toml").read_text(encoding="utf-8")
    for setting in re.findall(r"^# (\w+) =", config, re.MULTILINE):
        assert f"`{setting}`" in README, setting
