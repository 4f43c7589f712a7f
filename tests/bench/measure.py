"""Runs a command and measures its cost: the kernel's figures, without the sandbox."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from pipelines.sandbox.account import Account
from pipelines.sandbox.sends import DAY
from pipelines.sandbox.server import Sandbox
from pipelines.sandbox.switches import Limits
from tests.worlds import REPOSITORY

OURS = ("-m", "pipelines")
REST_API = ("-m", "tests.bench.peers", "rest_api")
DLT_MERGE = ("-m", "tests.bench.peers", "merge")
OFFICIAL = ("-m", "tests.bench.peers", "official")
# A small launcher starts the command, because a process inherits its parent's peak memory, and this
# process holds the sandbox's account.
_LAUNCHER = """
import os, sys
pid = os.posix_spawn(sys.executable, [sys.executable, *sys.argv[1:]], os.environ)
_, status, usage = os.wait4(pid, 0)
print(usage.ru_utime + usage.ru_stime, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


class Cost(NamedTuple):
    """Wall and CPU seconds, peak resident megabytes, stored rows and answered requests."""

    wall: float
    cpu: float
    peak: float
    rows: float
    requests: float


def median(costs: Iterable[Cost]) -> Cost:
    """The median of each measure on its own: single runs vary by a fifth on a shared machine."""
    return Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))


def measure(command: tuple[str, ...], sandbox: Sandbox, folder: Path, **settings: object) -> Cost:
    """Runs Python with `command`; `settings` are those of [sources.twilio_verify]."""
    folder.mkdir(exist_ok=True)
    before, started = len(sandbox.log), time.monotonic()
    child = start(("-S", "-c", _LAUNCHER, *command), sandbox, folder, **settings)
    told, _ = child.communicate()
    wall = time.monotonic() - started
    if child.returncode:
        sys.exit(f"{command} failed with exit code {child.returncode}:\n{told}")
    with duckdb.connect(str(folder / "verify.duckdb"), read_only=True) as connection:
        (rows,) = connection.execute("select count(*) from twilio_verify.attempts").fetchall()[0]
    *_, cpu, peak = told.split()
    return Cost(
        wall,
        float(cpu),
        float(peak) / 1024,
        rows,
        len(sandbox.log) - before,
    )


def start(
    command: tuple[str, ...], sandbox: Sandbox, folder: Path, **settings: object
) -> subprocess.Popen[str]:
    given = {"base_url": sandbox.url, "requests_per_minute": 100_000, **settings}
    names = {f"SOURCES__TWILIO_VERIFY__{name.upper()}": str(v) for name, v in given.items()}
    environment: dict[str, Any] = {
        **os.environ,
        **names,
        "TWILIO_ACCOUNT_SID": sandbox.account_sid,
        "TWILIO_AUTH_TOKEN": sandbox.auth_token,
        "WAREHOUSE__DIR": str(folder),
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "PYTHONPATH": "" if OURS[1] in command else str(REPOSITORY / ".venv" / "bench"),
    }
    return subprocess.Popen(
        [sys.executable, *command], cwd=REPOSITORY, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@contextmanager
def serving(attempts: int, requests: int = 0, latency: float = 0.0) -> Iterator[Sandbox]:
    """An account of the last 30 days by the real clock. No rate limit by default."""
    account = Account(attempts=attempts, since=int(time.time()) - 30 * DAY)
    limits = Limits(requests=requests, latency=latency)
    with Sandbox(account, limits=limits) as sandbox:
        # Generate the account now, before anything is measured.
        sandbox._api.answer("/v2/Attempts/Summary", {}, time.time())
        yield sandbox
