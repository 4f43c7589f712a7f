"""The SQL stays within what other engines take, and other programs can read every relation."""

from __future__ import annotations

import duckdb
import polars
import pytest

from tests.portable import files, main, problems_of
from tests.worlds import World

RELATIONS = """
    select schema_name || '.' || view_name from duckdb_views() where not internal
    union all
    select schema_name || '.' || table_name from duckdb_tables()
"""


def test_the_sql_is_portable(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0, capsys.readouterr().err
    assert len(files()) > 25


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("comment on view x is 'a '\n'b'", "adjacent literals"),
        ("select timezone('UTC', a) from t", "timezone()"),
        ("select a where contains(a, 'b')", "contains()"),
        ("select left(a, -4) from t", "left()"),
        ("select last_value(a ignore nulls) over () from t", "ignore nulls"),
        ("select list(a order by b) from t", "an ordered list"),
        ("select a[1] from t", "a list index"),
        ("select unnest(a) from t", "unnest()"),
        ("select arg_max(a, b) from t", "arg_max()"),
        ("select any_value(a) from t", "any_value()"),
        ("select round(a, 9) from t", "round()"),
        ("with t as (select 1 as a) select a + 1 as b, b + 1 as c from t", "a lateral alias, b"),
        ("select count(*) filter (where a > (1)) over () from t", "filter over"),
        ("select a::date from t", "`::`"),
        ("select x from t unpivot (x for y in (columns(*)))", "unpivot"),
        ("select to_seconds(a) from t", "to_seconds()"),
        ("select from where", "not parsed"),
    ],
)
def test_what_other_engines_read_differently_is_refused(sql: str, told: str) -> None:
    assert any(problem.startswith(told) for problem in problems_of(sql)), [*problems_of(sql)]


@pytest.mark.parametrize(
    "sql",
    [
        "with t as (select 1 as a) select a as b, a + 1 as c from t",
        "select 'contains(a, b)' as a -- left(a, 4)\nfrom t",
        "select count(*) filter (where a > 1) as n, sum(b) over () as m from t group by b",
        "select cast(a at time zone 'UTC' as date) as day from t",
    ],
)
def test_what_they_all_take_is_not_refused(sql: str) -> None:
    assert [*problems_of(sql)] == []


def test_every_relation_can_be_read_by_other_libraries(synced: World) -> None:
    with duckdb.connect(str(synced.settings.published), read_only=True) as connection:
        connection.execute("set timezone = 'UTC'")
        names = [name for (name,) in connection.execute(RELATIONS).fetchall()]
        assert len(names) > 25
        for name in names:
            (rows,) = connection.execute(f"select count(*) from {name}").fetchall()[0]
            frame = connection.cursor().sql(f"from {name}").pl()
            table = connection.cursor().sql(f"from {name}").to_arrow_table()
            assert isinstance(frame, polars.DataFrame)
            assert (frame.height, table.num_rows) == (rows, rows), name
