"""What `no_new_gaps` and `coverage` do for years of windows: counted in rows, not in seconds."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import duckdb

from pipelines.warehouse.checks import check_files
from tests.sql.given import given

# A new window every five minutes, up to NOW. It leaves out five days in every hundred: gaps.
WINDOWS = """
    insert into twilio_verify.windows_read by name
    select
        'a' as filters_hash, '1' as _dlt_load_id, read_at - interval 5 minute as created_after,
        read_at as created_before, read_at
    from (
        select timestamptz '2026-11-20 12:00:00Z' - interval 5 minute * number as read_at, number
        from range({windows}) as numbers (number)
    ) as ticks
    where number % 28800 < 27360
"""
NO_NEW_GAPS = next(file for file in check_files() if file.stem == "no_new_gaps")


def work(database: duckdb.DuckDBPyConnection, query: str, windows: int) -> Counter[str]:
    """The rows that each kind of DuckDB's operators makes, for so many windows."""
    given(database)
    database.execute("delete from twilio_verify.windows_read; delete from twilio_verify._dlt_loads")
    database.execute("insert into twilio_verify._dlt_loads values ('1', 0)")
    database.execute(WINDOWS.format(windows=windows))
    ((_, told),) = database.execute(f"explain (analyze, format json) {query}").fetchall()
    found: Counter[str] = Counter()

    def count(operator: dict[str, Any]) -> None:  # DuckDB 1 and 2 have other names
        kind = operator.get("type") or operator.get("operator_type", "")
        found[kind] += operator.get("intermediate_rows") or operator.get("operator_cardinality", 0)
        for child in operator.get("children", ()):
            count(child)

    for operator in json.loads(told).get("operator") or [json.loads(told)]:
        count(operator)
    return found


def test_the_check_of_new_gaps_orders_no_older_windows(
    database: duckdb.DuckDBPyConnection,
) -> None:
    """Ordering windows one by one is most of the work."""
    query = NO_NEW_GAPS.read_text(encoding="utf-8")
    few, many = (work(database, query, windows) for windows in (20_000, 100_000))
    assert few["WINDOW"] == many["WINDOW"] > 0


def test_coverage_compares_no_day_with_every_window(database: duckdb.DuckDBPyConnection) -> None:
    """Only windows over midnight are joined by ranges: about one a day."""
    days = 100_000 * 5 // (24 * 60)
    found = work(database, "from coverage", 100_000)
    by_range = {kind: rows for kind, rows in found.items() if "JOIN" in kind and "HASH" not in kind}
    # stg_unserved joins each window with the ages, which are four.
    assert sum(by_range.values()) - by_range.get("BLOCKWISE_NL_JOIN", 0) < 5 * days, by_range
