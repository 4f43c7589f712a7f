"""The dlt sources. Files, runs and views: warehouse.

`twilio_verify` is for dlt pipelines of your own. verify-sync itself loads with `package_source`:
the same resources, fed with slices that are already complete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

import dlt
import pyarrow as pa
import pyarrow.compute as pc
from dlt.common.configuration import configspec
from dlt.common.configuration.specs import BaseConfiguration
from dlt.common.destination.exceptions import DestinationUndefinedEntity
from dlt.common.typing import TSecretStrValue
from dlt.extract import DltResource

from pipelines.errors import Misuse
from pipelines.reading.defaults import default_concurrency
from pipelines.reading.package import Package
from pipelines.reading.raw_tables import (
    CHANGED_IN,
    LOAD_ID,
    PACKAGES,
    TABLES,
    attempts_columns,
    rate_sql,
    windows_read_sql,
)
from pipelines.reading.sizing import Sizing
from pipelines.reading.slices import batches
from pipelines.reading.windows import Window, WindowsRead, plan
from pipelines.settings import source_settings
from pipelines.twilio.client import Client
from pipelines.twilio.clock import Clock
from pipelines.twilio.credentials import Credentials
from pipelines.twilio.filters import Filters
from pipelines.twilio.limits import RETENTION, SECOND
from pipelines.twilio.pacing import Pacer

# Not upsert: it keeps duplicates within one load, and the API does send duplicates.
_MERGE: Any = {"disposition": "merge", "strategy": "delete-insert"}
_MERGE_EACH_ONCE: Any = {**_MERGE, "deduplicated": True}
_APPEND: Any = {"disposition": "append"}


def _resources(
    groups: Iterable[Package], materialize: bool, merge: Any = _MERGE, stamped: bool = False
) -> list[DltResource]:
    """The dlt resources. `groups` is iterated once; each package feeds all tables.

    `stamped` adds to each attempt the load package that brings it.
    """

    @dlt.resource(name="packages", selected=False)
    def all_packages() -> Iterator[Package]:
        yield from groups

    @dlt.transformer(
        data_from=all_packages,
        columns={**attempts_columns(), **(PACKAGES if stamped else {})},
        write_disposition=merge,
        file_format="parquet",
    )
    def attempts(package: Package) -> Iterator[pa.Table]:
        yield _stamped(package) if stamped else package.attempts

    @dlt.transformer(data_from=all_packages, columns=TABLES["windows_read"], file_format="parquet")
    def windows_read(package: Package) -> Iterator[Any]:
        yield from package.windows_read
        if materialize:
            yield dlt.mark.materialize_table_schema()

    @dlt.transformer(
        data_from=all_packages,
        columns=TABLES["rejected_attempts"],
        primary_key="attempt",  # the API lists it at every revisit; store it once
        write_disposition=_MERGE,
        file_format="parquet",
    )
    def rejected_attempts(package: Package) -> Iterator[Any]:
        yield from package.rejected.to_pylist()
        if materialize:
            yield dlt.mark.materialize_table_schema()

    def empty() -> Iterator[Any]:
        yield dlt.mark.materialize_table_schema()

    others = [
        dlt.resource(empty, name=name, columns=TABLES[name], file_format="parquet")
        for name in ("sync_runs", "reconciliations")
        if materialize
    ]
    return [all_packages, attempts, windows_read, rejected_attempts, *others]


@dlt.source(name="twilio_verify", section="twilio_verify", max_table_nesting=0)
def package_source(
    package: Package, materialize: bool = True, new: bool = False
) -> list[DltResource]:
    """One load package. `materialize` creates the tables that later commands fill. `new` means
    that none of its attempts is stored yet: they are appended, at half the cost of a merge."""
    return _resources(iter([package]), materialize, _APPEND if new else _MERGE_EACH_ONCE, True)


def _stamped(package: Package) -> pa.Table:
    """Its attempts with the columns PACKAGES. Runs while dlt writes the load package."""
    load_id, rows = str(dlt.current.load_package_state()["load_id"]), package.attempts.num_rows
    brought = pa.repeat(load_id, rows)
    changed = brought if package.changed_in is None else pc.fill_null(package.changed_in, load_id)
    return package.attempts.append_column(LOAD_ID, brought).append_column(CHANGED_IN, changed)


@configspec
class SourceCredentials(BaseConfiguration):
    """The only arguments of `twilio_verify` that dlt looks up. Without this class dlt would look
    up all of them: a `BASE_URL` in the environment may be meant for another program. The others are
    looked up by their full names only; see settings."""

    account_sid: TSecretStrValue = None  # type: ignore[assignment]
    auth_token: TSecretStrValue | None = None
    api_key: TSecretStrValue | None = None
    api_secret: TSecretStrValue | None = None


@dlt.source(
    name="twilio_verify", section="twilio_verify", max_table_nesting=0, spec=SourceCredentials
)
def twilio_verify(
    account_sid: str = dlt.secrets.value,
    auth_token: str | None = None,
    api_key: str | None = None,
    api_secret: str | None = None,
    *,
    filters: Mapping[str, str] | None = None,
    created_after: datetime | None = None,
    created_before: datetime | None = None,
    base_url: str | None = None,
    page_size: int | None = None,
    requests_per_minute: int | None = None,
    concurrency: int | None = None,
    timeout: float | None = None,
    now: datetime | None = None,
) -> list[DltResource]:
    """Attempts of one Twilio account, merged on `sid`, for use in any dlt pipeline.

    Reads the window from `created_after` to `created_before` (aware datetimes). Without both it
    reads what is due: first all of retention, then new attempts and those that have reached a
    revisit age, by the table `windows_read` in the destination. `now` defaults to the clock.
    `filters` are verify_service_sid, country, channel, to and verification_sid: these never change
    for an attempt. Each set of filters has its own progress. What is not given comes from
    `[sources.twilio_verify]`, as in verify-sync itself.
    Raises Misuse for incomplete credentials, an invalid window or filter, and Failure if Twilio
    cannot be read.
    """
    credentials = Credentials.of(account_sid, auth_token, api_key, api_secret)
    now = now or datetime.now(timezone.utc)
    clock, settings = Clock(now), source_settings()
    chosen = settings["filters"] if filters is None else Filters.lasting(filters)
    per_minute = requests_per_minute or settings["requests_per_minute"]
    chains = concurrency or (
        default_concurrency(per_minute) if requests_per_minute else settings["concurrency"]
    )
    named = _named_window(created_after, created_before, now)

    def groups() -> Iterator[Package]:
        due = (
            [named]
            if named
            else plan(_read_before(account_sid, chosen, now), settings["revisit_after"], now)
        )
        rate = next((rate for (rate,) in _stored(rate_sql(chosen.hash, now - RETENTION))), None)
        with (
            Client(
                credentials,
                base_url or settings["base_url"],
                page_size or settings["page_size"],
                timeout or settings["timeout"],
                clock,
                Pacer(per_minute),
                settings["give_up_after"].total_seconds(),
            ) as client,
            Sizing(client, chosen, chains, rate) as sizing,
        ):
            slices = sizing.cut(sizing.measured(due))
            yield from map(Package.of, batches(client, slices, chosen, chains))

    return _resources(groups(), materialize=True)


def _named_window(after: datetime | None, before: datetime | None, now: datetime) -> Window | None:
    """The window of the arguments, cut to retention; None if neither is given."""
    if after is None and before is None:
        return None
    for name, bound in (("created_after", after), ("created_before", before)):
        if bound is not None and (not isinstance(bound, datetime) or bound.tzinfo is None):
            raise Misuse(f"{name} must be a datetime with a zone, not {bound!r}")
    oldest, newest = now - RETENTION, now - SECOND
    window = Window(max(after or oldest, oldest), min(before or newest, newest))
    if window.after >= window.before:
        raise Misuse("created_after must be before created_before, within the last 30 days")
    return window


def _read_before(account_sid: str, filters: Filters, now: datetime) -> WindowsRead:
    return WindowsRead.of(_stored(windows_read_sql(account_sid, filters.hash, now - RETENTION)))


def _stored(sql: str) -> Sequence[Any]:
    """Rows from the destination of the running pipeline; none before its first run."""
    with dlt.current.pipeline().sql_client() as connection:
        try:
            return connection.execute_sql(sql) or ()
        except DestinationUndefinedEntity:
            return ()
