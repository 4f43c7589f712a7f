"""`make bench`: verify-sync beside dlt's stock rest_api source, on one sandbox, in one run.

Each contender is a process of its own, so CPU seconds and peak memory are the kernel's count of
that process alone; the sandbox is another process, with its rate limit lifted. Then a soak, with
the limit as Twilio has it and three answers in ten failing.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import orjson
import psutil
import requests

from pipelines.sandbox.account import Account
from pipelines.sandbox.sends import DAY
from pipelines.sandbox.server import Sandbox
from pipelines.sandbox.switches import Faults, Limits
from tests import crash, quarter
from tests.conftest import as_columns, busiest, is_whole

REPOSITORY = Path(__file__).resolve().parents[1]
OURS = [("verify-sync sync", ["-m", "pipelines", "sync"])]
PEER = [("dlt rest_api, merge", ["-m", "tests.bench", "--peer", "rest_api"])]


class Cost(NamedTuple):
    """Wall and CPU seconds, peak resident megabytes, rows that ended up in the table."""

    wall: float
    cpu: float
    peak: float
    rows: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--attempts", type=int, default=200_000)
    parser.add_argument("--served", type=int, default=1_000_000)
    parser.add_argument("--only", choices=["compare", "serve", "soak", "kills", "quarter"])
    parser.add_argument("--days", type=int, default=quarter.DAYS, help="of the quarter")
    parser.add_argument("--syncs", action="append", choices=[*quarter.SCHEDULES])
    parser.add_argument("--peer", choices=["rest_api"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["RUNTIME__LOG_LEVEL"] = "CRITICAL"
    if arguments.peer:
        peer_rest_api()
        return
    print(f"{os.cpu_count()} cores; medians where a contender ran more than once\n")
    parts = {
        "compare": lambda: compare(arguments.attempts),
        "serve": lambda: serve(arguments.served),
        "soak": soak,
        "kills": kills,
        "quarter": lambda: a_quarter(arguments.days, arguments.syncs or [*quarter.SCHEDULES]),
    }
    for name, part in parts.items():
        if arguments.only in (None, name):
            part()


def compare(attempts: int) -> None:
    """A first sync, by us and by the peer, into an empty folder each time."""
    with serving(attempts) as (url, _), tempfile.TemporaryDirectory() as folder:
        print(f"first sync of {ask_total(url):,} attempts, rate limit lifted")
        print(f"{'':22}{'wall s':>9}{'CPU s':>9}{'peak MB':>9}{'rows':>11}")
        ours, peer = [], []
        for number, (name, command) in enumerate((*OURS, *PEER, *OURS, *OURS)):
            costs = ours if (name, command) in OURS else peer
            costs.append(measure(command, url, Path(folder) / str(number), name))
        report(median(ours), median(peer))


def serve(attempts: int) -> None:
    """How fast the sandbox itself is: everything it has, 1000 a page, one request at a time."""
    with serving(attempts) as (url, pid):
        total, process = ask_total(url), psutil.Process(pid)
        before, rows = process.cpu_times(), 0
        with requests.Session() as session:
            session.auth = (Sandbox.account_sid, Sandbox.auth_token)
            page: str | None = f"{url}/v2/Attempts?PageSize=1000"
            while page:
                body = orjson.loads(session.get(page, timeout=60).content)
                rows, page = rows + len(body["attempts"]), body["meta"]["next_page_url"]
        after = process.cpu_times()
        cpu = after.user + after.system - before.user - before.system
        speed, memory = rows / cpu, process.memory_info().rss / 2**20
        print(f"\nsandbox: {speed:,.0f} of {total:,} attempts a CPU second, {memory:,.0f} MB")


def soak() -> None:
    """A first sync of about 300 pages at 100 requests a minute; of the answers 3 in 10 fail."""
    limits, faults = Limits(), Faults(fail="all", hang=8, rows="mixed")
    began = time.time()
    account = Account(attempts=17_000, since=int(began) - 30 * DAY)
    with Still(account, now=lambda: began, limits=limits, faults=faults) as sandbox:
        settings = {"PAGE_SIZE": "60", "TIMEOUT": "5"}
        extra = {f"SOURCES__TWILIO_VERIFY__{name}": value for name, value in settings.items()}
        with tempfile.TemporaryDirectory() as folder:
            environment = {**as_ours(sandbox.url, Path(folder)), **extra}
            started = time.monotonic()
            command = [sys.executable, "-m", "pipelines", "sync"]
            told = subprocess.run(
                command,
                cwd=REPOSITORY,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            wall = time.monotonic() - started
            if told.returncode:
                sys.exit(f"the soak failed:\n{told.stderr}")
            wrong = differences(Path(folder) / "verify.duckdb", sandbox)
    log = sandbox.log
    failed = sum(request.fault is not None for request in log)
    refused = sum(request.status == 429 and request.fault is None for request in log)
    least = 60 * (math.ceil(len(log) / limits.requests) - 1)
    print(
        f"\nsoak: {len(log)} requests, {failed} of them failed; at most "
        f"{busiest([request.at for request in log], limits.seconds)} in any 60 s, limit "
        f"{limits.requests}, {refused} over it;\n{wrong} attempts missing or wrong; "
        f"{wall:.0f} s, {wall / least:.2f} times what the limit itself takes"
    )


def a_quarter(days: int, names: list[str]) -> None:
    """The README's table of a quarter, and each of its schedules by the real pipeline."""
    for text in quarter.table(days, names):
        print(text, flush=True)
    account = quarter.Quarter(days)
    for name in names:
        times = quarter.SCHEDULES[name](days)
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            real = quarter.by_pipeline(Path(folder), times, days)
            seconds = (time.monotonic() - started) / len(times)
        same = "as planned" if real == quarter.Planned(account).run(times) else "NOT AS PLANNED"
        print(
            f"{name}: {len(times):,} syncs by the pipeline, {real.requests:,} requests, "
            f"{real.rows:,} rows, {real.wrong} wrong: {same}; {seconds:.2f} s each",
            flush=True,
        )


def kills() -> None:
    """A hundred syncs killed at random moments, each followed by a plain one: see crash.py."""
    logging.disable(logging.WARNING)  # each run after a kill says what it gives up
    trial = crash.kill_many(100)
    logging.disable(logging.NOTSET)
    unscathed = trial.killed.pop("too late", 0)
    killed = ", ".join(f"{number} while {phase}" for phase, number in trial.killed.items())
    print(
        f"\n{trial.killed.total()} syncs killed: {killed}; {unscathed} more never came to the "
        "moment chosen for them\npublished file after the kill: "
        f"{trial.published['as before']} times as before, {trial.published['as after']} times "
        "complete; after the next plain sync: every time as if nothing had happened"
    )


class Still(Sandbox):
    """An account that stands still, so that a long run can be held against it, by a right clock."""

    def headers(self, retry_after: int | None) -> dict[str, str]:
        return {**super().headers(retry_after), "Date": formatdate(usegmt=True)}


def differences(published: Path, sandbox: Sandbox) -> int:
    """How many attempts are missing, too many or otherwise than the sandbox has them."""
    truth = {a["sid"]: as_columns(a) for a in sandbox.truth() if is_whole(a)}
    with duckdb.connect(str(published), read_only=True) as connection:
        answer = connection.execute("select * exclude (read_at) from twilio_verify.attempts")
        names = [column[0] for column in answer.description or ()]
        rows = [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
    wrong = sum(truth.pop(row["sid"], None) != row for row in rows)
    return wrong + len(truth)


def median(costs: list[Cost]) -> Cost:
    """Of each measure its own median: single runs vary by a fifth on a shared machine."""
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def report(ours: Cost, peer: Cost) -> None:
    print(
        f"dlt's stock rest_api takes {peer.wall / ours.wall:.1f} times the wall time, "
        f"{peer.cpu / ours.cpu:.1f} times the CPU and {peer.peak / ours.peak:.1f} times the memory"
    )


def measure(command: list[str], url: str, folder: Path, name: str) -> Cost:
    folder.mkdir()
    environment = as_ours(url, folder)
    environment["SOURCES__TWILIO_VERIFY__REQUESTS_PER_MINUTE"] = "100000"
    started = time.monotonic()
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    child = subprocess.Popen(
        [sys.executable, *command], cwd=REPOSITORY, env=environment, text=True, **quiet
    )
    assert child.stderr is not None
    told = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        sys.exit(f"{name} failed with exit code {child.returncode}:\n{told}")
    wall = time.monotonic() - started
    with duckdb.connect(str(folder / "verify.duckdb"), read_only=True) as connection:
        (rows,) = connection.execute("select count(*) from twilio_verify.attempts").fetchall()[0]
    cost = Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, rows)
    print(f"{name:22}{cost.wall:9.1f}{cost.cpu:9.1f}{cost.peak:9.0f}{cost.rows:11,.0f}")
    return cost


def as_ours(url: str, folder: Path) -> dict[str, str]:
    """The environment of a sync from the sandbox at `url` into `folder`."""
    return {
        **os.environ,
        "SOURCES__TWILIO_VERIFY__BASE_URL": url,
        "TWILIO_ACCOUNT_SID": Sandbox.account_sid,
        "TWILIO_AUTH_TOKEN": Sandbox.auth_token,
        "WAREHOUSE__DIR": str(folder),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
    }


@contextmanager
def serving(attempts: int) -> Iterator[tuple[str, int]]:
    """The sandbox in a process of its own; yields its URL and process id."""
    options = [f"--attempts={attempts}", "--port=0", "--requests=0"]
    command = [sys.executable, "-m", "pipelines", "sandbox", *options]
    child = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    url = child.stdout.readline().split()[2].rstrip(";")
    drain = threading.Thread(target=child.stdout.read, daemon=True)
    drain.start()
    try:
        yield url, child.pid
    finally:
        child.terminate()
        child.wait()


def ask_total(url: str) -> int:
    """How many attempts the account has; also has it generated before anyone is timed."""
    answer = requests.get(
        f"{url}/v2/Attempts/Summary", auth=(Sandbox.account_sid, Sandbox.auth_token), timeout=600
    )
    total: int = json.loads(answer.content)["total_attempts"]
    return total


def peer_rest_api() -> None:
    """What dlt's documentation gives for an API like this: the stock source, merged on sid."""
    import dlt
    from dlt.sources.rest_api import rest_api_source

    source = rest_api_source(
        {
            "client": {
                "base_url": os.environ["SOURCES__TWILIO_VERIFY__BASE_URL"],
                "auth": {
                    "type": "http_basic",
                    "username": os.environ["TWILIO_ACCOUNT_SID"],
                    "password": os.environ["TWILIO_AUTH_TOKEN"],
                },
                "paginator": {"type": "json_link", "next_url_path": "meta.next_page_url"},
            },
            "resources": [
                {
                    "name": "attempts",
                    "primary_key": "sid",
                    "write_disposition": "merge",
                    "endpoint": {
                        "path": "v2/Attempts",
                        "params": {"PageSize": 1000},
                        "data_selector": "attempts",
                    },
                }
            ],
        }
    )
    folder = os.environ["WAREHOUSE__DIR"]
    pipeline = dlt.pipeline(
        "peer",
        pipelines_dir=f"{folder}/dlt",
        destination=dlt.destinations.duckdb(f"{folder}/verify.duckdb"),
        dataset_name="twilio_verify",
    )
    pipeline.run(source)


if __name__ == "__main__":
    main()
