"""The world of a test: a sandbox whose clock the test sets, its expected rows, and a warehouse."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pipelines.__main__ import main
from pipelines.commands.sync import sync
from pipelines.reading import sizing, slices
from pipelines.reading.package import SliceRead
from pipelines.reading.raw_tables import PACKAGES
from pipelines.reading.sizing import Slice
from pipelines.reading.slices import batches
from pipelines.reading.windows import LAST_CALL, Window, plan
from pipelines.sandbox.account import Account
from pipelines.sandbox.server import Sandbox
from pipelines.sandbox.switches import Faults, Limits, Switches
from pipelines.settings import Settings
from pipelines.twilio.client import Client
from pipelines.twilio.clock import Clock
from pipelines.twilio.columns import ATTEMPTS
from pipelines.twilio.credentials import Credentials
from pipelines.twilio.limits import RETENTION
from pipelines.warehouse.folder import Warehouse
from pipelines.warehouse.ingest import connect, windows_read
from pipelines.warehouse.kept import kept_tables
from pipelines.warehouse.runs import Run
from pipelines.warehouse.tables import create_raw
from pipelines.warehouse.views import view_files
from tests import nursery

REPOSITORY = Path(__file__).resolve().parents[1]
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=timezone.utc)
UNLIMITED = Limits(requests=0)
PACELESS = 100_000  # requests a minute
PATIENT = 600  # timeout in seconds; long, because a slow machine is not a network fault
TOP = ("sid", "account_sid", "service_sid", "verification_sid", "date_created", "date_updated",
       "conversion_status", "channel", "url")  # fmt: skip
NESTED = {
    "price": ("value", "currency"),
    "channel_data": ("verification_sid", "to", "status", "message_status", "error_code", "country",
                     "code_length", "locale", "mcc", "mnc", "carrier"),
}  # fmt: skip
Row = dict[str, Any]
Reads = list[SliceRead]
Capture = pytest.CaptureFixture[str]


@dataclass
class World:
    """A sandbox and a warehouse. `now` is the current time of both."""

    sandbox: Sandbox
    settings: Settings
    now: datetime = field(default=NOW)
    truths: dict[datetime, dict[str, Row]] = field(default_factory=dict, repr=False)

    def sync(self) -> Run:
        return sync(self.settings, self.now)

    def warehouse(self) -> Warehouse:
        """The warehouse of a run that starts now."""
        return Warehouse(self.settings, Run("run", self.now))

    def move(self, **duration: float) -> None:
        self.now += timedelta(**duration)

    def truth(self, at: datetime | None = None) -> dict[str, Row]:
        """Expected rows by sid: the usable attempts that the API lists at `at` (default: now) and
        that were created before it."""
        at = at or self.now
        if at not in self.truths:
            listed = self.sandbox.truth(at.timestamp())
            rows = {attempt["sid"]: as_columns(attempt) for attempt in listed if is_whole(attempt)}
            self.truths[at] = {s: row for s, row in rows.items() if row["date_created"] < at}
        return dict(self.truths[at])

    def unusable(self) -> list[Row]:
        """The listed rows that cannot be stored as attempts."""
        return [row for row in self.sandbox.truth() if not is_whole(row)]

    def stored(self) -> dict[str, Row]:
        """The published attempts by sid, without `read_at` and the load packages. Fails if an
        attempt is stored twice."""
        rows = self.query("from raw")
        hidden = ("read_at", *PACKAGES)
        stored = {row["sid"]: {k: v for k, v in row.items() if k not in hidden} for row in rows}
        assert len(stored) == len(rows), "an attempt is stored twice"
        return stored

    def query(self, sql: str) -> list[Row]:
        """Rows of a query on the published file. `from raw` means twilio_verify.attempts."""
        with reader().cursor() as connection:
            connection.execute(f"attach '{self.settings.published}' as published (read_only)")
            try:
                connection.execute("use published")
                answer = connection.execute(sql.replace("from raw", "from twilio_verify.attempts"))
                names = [column[0] for column in answer.description or ()]
                return [dict(zip(names, row, strict=True)) for row in answer.fetchall()]
            finally:
                connection.execute("use memory")
                connection.execute("detach published")


def make_kept_tables(connection: duckdb.DuckDBPyConnection) -> None:
    """Makes the kept tables from the attempts that are there, as `views` does."""
    for file in view_files():
        if file.stem in kept_tables(view_files()):
            connection.execute(file.read_text(encoding="utf-8"))


@cache
def reader() -> duckdb.DuckDBPyConnection:
    """One shared DuckDB instance: creating one takes four times as long as a query."""
    return duckdb.connect()


def environment_of(world: World) -> dict[str, str]:
    """The environment variables that an operator would set for `world`."""
    return {
        "SOURCES__TWILIO_VERIFY__BASE_URL": world.settings.base_url,
        "SOURCES__TWILIO_VERIFY__REQUESTS_PER_MINUTE": str(PACELESS),
        "SOURCES__TWILIO_VERIFY__CONCURRENCY": str(world.settings.concurrency),
        "SOURCES__TWILIO_VERIFY__PAGE_SIZE": str(world.settings.page_size),
        "SOURCES__TWILIO_VERIFY__TIMEOUT": str(PATIENT),
        "TWILIO_ACCOUNT_SID": world.sandbox.account_sid,
        "TWILIO_AUTH_TOKEN": world.sandbox.auth_token,
        "WAREHOUSE__DIR": str(world.settings.directory),
    }


def run_in_process(
    world: World, module: str, *argv: str, prepare: tuple[str, str, Any] | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a module in its own process with the world's settings. See nursery.run."""
    environment = {**os.environ, **environment_of(world)}
    return nursery.run(module, argv, environment, prepare=prepare)


def slice_small(change: Callable[[Any, str, int], None] = setattr) -> None:
    """Makes slices small: about 12 for 800 attempts at 100 a page, in packages of 4 to 6 pages."""
    for module, name, value in (
        (sizing, "MOST_PAGES", 2),
        (sizing, "USUAL_PAGES", 1),
        (slices, "MOST_PAGES", 2),
        (slices, "USUAL_PAGES", 1),
        (slices, "ENOUGH_PAGES", 4),
    ):
        change(module, name, value)


def read_windows(world: World, windows: Iterable[Window], client: Client | None = None) -> Reads:
    """Reads each window as one slice."""
    client = client or connect(world.settings, Clock(world.now))
    groups = batches(client, (Slice(window, None, 1) for window in windows))
    return [read for group in groups for read in group]


def due_windows(world: World) -> list[Window]:
    """The windows that a sync would read now."""
    read = windows_read(Warehouse(world.settings), world.now)
    return plan(read, world.settings.revisit_after, world.now)


def nothing_is_due(world: World) -> bool:
    """Whether nothing is due, except perhaps a later last call: see reading/test_windows.py."""
    last_day = world.now - RETENTION + LAST_CALL
    return all(piece.before <= last_day for piece in due_windows(world))


def is_whole(attempt: Row) -> bool:
    return attempt["sid"] is not None and attempt["date_created"] != "soon"


def as_columns(attempt: Row) -> Row:
    """The row of `twilio_verify.attempts` to expect for an attempt of the API, without `decode`."""
    rest = dict(attempt)
    row = {name: as_text(rest.pop(name, None)) for name in TOP}
    for name in ("date_created", "date_updated"):
        row[name] = row[name] and datetime.fromisoformat(row[name].replace("Z", "+00:00"))
    parts = {name: rest.pop(name, None) for name in NESTED}
    if not isinstance(parts["price"], (dict, type(None))):
        parts["price"] = {"value": parts["price"]}
    for name, keys in NESTED.items():
        part = dict(parts[name] or {})
        row |= {f"{name}__{key}": as_text(part.pop(key, None)) for key in keys}
        rest |= {f"{name}.{key}": value for key, value in part.items()}
    return {**row, "extra": as_text(rest) if rest else None}


def as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value and value.replace("\ud83d", "\ufffd")  # half an emoji cannot be stored
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def busiest(arrivals: list[float], seconds: float) -> int:
    """The largest number of requests in any trailing window of `seconds`."""
    found, first = 0, 0
    arrivals = sorted(arrivals)
    for number, at in enumerate(arrivals):
        while at - arrivals[first] >= seconds:
            first += 1
        found = max(found, number - first + 1)
    return found


@contextmanager
def serving(
    directory: Path,
    attempts: int = 2_000,
    days: float = 30,
    seed: int = 1,
    now: datetime = NOW,
    limits: Limits = UNLIMITED,
    **switches: Any,
) -> Iterator[World]:
    """A world whose warehouse is in `directory`. `switches` are fields of Switches and Faults."""
    account = account_of(seed, attempts, days, int((now - timedelta(days=days)).timestamp()))
    wrong = {f.name: switches.pop(f.name) for f in fields(Faults) if f.name in switches}
    chosen = Switches(**switches)
    with Sandbox(account, switches=chosen, limits=limits, faults=Faults(**wrong)) as sandbox:
        settings = Settings(
            directory=directory,
            credentials=Credentials.of(sandbox.account_sid, sandbox.auth_token),
            base_url=sandbox.url,
            requests_per_minute=PACELESS,
            timeout=PATIENT,
        )
        world = World(sandbox, settings, now)
        sandbox.now = lambda: world.now.timestamp()
        if account is account_of(*USUAL) and chosen == Switches() and not wrong:
            world.truths.update(usual_truth(world))
        yield world


@cache
def account_of(seed: int, attempts: int, days: float, since: int) -> Account:
    """A cached account: the attempts it generates for one test are reused by the next."""
    return Account(seed=seed, attempts=attempts, days=days, since=since)


USUAL = (1, 2_000, 30, int((NOW - timedelta(days=30)).timestamp()))
_usual_truth: dict[datetime, dict[str, Row]] = {}


def usual_truth(world: World) -> dict[datetime, dict[str, Row]]:
    """The expected rows of the default account at NOW, where nearly every test starts."""
    if not _usual_truth:
        _usual_truth[NOW] = world.truth(NOW)
    return _usual_truth


def configure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of(world).items():
        monkeypatch.setenv(name, value)


def refused(capture: Capture, *argv: str) -> tuple[int, str]:
    """Runs a command that must fail; returns its exit code and its single line on stderr."""
    code = main(argv, now=NOW)
    told = capture.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.err
    return code, told.err


@contextmanager
def in_memory() -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database with the raw tables of a sync, empty."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        create_raw(connection, ATTEMPTS.empty_table())
        yield connection
