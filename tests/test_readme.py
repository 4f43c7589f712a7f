"""What the READMEs promise: every command is run, and every output is the real one."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from pathlib import Path

import duckdb
import pytest

from pipelines.__main__ import main
from pipelines.commands import names, parser
from pipelines.sandbox.account import Account
from pipelines.sandbox.server import Sandbox
from pipelines.warehouse.views import view_files
from tests.worlds import (
    NOW,
    PACELESS,
    PATIENT,
    REPOSITORY,
    UNLIMITED,
    Capture,
    World,
    environment_of,
)

DOCUMENTS = {
    name: (REPOSITORY / name).read_text(encoding="utf-8")
    for name in (
        "README.md", "sql/README.md", "pipelines/README.md", "tests/bench/README.md",
        "CONTRIBUTING.md",
    )
}  # fmt: skip
README = DOCUMENTS["README.md"]
SQL = DOCUMENTS["sql/README.md"]
PIPELINES = DOCUMENTS["pipelines/README.md"]
BENCH = DOCUMENTS["tests/bench/README.md"]
THEN = datetime(2026, 11, 23, 12, 0, tzinfo=timezone.utc)  # the time at which the outputs were made
_SECONDS = re.compile(r"\b\d+\.\d s(, including \d+\.\d s for publishing)?")
_NUMBERS = re.compile(r" *\d+(\.\d+(?= MB))?")
# Targets that a test cannot run. CI runs some of them; the test only checks them with `make -n`.
OF_MAKE = {"test", "test-long", "test-busy", "test-pythons", "lint", "format", "bench", "clean"}


def comparable(command: str, output: str) -> str:
    """The output without seconds, and without numbers if they depend on the machine."""
    output = _SECONDS.sub("1.0 s", output).strip()
    depends = command.startswith(("make sync", "make backfill", "make status"))
    return _NUMBERS.sub(" 1", output) if depends else output


def fenced(document: str, kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", document, re.DOTALL | re.MULTILINE)


def console_blocks(document: str) -> Iterator[tuple[str, str]]:
    """(command line, output) of every ```console block."""
    for block in fenced(document, "console"):
        command, _, output = block.removeprefix("$ ").partition("\n")
        yield command, output


def answers() -> list[tuple[str, str]]:
    """(query, output) of every ```sql block that has its answer in a ```text block below it."""
    return re.findall(r"```sql\n([^`]*?)```\n\n```text\n(.*?)```", SQL, re.DOTALL)


def commands(document: str) -> list[str]:
    """Every command line: of console and sh blocks, and of code in a sentence."""
    outside = re.sub(r"^```.*?^```", "", document, flags=re.DOTALL | re.MULTILINE)
    spans = re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", outside)
    lines = [
        *(command for command, _ in console_blocks(document)),
        *(
            line.partition(" #")[0].strip()
            for b in fenced(document, "sh")
            for line in b.split("\n")
        ),
        *(line.strip() for line in re.findall(r"^    (\S.*)$", outside, re.MULTILINE)),
        *(" ".join(span.split()) for span in spans),
    ]
    begin = ("make ", "verify-sync ", ".venv/bin/", "WAREHOUSE__DIR=")
    return [*dict.fromkeys(line for line in lines if line.startswith(begin) and " " in line)]


def argv(command: str, environment: pytest.MonkeyPatch) -> list[str]:
    """The arguments of `main` for a command line. Sets the variables that stand before it."""
    words = shlex.split(command)
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        environment.setenv(name, value)
    if words[0] != "make":
        return words[1:]
    words = [word for word in words if word not in ("--silent", "-C", "/srv/verify-sync")]
    given = dict(word.split("=", 1) for word in words[2:])
    query = [given["QUERY"]] if "QUERY" in given else []
    return [words[1], *shlex.split(given.get("ARGS", "")), *query]


@contextmanager
def as_then(
    folder: Path, monkeypatch: pytest.MonkeyPatch, has_demo: bool = True
) -> Iterator[Sandbox]:
    """A folder at THEN, an hour after its first sync, with the environment of an operator."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DLT_PROJECT_DIR", str(folder))
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
        if has_demo:
            assert main(["demo"], now=THEN) == 0
        yield sandbox


@contextmanager
def demo_of(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes the warehouse of `make demo` at THEN the configured one."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DLT_PROJECT_DIR", str(folder))
    assert main(["demo"], now=THEN) == 0
    monkeypatch.setenv("WAREHOUSE__DIR", "warehouse/demo")
    yield


@pytest.mark.parametrize(
    "document", [name for name in DOCUMENTS if "```console" in DOCUMENTS[name]]
)
def test_every_output_is_the_real_one(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    with as_then(tmp_path, monkeypatch, has_demo="$ make demo" not in DOCUMENTS[document]):
        capfd.readouterr()
        for command, output in console_blocks(DOCUMENTS[document]):
            with monkeypatch.context() as environment:
                assert main(argv(command, environment), now=THEN) == 0
            real = capfd.readouterr().out
            assert comparable(command, real) == comparable(command, output), command


def test_every_answer_is_the_real_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    assert len(answers()) == 15
    with demo_of(tmp_path, monkeypatch):
        capfd.readouterr()
        for query, output in answers():
            assert main(["sql", query], now=THEN) == 0, query
            assert capfd.readouterr().out.strip() == output.strip(), query
            assert query.count("\n") <= 4, query


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_runs(
    document: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    ours, others = [], []
    for command in commands(DOCUMENTS[document]):
        with monkeypatch.context() as environment:
            words = argv(command, environment)
        (ours if words and words[0] in names() else others).append(command)
    for command in others:
        run_other(command)
    if not ours:
        return
    with as_then(tmp_path, monkeypatch):
        shutil.copy(tmp_path / "warehouse" / "verify.duckdb", tmp_path / "backup.duckdb")
        for command in ours:
            with monkeypatch.context() as environment:
                words = argv(command, environment)
                # --help ends the process, and a sandbox serves until it is stopped.
                if "--help" in words or words[0] == "sandbox":
                    with suppress(SystemExit):
                        parser().parse_args(words)
                    continue
                environment.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
                assert main(words, now=THEN) == 0, (command, capfd.readouterr().err)


def run_other(command: str) -> None:
    """Checks a program, or a Makefile target that is not a command of verify-sync."""
    words = shlex.split(command)
    if words[0] == ".venv/bin/python":
        assert words[1:] in (["-m", "tests.intervals"], ["-m", "tests.quarter"]) or words[1] == "-c"
        return
    assert words[0] == "make", command
    assert words[1] in OF_MAKE, command
    told = subprocess.run(
        ["make", "-n", *words[1:]], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert told.returncode == 0, told.stderr
    for name in re.findall(r"--only (\w+)", command):
        parts = (REPOSITORY / "tests" / "bench" / "__main__.py").read_text(encoding="utf-8")
        assert f'"{name}": ' in parts, command


def test_the_questions_to_begin_with_have_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    queries = re.findall(r"^\| [^|]+\? \| `(from [^`]+)` \|$", README, re.MULTILINE)
    assert len(queries) == 6
    with demo_of(tmp_path, monkeypatch):
        for query in queries:
            capfd.readouterr()
            assert main(["sql", query, "--format", "csv"]) == 0, query
            assert capfd.readouterr().out.count("\n") > 1, query


def test_it_stays_short_and_says_everything() -> None:
    assert README.count("\n") <= 250
    headings = re.findall(r"^## (.*)$", README, re.MULTILINE)
    assert headings == [
        "Start", "Your own account", "Ask", "On a schedule", "Is it all there?",
        "When something goes wrong", "Configuration", "Where it was run", "Where the rest is",
    ]  # fmt: skip


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    """Each link names an existing file, and a heading in it if it has an anchor."""
    for target in re.findall(r"\]\(([^)]+)\)", DOCUMENTS[document]):
        place, _, heading = target.partition("#")
        file = (REPOSITORY / document).parent / place if place else REPOSITORY / document
        assert file.exists(), target
        if heading:
            heads = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = [re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads]
            assert heading in anchors, target


def test_the_figures_are_what_the_bench_found() -> None:
    found = (REPOSITORY / "tests" / "bench" / "results.txt").read_text(encoding="utf-8")
    _, _, *blocks = fenced(BENCH, "text")  # the first two are planned: test_schedule, test_quarter
    quoted = [line for block in blocks for line in block.splitlines() if line]
    assert len(quoted) > 50
    assert set(quoted) <= set(found.splitlines())


def test_the_readme_names_every_command() -> None:
    assert {*names(), "test", "test-long", "lint"} <= set(re.findall(r"\bmake ([a-z-]+)", README))
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    for name, document in DOCUMENTS.items():
        named = re.findall(r"`make ([a-z][a-z-]*)", document)
        assert {*named} <= {*targets}, name


@pytest.mark.parametrize("target", names())
def test_a_make_target_runs_the_command_of_its_name(target: str) -> None:
    command = ["make", "-n", target, "ARGS=--some-option", "QUERY=select 1"]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert f"verify-sync {target} --some-option" in told.stdout


def test_the_table_of_views_is_what_the_views_say_of_themselves(world: World) -> None:
    """The table has every view, with the grain of its comment. The key columns exist, differ
    between any two rows, and are never null unless their comments say so."""
    line = re.compile(r"^\| `(\w+)` \| ([^|]+) \| (`[^|]+`) \| [^|]+\? \|$", re.MULTILINE)
    documented = {name: (grain, columns.split(", ")) for name, grain, columns in line.findall(SQL)}
    assert {file.stem for file in view_files()} == set(documented)
    assert f"all {len(documented)} views" in README
    world.sync()
    counts = {}
    for view, (grain, key) in documented.items():
        (file,) = [file for file in view_files() if file.stem == view]
        (comment,) = re.findall(
            r"comment on (?:view|table) \w+ is\s*'One row per (.*?)';", file.read_text()
        )
        assert comment.startswith(grain), (view, comment)
        columns = ", ".join(key).replace("`", '"')
        text = file.read_text(encoding="utf-8")
        named = [name.strip("`") for name in key]
        filled = [n for n in named if not re.search(rf"\.{n} is\s*'[^;]*; null ", text)]
        is_null = " or ".join(f'"{name}" is null' for name in filled)
        (found,) = world.query(
            f"select count(*) as n, count(distinct ({columns})) as apart,"
            f" count(*) filter (where {is_null}) as nulls from {view}"
        )
        assert found["nulls"] == 0, view
        assert found["apart"] == found["n"], view
        counts[view] = found["n"]
    assert sum(n > 1 for n in counts.values()) >= 15, counts  # or it would show nothing


def test_the_view_and_the_check_of_ones_own_work(
    configured: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """Tests both ways: a folder of the user, and files added to a checkout."""
    (view,) = [block for block in fenced(SQL, "sql") if "create or replace view" in block]
    (check,) = [block for block in fenced(SQL, "sql") if block.startswith("-- severity")]
    (name,) = re.findall(r"^-- mine/reports/(\w+)\.sql$", view, re.MULTILINE)
    checkout = tmp_path / "checkout"
    shutil.copytree(REPOSITORY / "sql", checkout / "sql")
    for place, folder in (("own", tmp_path / "mine"), ("checkout", checkout / "sql")):
        (folder / "reports").mkdir(parents=True, exist_ok=True)
        (folder / "checks").mkdir(exist_ok=True)
        (folder / "reports" / f"{name}.sql").write_text(view)
        file = folder / "checks" / "many_codes.sql"
        with monkeypatch.context() as change:
            if place == "own":
                change.setenv("WAREHOUSE__SQL", str(folder))
            else:
                change.setattr("pipelines.warehouse.views.sql_folder", lambda: checkout / "sql")
                change.setattr("pipelines.warehouse.checks.sql_folder", lambda: checkout / "sql")
            file.write_text(check)
            assert main(["sync"], now=NOW) == 0
            assert configured.query(f"select * from {name}")
            capsys.readouterr()
            assert main(["check", "--all"], now=NOW) == 0
            assert "ok    many_codes\n" in capsys.readouterr().out
            file.write_text(check.replace("> 1000", "> 0").replace("warn", "fail"))
            assert main(["check", "--all"], now=NOW) == 1
            assert "fail  many_codes, 1," in capsys.readouterr().out
        configured.move(hours=1)


def test_every_setting_is_documented() -> None:
    config = (REPOSITORY / ".dlt" / "example.config.toml").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| .* \| .* \|$", README, re.MULTILINE)
    documented = [name for row in rows for name in re.findall(r"\w+", row)]
    assert sorted(documented) == sorted(re.findall(r"^# (\w+) =", config, re.MULTILINE))


def test_the_source_in_a_pipeline_of_ones_own(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    (program,) = fenced(PIPELINES, "python")
    world = make_world(attempts=300, now=datetime.now(timezone.utc))
    world.sandbox.now = time.time
    program = program.replace("twilio_verify()", f"twilio_verify(base_url='{world.sandbox.url}')")
    credentials = {"ACCOUNT_SID": world.sandbox.account_sid, "AUTH_TOKEN": world.sandbox.auth_token}
    environment = {
        **environment_of(world),
        **{f"SOURCES__TWILIO_VERIFY__{name}": value for name, value in credentials.items()},
        "PATH": os.environ["PATH"], "DLT_DATA_DIR": str(tmp_path), "PYTHONPATH": str(REPOSITORY),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }  # fmt: skip
    told = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    (file,) = tmp_path.glob("*.duckdb")
    with duckdb.connect(str(file), read_only=True) as connection:
        stored = connection.execute("select sid from twilio_verify.attempts").fetchall()
    assert {sid for (sid,) in stored} >= world.truth().keys()
