"""Benchmarks of a first read: alternatives, latency, rate limit, memory, resuming after a kill."""

from __future__ import annotations

import os
import random
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path

import orjson
import requests

from pipelines.reading.defaults import default_concurrency
from pipelines.sandbox.server import Sandbox
from tests.bench.measure import (
    OFFICIAL,
    OURS,
    REST_API,
    Cost,
    measure,
    median,
    serving,
    start,
)

SYNC, BACKFILL = (*OURS, "sync"), (*OURS, "backfill")
_REST_API_MOST = 200_000  # attempts; a million would take ten minutes and 18 GB


@contextmanager
def folders() -> Iterator[Iterator[Path]]:
    with tempfile.TemporaryDirectory() as parent:
        yield (Path(parent, str(number)) for number in range(1_000_000))


def compare(sizes: Sequence[int]) -> Iterator[str]:
    """Runs verify-sync three times (median) and the others once, each into an empty folder. No rate
    limit, but 4 chains, the default at 100 requests a minute."""
    for size in sizes:
        contenders = {"verify-sync sync": [SYNC] * 3, "Twilio's client, pandas": [OFFICIAL]}
        if size <= _REST_API_MOST:
            contenders["dlt rest_api, merge"] = [REST_API]
        with serving(size) as sandbox, folders() as folder:
            costs = {
                name: median(
                    [measure(command, sandbox, next(folder), concurrency=4) for command in commands]
                )
                for name, commands in contenders.items()
            }
        yield from table(f"{next(iter(costs.values())).rows:,.0f} attempts, no limit", costs)


def table(title: str, costs: dict[str, Cost]) -> Iterator[str]:
    ours = next(iter(costs.values()))
    yield f"{title:32}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'requests':>10}{'rows':>11}"
    for name, cost in costs.items():
        yield (
            f"{name:32}{cost.wall:9.1f}{cost.cpu:9.1f}{cost.peak:9.0f}"
            f"{cost.requests:10,.0f}{cost.rows:11,.0f}"
        )
    for name, cost in list(costs.items())[1:]:
        yield (
            f"{name} takes {cost.wall / ours.wall:.1f} times the wall time, "
            f"{cost.cpu / ours.cpu:.1f} times the CPU, {cost.peak / ours.peak:.1f} times the memory"
        )
    yield f"CPU seconds a million rows: {ours.cpu / ours.rows * 1e6:.1f}"


def latency() -> Iterator[str]:
    """Each answer takes 0.2 s, so parallel chains decide the wall time."""
    with serving(100_000, latency=0.2) as sandbox, folders() as folder:
        costs = {
            "verify-sync sync, 4 chains": measure(SYNC, sandbox, next(folder), concurrency=4),
            "verify-sync sync, its default": measure(SYNC, sandbox, next(folder)),
            "Twilio's client, pandas": measure(OFFICIAL, sandbox, next(folder)),
        }
    yield from table("0.2 s an answer, no limit", costs)


def limit(per_minute: int) -> Iterator[str]:
    """R requests at L a minute take at least 60 s x (ceil(R / L) - 1): one burst is free."""
    trials = [(0.5, {}), (0.5, {"concurrency": 16}), (2.0, {}), (2.0, {"concurrency": 64})]
    for seconds, settings in trials if per_minute > 100 else [(2.0, {})]:
        with serving(1_000_000, per_minute, seconds) as sandbox, folders() as folder:
            given = {"requests_per_minute": per_minute, **settings}
            cost = measure(BACKFILL, sandbox, next(folder), **given)
            refused = sum(request.status == 429 for request in sandbox.log)
        least = 60 * (ceil(cost.requests / per_minute) - 1)
        chains = settings.get("concurrency", default_concurrency(per_minute))
        yield (
            f"{cost.rows:,.0f} attempts at {per_minute} requests a minute, {seconds} s an answer, "
            f"{chains} chains: {cost.requests:,.0f} requests, {refused} refused, the limit alone "
            f"takes {least} s, backfill {cost.wall:.0f} s: {cost.wall / least:.2f} times"
        )


def memory() -> Iterator[str]:
    """Peak memory is bounded, whatever the number of attempts."""
    peaks = []
    for size in (1_000_000, 3_000_000):
        with serving(size) as sandbox, folders() as folder:
            cost = measure(BACKFILL, sandbox, next(folder), concurrency=4)
        peaks.append(cost.peak)
        yield (
            f"{cost.rows:,.0f} attempts, 4 chains: peak {cost.peak:.0f} MB, "
            f"{cost.cpu / cost.rows * 1e6:.1f} CPU s a million"
        )
    yield f"three times the attempts take {peaks[1] / peaks[0]:.2f} times the memory"


def resume() -> Iterator[str]:
    """Counts the additional requests of backfills that are killed at random moments and resumed."""
    with serving(300_000, latency=0.05) as sandbox, folders() as folder:
        whole = measure(BACKFILL, sandbox, next(folder), concurrency=4)
        extra = []
        for _ in range(8):
            where, before = next(folder), len(sandbox.log)
            where.mkdir()
            child = start(BACKFILL, sandbox, where, concurrency=4)
            until = before + random.randint(30, int(whole.requests) - 10)
            while len(sandbox.log) < until and child.poll() is None:
                time.sleep(0.01)
            os.kill(child.pid, signal.SIGKILL)
            child.communicate()
            rest = measure(BACKFILL, sandbox, where, concurrency=4)
            # New attempts arrive meanwhile: a few. A lost slice would be thousands.
            assert abs(rest.rows - whole.rows) < 500, "attempts were lost"
            extra.append(len(sandbox.log) - before - whole.requests)
    yield (
        f"backfill of {whole.rows:,.0f} attempts, {whole.requests:,.0f} requests; killed and gone "
        f"on with {len(extra)} times: {min(extra):.0f} to {max(extra):.0f} requests more"
    )


def serve() -> Iterator[str]:
    """The speed of the sandbox itself: reads everything, 1000 a page, one request at a time."""
    with serving(1_000_000) as sandbox, requests.Session() as session:
        session.auth = (Sandbox.account_sid, Sandbox.auth_token)
        page, rows, before = f"{sandbox.url}/v2/Attempts?PageSize=1000", 0, time.process_time()
        while page:
            content = session.get(page, timeout=60).content
            body = orjson.loads(content)
            rows, page = rows + len(body["attempts"]), body["meta"]["next_page_url"]
        cpu = time.process_time() - before
    yield f"sandbox and a client in one process: {rows / cpu:,.0f} attempts a CPU second"
