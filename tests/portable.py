"""Refuses SQL in `sql/` that other engines read differently from DuckDB, or not at all.

`python -m tests.portable` names file and construct of each, and exits with 1 if there are any. What
has no common spelling, such as try_cast, getvariable and epoch_us, is not refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import sqlglot
from sqlglot import exp

from pipelines.settings import Settings
from pipelines.warehouse.checks import check_files
from pipelines.warehouse.views import create_views, sql_folder, view_files
from tests.worlds import in_memory

REFUSED = {
    "contains": "like '%…%'",
    "left": "substring",
    "right": "substring",
    "timezone": "at time zone",
    "last_value": "max of the number, joined back",
    "first": "row_number",
    "any_value": "max",
    "arg_max": "row_number",
    "arg_min": "row_number",
    "unnest": "a join on distinct numbers",
    "generate_series": "row_number",
    "generate_subscripts": "row_number",
    "struct_pack": "row_number",
    "round": "a cast to decimal and back",
    "to_seconds": "a number of seconds",
    "to_microseconds": "a number of seconds",
    "epoch": "epoch_us",
    "list_distinct": "count(distinct …)",
    "len": "count",
}
_FILTER_OVER = r"(?i)\bfilter\s*\([^()]*(\([^()]*\)[^()]*)*\)\s*over\b"
_WORDS = re.compile(r"'(?:[^']|'')*'|--[^\n]*")


def problems_of(text: str) -> Iterator[str]:
    """Yields each construct of the SQL that must be written differently."""
    if re.search(r"'\s*\n\s*'", re.sub(r"--[^\n]*", "", text)):
        yield "adjacent literals: write one"
    bare = _WORDS.sub("''", text)  # no word of a comment or literal is SQL
    for name in set(re.findall(r"\b(\w+)\s*\(", bare)):
        if name.lower() in REFUSED:
            yield f"{name}(): write {REFUSED[name.lower()]}"
    for pattern, told in (
        (r"::", "`::`: write cast"),
        (r"(?i)\bignore nulls\b", "ignore nulls: write max of the number, joined back"),
        (r"(?i)\bunpivot\b", "unpivot: write union all"),
        (r"(?i)\bcolumns\s*\(", "columns(): name them"),
        (r"\w\[|\)\[", "a list index: write max(…) filter"),
        (_FILTER_OVER, "filter over: write sum(case …)"),
    ):
        if re.search(pattern, bare):
            yield told
    try:
        statements = sqlglot.parse(text, dialect="duckdb")
    except sqlglot.ParseError as error:
        yield f"not parsed: {str(error).splitlines()[0]}"
        return
    for statement in statements:
        if isinstance(statement, exp.Command):
            yield f"not parsed: {statement.sql()[:60]}"
        elif statement is not None:
            yield from _in_tree(statement)


def _in_tree(statement: exp.Expression) -> Iterator[str]:
    for select in statement.find_all(exp.Select):
        names = {alias.alias for alias in select.expressions if isinstance(alias, exp.Alias)}
        for alias in select.expressions:
            for column in alias.find_all(exp.Column):
                is_own = column.find_ancestor(exp.Select) is select and not column.table
                may_be = is_own and column.name in names - {alias.alias}
                if may_be and not _is_of_source(select, column.name):
                    yield f"a lateral alias, {column.name}: write one more query"
    for lists in statement.find_all(exp.ArrayAgg):
        if isinstance(lists.this, exp.Order):
            yield "an ordered list: write a window"


def _is_of_source(select: exp.Select, name: str) -> bool:
    """Whether the name is a column of what the query reads; of a view, as far as it is known."""
    ctes = {cte.alias: cte.this.named_selects for cte in select.root().find_all(exp.CTE)}
    for source in select.find_all(exp.Table, exp.Subquery):
        if isinstance(source, exp.Subquery):
            columns = source.this.named_selects
        else:
            columns = ctes.get(source.name, _columns().get(source.name, []))
        if name in columns:
            return True
    return False


@cache
def _columns() -> dict[str, list[str]]:
    """The columns of each table and view of a warehouse."""
    with in_memory() as connection:
        create_views(connection, Settings(directory=Path()))
        found = connection.execute(
            "select table_name, list(column_name) from duckdb_columns() group by table_name"
        )
        return dict(found.fetchall())


def files() -> list[Path]:
    return [sql_folder() / "settings.sql", *view_files(), *check_files()]


def main() -> int:
    found = [(file, told) for file in files() for told in problems_of(file.read_text("utf-8"))]
    for file, told in found:
        print(f"{file}: {told}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
