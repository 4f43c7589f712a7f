"""Benchmarks of a growing warehouse: an hourly sync, publishing, every view."""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb

from pipelines.reading.package import Package
from pipelines.sandbox.server import Sandbox
from pipelines.twilio.columns import ATTEMPTS, REJECTED
from pipelines.warehouse.views import apply_views, view_files
from tests.bench.measure import DLT_MERGE, OURS, Cost, measure, median, serving
from tests.worlds import World
from tests.worlds import serving as serving_at

SYNC, VIEWS = (*OURS, "sync"), (*OURS, "views")
_HOURLY = 5_000  # new attempts
_AT_ONCE = 20  # copies of the real rows per insert
# Two hours of real rows at each due age, so that a sync re-reads stored attempts.
_AGES = ("2 hours", "28 hours", "75 hours", "698 hours")
# Each copy is eight hours of attempts, eight hours older: 40 million are 11 months.
_COPIED = """
    insert into twilio_verify.attempts
    select real.* replace (
        'VL' || md5(sid || copy) as sid,
        'VE' || md5(verification_sid || copy) as verification_sid,
        'VE' || md5(channel_data__verification_sid || copy) as channel_data__verification_sid,
        {times}
    )
    from range(?, ?) as copies (copy), real
    limit ?
"""
_OF_OURS, _OF_DLT = ("date_created", "date_updated", "read_at"), ("date_created", "date_updated")
# As an hour after the last sync: the newest hour is not stored, and what is read for the second
# time has changed. Later reads find what is stored.
_AN_HOUR_LATER = """
    delete from twilio_verify.attempts where date_created >= now() - to_hours(1);
    update twilio_verify.attempts set channel_data__message_status = 'QUEUED'
    where date_created >= now() - to_hours(3)
"""
_ALL_READ_AN_HOUR_AGO = """
    delete from twilio_verify.windows_read;
    insert into twilio_verify.windows_read by name
    select
        '{account}' as account_sid, '{filters}' as filters_hash,
        date_trunc('second', now()) - to_hours(720) as created_after,
        date_trunc('second', now()) - to_hours(1) as created_before,
        date_trunc('second', now()) - to_hours(1) as read_at,
        3_500_000 as attempts, 3_500 as pages,
        (select max(load_id) from twilio_verify._dlt_loads) as _dlt_load_id,
        md5(random()::varchar) as _dlt_id
"""


def steady(sizes: Sequence[int]) -> Iterator[str]:
    """The cost of an hourly sync, from start to published: the median of three.

    Beside it: a plain copy of the file's bytes over an older one, which publishing takes where the
    file system has no reflinks; and dlt's stock merge of the same rows into as many, which neither
    checks nor publishes.
    """
    yield f"{'':22}{'':>11}{'verify-sync sync':>18}{'copy of bytes':>18}{'dlt merge':>18}"
    yield f"{'rows in the warehouse':22}{'rows read':>11}" + f"{'wall s':>9}{'CPU s':>9}" * 3
    costs: list[Cost] = []
    copies: list[Cost] = []
    for size in sizes:
        with serving(_HOURLY * 720) as sandbox:
            with tempfile.TemporaryDirectory() as folder:
                grown(Path(folder), size, sandbox)
                measure(VIEWS, sandbox, Path(folder))
                hourly(Path(folder), sandbox)  # compacts, if the growth has left holes
                costs.append(median([hourly(Path(folder), sandbox) for _ in range(3)]))
                copies.append(_byte_copy(Path(folder, "verify.duckdb")))
                (read,) = _in(
                    Path(folder, "verify.duckdb"),
                    "select sum(attempts) from twilio_verify.windows_read"
                    " where attempts < 3_000_000",
                )
            with tempfile.TemporaryDirectory() as folder:
                merged = _merged_by_dlt(Path(folder), size, sandbox)
        yield f"{size:22,}{read:11,}" + "".join(
            f"{cost.wall:9.1f}{cost.cpu:9.1f}" for cost in (costs[-1], copies[-1], merged)
        )
    wall, cpu = costs[-1].wall / costs[0].wall, costs[-1].cpu / costs[0].cpu
    yield (
        f"at {sizes[-1]:,} rows a sync takes {wall:.2f} times the wall time and {cpu:.2f} times "
        f"the CPU of one at {sizes[0]:,};"
    )
    less = [own - copy for own, copy in zip(costs[-1][:2], copies[-1][:2], strict=True)]
    yield (
        f"without the copy of the bytes {less[0] / costs[0].wall:.2f} times the wall time and "
        f"{less[1] / costs[0].cpu:.2f} times the CPU"
    )


def views(sizes: Sequence[int] = (10**6, 10**7)) -> Iterator[str]:
    """Seconds to compute every column and row of each view in DuckDB: the median of three."""
    with serving(_HOURLY * 720) as sandbox:
        found = {size: _seconds_of_views(size, sandbox) for size in sizes}
    yield f"{'rows in the warehouse':22}" + "".join(f"{size:>14,}" for size in sizes)
    for file in view_files():
        yield f"{file.stem:22}" + "".join(f"{found[size][file.stem]:12.2f} s" for size in sizes)


def _seconds_of_views(rows: int, sandbox: Sandbox) -> dict[str, float]:
    def seconds(connection: duckdb.DuckDBPyConnection, view: str) -> float:
        started = time.monotonic()
        connection.execute(f"explain analyze from {view}").fetchall()
        return time.monotonic() - started

    with tempfile.TemporaryDirectory() as folder:
        grown(Path(folder), rows, sandbox)
        measure(VIEWS, sandbox, Path(folder))
        with duckdb.connect(f"{folder}/verify.duckdb", read_only=True) as connection:
            return {
                file.stem: statistics.median(seconds(connection, file.stem) for _ in range(3))
                for file in view_files()
            }


def hourly(folder: Path, sandbox: Sandbox) -> Cost:
    """Measures a sync an hour after the last: 5,000 new attempts and as many at each due age."""
    loading = folder / "loading.duckdb"
    found = _in(loading, "select any_value(account_sid), any_value(filters_hash)"
                         " from twilio_verify.windows_read")  # fmt: skip
    _in(loading, _ALL_READ_AN_HOUR_AGO.format(account=found[0], filters=found[1]))
    _in(loading, _AN_HOUR_LATER)
    os.environ["WAREHOUSE__PUBLISH_EVERY"] = "0"
    try:
        return measure(SYNC, sandbox, folder)
    finally:
        del os.environ["WAREHOUSE__PUBLISH_EVERY"]


def grown(folder: Path, rows: int, sandbox: Sandbox) -> None:
    """Fills a warehouse with `rows` attempts: the due ones by backfill, the rest by SQL copies."""
    for age in _AGES:
        hours = int(age.split()[0])
        window = ("--after", age + " ago", "--before", f"{hours - 2} hours ago")
        measure((*OURS, "backfill", *window), sandbox, folder)
    _multiply(folder / "loading.duckdb", rows, _OF_OURS)


def _merged_by_dlt(folder: Path, rows: int, sandbox: Sandbox) -> Cost:
    """Measures dlt's stock merge of the rows that an hourly sync reads."""
    windows = ",".join(f"{hours + 2}-{hours}" for hours in (int(a.split()[0]) - 2 for a in _AGES))
    measure((*DLT_MERGE, windows), sandbox, folder)
    _multiply(folder / "verify.duckdb", rows, _OF_DLT)
    _in(folder / "verify.duckdb", _AN_HOUR_LATER)
    due = ",".join(f"{hours}-{hours - 1}" for hours in (1, *(int(a.split()[0]) for a in _AGES)))
    return measure((*DLT_MERGE, due), sandbox, folder)


def _multiply(file: Path, rows: int, times: Sequence[str]) -> None:
    """Copies the file's attempts with other sids and earlier `times`, until there are `rows`."""
    earlier = ", ".join(f"{name} - to_hours(8 * copy) as {name}" for name in times)
    with duckdb.connect(str(file)) as connection:
        connection.execute("create temp table real as from twilio_verify.attempts")
        (real,) = connection.execute("select count(*) from real").fetchall()[0]
        for first, left in enumerate(range(rows - real, 0, -_AT_ONCE * real)):
            copies = [1 + first * _AT_ONCE, 1 + (first + 1) * _AT_ONCE]
            connection.execute(_COPIED.format(times=earlier), [*copies, left])


def _byte_copy(file: Path) -> Cost:
    """Measures `cp` of the file over an older copy, until the disk holds it: median of three."""
    copy = file.with_name("copy")
    command = ("sh", "-ec", 'cp "$0" "$1.new"; sync "$1.new"; mv "$1.new" "$1"', file, copy)
    costs = []
    for _ in range(4):
        before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(command, check=True)
        after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - started
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        costs.append(Cost(wall, cpu, 0, 0, 0))
    copy.unlink()
    return median(costs[1:])  # the first one replaces nothing


def _in(file: Path, sql: str) -> tuple[object, ...]:
    """Returns the first row of the answer."""
    with duckdb.connect(str(file)) as connection:
        found: tuple[object, ...] = connection.execute(sql).fetchone() or ()
        return found


def merging(syncs: int = 1_000) -> Iterator[str]:
    """Growth of both files over hourly syncs, which mostly replace stored rows, compared with a
    fresh load of the same rows and its kept tables."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving_at(Path(folder) / "synced", attempts=20_000) as world,
    ):
        yield "{:>6}{:>10}{:>13}{:>14}{:>12}".format(
            "syncs", "attempts", "loading MB", "published MB", "afresh MB"
        )
        most = 0.0
        for number in range(1, syncs + 1):
            world.sync()
            world.move(hours=1)
            size = _megabytes(world.settings.directory / "loading.duckdb")
            if number in (1, 10) or number % (syncs // 10) == 0:
                fresh, attempts = _afresh(world, Path(folder) / f"fresh{number}")
                published = _megabytes(world.settings.published)
                yield f"{number:6,}{attempts:10,}{size:13.1f}{published:14.1f}{fresh:12.1f}"
            most = max(most, size / fresh, _megabytes(world.settings.published) / fresh)
    yield f"neither is ever more than {most:.2f} times what a fresh load of the same takes"


def _afresh(world: World, folder: Path) -> tuple[float, int]:
    """Loads all published attempts into a new warehouse; returns the megabytes of its
    loading.duckdb and the number of rows."""
    with duckdb.connect(str(world.settings.published), read_only=True) as connection:
        stored = connection.sql(f"select {', '.join(ATTEMPTS.names)} from twilio_verify.attempts")
        attempts = stored.to_arrow_table().cast(ATTEMPTS)
    settings = replace(world.settings, directory=folder)
    warehouse = World(world.sandbox, settings, world.now).warehouse()
    with warehouse.opened():
        warehouse.loader.load(Package(attempts, REJECTED.empty_table()))
        apply_views(warehouse.database, settings)
    return _megabytes(warehouse.loading), attempts.num_rows


def _megabytes(file: Path) -> float:
    return file.stat().st_size / 2**20
