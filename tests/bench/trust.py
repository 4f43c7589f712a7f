"""Long tests: a soak at the real limit, a hundred kills, a quarter of syncs."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import duckdb

from pipelines.sandbox.account import Account
from pipelines.sandbox.sends import DAY
from pipelines.sandbox.server import Sandbox
from pipelines.sandbox.switches import Faults, Limits
from tests import crash, quarter
from tests.bench.measure import OURS, measure
from tests.worlds import as_columns, busiest, is_whole


def soak() -> Iterator[str]:
    """A first sync of about 300 pages at 100 requests a minute. 3 in 10 requests fail."""
    limits, faults = Limits(), Faults(fail="all", hang=8, rows="mixed")
    began = time.time()
    account = Account(attempts=17_000, since=int(began) - 30 * DAY)
    with Still(account, now=lambda: began, limits=limits, faults=faults) as sandbox:
        settings = {"page_size": 60, "timeout": 5, "requests_per_minute": limits.requests}
        with tempfile.TemporaryDirectory() as folder:
            wall = measure((*OURS, "sync"), sandbox, Path(folder), **settings).wall
            wrong = differences(Path(folder) / "verify.duckdb", sandbox)
    log = sandbox.log
    failed = sum(request.fault is not None for request in log)
    refused = sum(request.status == 429 and request.fault is None for request in log)
    least = 60 * (math.ceil(len(log) / limits.requests) - 1)
    yield (
        f"soak: {len(log)} requests, {failed} of them failed; at most "
        f"{busiest([request.at for request in log], limits.seconds)} in any 60 s, limit "
        f"{limits.requests}, {refused} over it;"
    )
    yield (
        f"{wrong} attempts missing or wrong; {wall:.0f} s, "
        f"{wall / least:.2f} times what the limit takes"
    )


def a_quarter(days: int, names: list[str]) -> Iterator[str]:
    """The README's table of a quarter, then each of its schedules with the real pipeline."""
    yield from quarter.table(days, names)
    account = quarter.Quarter(days)
    for name in names:
        times = quarter.SCHEDULES[name](days)
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            real = quarter.by_pipeline(Path(folder), times, days)
            seconds = (time.monotonic() - started) / len(times)
        same = "as planned" if real == quarter.Planned(account).run(times) else "NOT AS PLANNED"
        yield (
            f"{name}: {len(times):,} syncs by the pipeline, {real.requests:,} requests, "
            f"{real.rows:,} rows, {real.wrong} wrong: {same}; {seconds:.2f} s each"
        )


def kills() -> Iterator[str]:
    """A hundred syncs killed at random moments, each followed by a plain sync: see crash.py."""
    logging.disable(logging.WARNING)  # each run after a kill logs what it discards
    trial = crash.kill_many(100)
    logging.disable(logging.NOTSET)
    unscathed = trial.killed.pop("too late", 0)
    killed = ", ".join(f"{number} while {phase}" for phase, number in trial.killed.items())
    yield (
        f"{trial.killed.total()} syncs killed: {killed}; {unscathed} more never came to the moment "
        "chosen for them"
    )
    yield (
        f"published file after the kill: {trial.published['as before']} times as before, "
        f"{trial.published['as after']} times complete; after the next plain sync: every time as "
        "if nothing had happened"
    )


class Still(Sandbox):
    """A sandbox whose account does not change, so that the result of a long run can be compared
    with it. Its `Date` header is the real time."""

    def headers(self, retry_after: int | None) -> dict[str, str]:
        return {**super().headers(retry_after), "Date": formatdate(usegmt=True)}


def differences(published: Path, sandbox: Sandbox) -> int:
    """The number of attempts that are missing, surplus or different from the sandbox's."""
    truth = {a["sid"]: as_columns(a) for a in sandbox.truth() if is_whole(a)}
    with duckdb.connect(str(published), read_only=True) as connection:
        answer = connection.execute("select * exclude (read_at) from twilio_verify.attempts")
        names = [column[0] for column in answer.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    wrong = sum(truth.pop(row["sid"], None) != row for row in rows)
    return wrong + len(truth)
