"""`sql`: queries on the published file, for people and for programs."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from pathlib import Path

import psutil
import pytest

from pipelines.__main__ import main
from pipelines.commands import sql
from tests import nursery
from tests.clocks import wait_until
from tests.terminal import Terminal
from tests.worlds import REPOSITORY, Capture, World, refused


@pytest.mark.usefixtures("synced")
def test_wrong_sql_is_one_line(configured: World, capsys: Capture) -> None:
    capsys.readouterr()
    code, line = refused(capsys, "sql", "from daily_convesion")
    assert code == 2
    assert "daily_conversion" in line  # DuckDB's suggestion
    code, line = refused(capsys, "sql", "create table mine (a int)")
    assert (code, "read-only" in line) == (2, True)


@pytest.mark.parametrize(
    "statement",
    [
        "copy (select 1) to '{other}'",
        "from read_text('{other}')",
        "from '{other}'",
        "from glob('{other}')",
        "attach '{other}'",
        "export database '{other}'",
        "load '{other}'",
        "install httpfs",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "set autoinstall_known_extensions = true",
    ],
)
@pytest.mark.usefixtures("synced")
def test_no_statement_reaches_another_file(
    configured: World, capsys: Capture, tmp_path: Path, statement: str
) -> None:
    other = tmp_path / "other"
    other.mkdir() if "export" in statement else other.write_text("a secret")
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    code, line = refused(capsys, "sql", statement.format(other=other))
    assert code in (1, 2)
    assert "a secret" not in line
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.usefixtures("synced")
def test_a_long_answer_says_how_many_rows_it_has(configured: World, capfd: Capture) -> None:
    capfd.readouterr()
    for columns in ("", ", 'a text that makes it wide' as text"):
        assert main(["sql", f"select i, '? rows' as asked{columns} from range(12345) r(i)"]) == 0
        told = capfd.readouterr().out
        assert "12,345 rows" in told
        assert "200 shown" in told
        assert ">9999" not in told
        assert told.count("? rows") == 200  # the text in the rows is unchanged


@pytest.mark.usefixtures("synced")
def test_sql_prints_for_machines(configured: World, capfd: Capture) -> None:
    capfd.readouterr()
    query = (
        "select attempt_sid, price, created_at, channel, cast(null as varchar) as nothing"
        " from verification_attempts where price is not null order by 1 limit 3"
    )
    main(["sql", query, "--format", "json"])
    records = json.loads(capfd.readouterr().out)
    main(["sql", query, "--format", "csv"])
    lines = list(csv.DictReader(io.StringIO(capfd.readouterr().out)))
    assert len(records) == len(lines) == 3
    for record, line in zip(records, lines, strict=True):
        assert record["price"] == line["price"]  # exact, as text
        assert record["created_at"].endswith("+00:00")
        assert (record["nothing"], line["nothing"]) == (None, "")


@pytest.mark.usefixtures("synced")
def test_json_says_nothing_that_json_cannot(configured: World, capfd: Capture) -> None:
    capfd.readouterr()
    main(["sql", "select 'nan'::double as n, [1, 2] as list, true as yes", "--format", "json"])
    assert json.loads(capfd.readouterr().out) == [{"n": None, "list": [1, 2], "yes": True}]
    main(["sql", "select true as yes, {'a': 'b'} as pair", "--format", "csv"])
    assert list(csv.reader(io.StringIO(capfd.readouterr().out)))[1] == ["true", '{"a": "b"}']
    maps = "select map {date '2026-11-01': 0.5} as map, [1.0, 'nan'::double, null] as list"
    main(["sql", maps, "--format", "json"])
    expected = {"map": {"2026-11-01": "0.5"}, "list": [1.0, None, None]}
    assert json.loads(capfd.readouterr().out) == [expected]
    main(["sql", maps, "--format", "csv"])
    assert list(csv.reader(io.StringIO(capfd.readouterr().out)))[1] == [
        json.dumps(value) for value in expected.values()
    ]
    ages = "select interval '1 hour' as age, [interval '500 ms'] as ages, null::interval as none"
    main(["sql", ages, "--format", "json"])
    assert json.loads(capfd.readouterr().out) == [{"age": 3600, "ages": [0.5], "none": None}]
    main(["sql", ages, "--format", "csv"])
    assert capfd.readouterr().out == "age,ages,none\n3600.0,[0.5],\n"
    assert main(["sql", "select 1 as a, 2 as a", "--format", "json"]) == 2


@pytest.mark.parametrize("style", ["table", "csv", "json"])
@pytest.mark.usefixtures("synced")
def test_every_statement_of_standard_input_is_answered(configured: World, style: str) -> None:
    text = "select 40 +\n2 as answer; select 'é;' as semi; -- no; end\nselect 'one' || 'two'"
    told = nursery.run("pipelines", ("sql", "--format", style), dict(os.environ), text)
    assert told.returncode == 0, told.stderr
    for text in ("42", "answer", "semi", ";", "onetwo"):
        assert text in told.stdout
    assert "verify>" not in told.stdout
    assert ("┌" in told.stdout) == (style == "table")


@pytest.mark.usefixtures("synced")
def test_a_table_in_a_file_has_every_column(configured: World, capfd: Capture) -> None:
    names = configured.query(
        "select column_name as name from duckdb_columns() where table_name = 'pumping_suspects'"
    )
    capfd.readouterr()
    assert main(["sql", "from pumping_suspects"]) == 0
    told = capfd.readouterr().out
    assert all(column["name"] in told for column in names)


def test_make_leaves_a_query_as_it_was_typed() -> None:
    query = "select 'a' ~ '^a$', $(nothing), $$b$$, \"c\" -- # d"
    show = ["make", "-s", "--eval", "show: ; @printenv QUERY", "show"]
    for given, environment in ([f"QUERY={query}"], {}), ([], {"QUERY": query}):
        told = subprocess.run(
            [*show, *given], cwd=REPOSITORY, env={**os.environ, **environment},
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert told.stdout == f"{query}\n"


@pytest.mark.usefixtures("synced")
def test_several_statements_in_one_query(configured: World, capfd: Capture) -> None:
    capfd.readouterr()
    assert main(["sql", "select 17 as a; select 23 as b"]) == 0
    told = capfd.readouterr().out
    assert "17" in told
    assert "23" in told


PROMPT = "verify D"


def prompts(screen: str) -> int:
    return screen.count(PROMPT)


def begin(terminal: Terminal) -> None:
    """Waits for the prompt. Ctrl-C then discards the terminal's reply about its colours, which a
    slow machine gives too late."""
    terminal.shows(PROMPT)
    terminal.type("\x03")
    terminal.waits(lambda screen: prompts(screen) == 2 and screen.endswith(PROMPT))


def enter(terminal: Terminal, keys: str) -> str:
    """Types `keys` and Enter, waits for the next prompt, and returns the answer. Without the wait,
    keys typed before the prompt is back are lost."""
    asked = prompts(terminal.screen)
    terminal.type(keys + "\r")
    screen = terminal.waits(lambda now: prompts(now) > asked and now.endswith(PROMPT))
    return screen.split(PROMPT)[asked]


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (0, 0)], ids=["24 x 80", "no size"])
@pytest.mark.usefixtures("synced")
def test_the_prompt_in_a_terminal(
    configured: World, tmp_path: Path, rows: int, columns: int
) -> None:
    with Terminal("sql", rows=rows, columns=columns, HOME=str(tmp_path), TZ="America/Bogota") as t:
        begin(t)
        assert t.process.getwinsize() == (24, 80)
        assert "│     42 │" in enter(t, "select 6 * 7 as answer;")
        t.type("\x1b[A")  # arrow up: the history
        t.waits(lambda screen: screen.endswith(f"{PROMPT} select 6 * 7 as answer;"))
        left, back = "\x1b[D", "\x7f"
        assert "│     48 │" in enter(t, left * len(" as answer;") + back + "8")
        tables = enter(t, ".tables")
        assert "daily_conversion" in tables
        assert "rejected_attempts" in tables
        assert all(len(line) <= 80 for line in tables.splitlines())
        assert "daily_convesion does not exist" in enter(t, "from daily_convesion;")
        assert "│          43 │" in enter(t, "select 40 + 3 as after_error;")
        # UTC, whatever the machine's zone is
        assert "│ UTC" in enter(t, "select current_setting('TimeZone');")
        t.type("\x04")
        t.ends()


@pytest.mark.usefixtures("synced")
def test_ctrl_c_ends_a_query_and_not_the_prompt(configured: World, tmp_path: Path) -> None:
    with Terminal("sql", HOME=str(tmp_path)) as t:
        begin(t)
        shell = psutil.Process(t.process.pid)
        begun = shell.cpu_times().user
        t.type("select count(*) from range(1000000000) a, range(1000000) b;\r")
        wait_until(lambda: shell.cpu_times().user > begun + 0.5)  # the query is running
        t.type("\x03")
        t.waits(lambda screen: prompts(screen) == 3)
        assert "│       44 │" in enter(t, "select 40 + 4 as after_it;")
        t.type("\x04")
        t.ends()


@pytest.mark.usefixtures("synced")
def test_the_prompt_is_closed_to_other_files(configured: World, tmp_path: Path) -> None:
    (tmp_path / ".duckdbrc").write_text("select 'of the user' as read;\n.shell touch shelled\n")
    other = tmp_path / "other"
    attempts = {
        f"copy (select 1) to '{other}';": "Permission Error",
        f"from read_text('{tmp_path / '.duckdbrc'}');": "Permission Error",
        "set enable_external_access = true;": "the configuration has been locked",
        f".once {other}": "cannot be used in -safe mode",
        f".shell touch {other}": "cannot be used in -safe mode",
        f".open {other}": "cannot be used in -safe mode",
        "create table mine as select 1;": "read-only",
    }
    before = set(tmp_path.rglob("*"))
    with Terminal("sql", HOME=str(tmp_path), columns=200) as t:
        begin(t)
        for line, refusal in attempts.items():
            assert refusal in enter(t, line).replace("\n", " "), line
        enter(t, ".maxrows 1000")
        assert "│   999 │" in enter(t, "from range(1000);")  # a pager would wait for a key
        t.type("\x04")
        t.ends()
        assert "of the user" not in t.screen
    assert {path.name for path in {*tmp_path.rglob("*")} - before} <= {".duckdb_history"}


@pytest.mark.usefixtures("synced")
def test_a_dumb_terminal_is_not_asked_for_its_background(configured: World, tmp_path: Path) -> None:
    with Terminal("sql", HOME=str(tmp_path), TERM="dumb") as t:
        t.type("select 6 * 7 as answer;\n\x04")
        assert t.ends() == 0
        assert "│     42 │" in t.screen
        assert "background" not in t.screen


@pytest.mark.usefixtures("synced")
def test_without_the_shell_a_line_says_so(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr(sql, "find_spec", lambda _: None)
    capsys.readouterr()
    code, line = refused(capsys, "sql")
    assert code == 1
    assert "duckdb-cli" in line
    assert 'make sql QUERY="from daily_conversion limit 5"' in line


def test_a_prompt_on_nothing_says_what_to_do(configured: World) -> None:
    with Terminal("sql") as t:
        assert t.ends() == 1
        assert "verify.duckdb is missing" in t.screen.replace("\n", "")
