"""`sql`: the published file for people and for machines."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess

import pytest

from pipelines.__main__ import main
from tests import nursery
from tests.worlds import REPOSITORY, Capture, World, refused


@pytest.mark.usefixtures("synced")
def test_wrong_sql_is_one_line(configured: World, capsys: Capture) -> None:
    capsys.readouterr()
    code, line = refused(capsys, "sql", "from daily_convesion")
    assert code == 2
    assert "daily_conversion" in line  # DuckDB's suggestion
    code, line = refused(capsys, "sql", "create table mine (a int)")
    assert (code, "read-only" in line) == (2, True)


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
