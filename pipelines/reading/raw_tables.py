"""Columns of the raw tables, and SQL for the windows read. Creating tables: warehouse.tables."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # dlt takes a second to import, and most commands do not load
    from dlt.common.schema.typing import TTableSchemaColumns


def _hints(required: str = "", **names_by_type: str) -> TTableSchemaColumns:
    """Column hints: `names_by_type` maps dlt's data types to column names. `required`: not null."""
    columns: Any = {
        name: {"name": name, "data_type": kind, "nullable": name not in required.split()}
        for kind, names in names_by_type.items()
        for name in names.split()
    }
    found: TTableSchemaColumns = columns
    return found


def attempts_columns() -> TTableSchemaColumns:
    """Hints for `columns.ATTEMPTS`, in its order: otherwise dlt would rewrite every table."""
    import pyarrow as pa  # imported here: most callers need only TABLES

    from pipelines.twilio.columns import ATTEMPTS

    columns: TTableSchemaColumns = {}
    for field in ATTEMPTS:
        kind = "timestamp" if pa.types.is_timestamp(field.type) else "text"
        columns |= _hints(required="sid date_created read_at", **{kind: field.name})
    columns["sid"]["primary_key"] = True
    columns["extra"]["data_type"] = "json"
    columns["read_at"]["dedup_sort"] = "desc"  # of duplicates in one load, keep the one read last
    return columns


# The load package that brought this copy of an attempt, and the one that last changed a value of it
# other than `read_at` (empty: before such packages were noted).
LOAD_ID, CHANGED_IN = "_dlt_load_id", "_changed_load_id"
PACKAGES = _hints(text=f"{LOAD_ID} {CHANGED_IN}")

# All raw tables except attempts. The first run creates them, even those that it does not fill.
TABLES: dict[str, TTableSchemaColumns] = {
    "windows_read": _hints(
        text="account_sid filters_hash",
        timestamp="created_after created_before read_at",
        bigint="attempts pages",
        required="account_sid filters_hash created_after created_before read_at",
    ),
    "sync_runs": _hints(
        text="run_id command outcome error",
        timestamp="started_at finished_at",
        bigint="windows requests retries throttled attempts_read attempts_new rejected",
        required="run_id command started_at",
    ),
    "reconciliations": _hints(
        text="run_id filters_hash outcome",
        timestamp="created_after created_before reconciled_at",
        bigint="api_attempts api_converted api_unconverted attempts converted unconverted",
        bool="conversions_judged",
        required="created_after created_before reconciled_at",
    ),
    "rejected_attempts": _hints(
        text="reason attempt", timestamp="read_at", required="reason attempt read_at"
    ),
}


def windows_read_sql(account_sid: str, filters_hash: str, since: datetime, schema: str = "") -> str:
    """SQL for windows that end after `since` and whose load package is complete.

    `schema` is the prefix of the tables (`twilio_verify.`), if the connection needs one.
    """
    account_sid = account_sid.replace("'", "''")
    return f"""
        select created_after, created_before, read_at
        from {schema}windows_read
        where account_sid = '{account_sid}' and filters_hash = '{filters_hash}'
            and created_before > timestamptz '{since.isoformat()}'
            and _dlt_load_id in (select load_id from {schema}_dlt_loads where status = 0)
    """


def rate_sql(filters_hash: str, since: datetime, schema: str = "") -> str:
    """SQL for the most attempts a second of a window that ends after `since`; null if none does."""
    return f"""
        select max(
            attempts / (extract(epoch from created_before) - extract(epoch from created_after))
        )
        from {schema}windows_read
        where filters_hash = '{filters_hash}' and created_before > timestamptz '{since.isoformat()}'
            and created_before > created_after
    """
