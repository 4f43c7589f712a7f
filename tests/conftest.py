"""What the tests share: a sandbox whose clock they set, its truth, a temporary warehouse."""

from __future__ import annotations

import gc
import json
import logging
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import hypothesis
import pytest

from pipelines import errors, reading, sizing
from pipelines.__main__ import main
from pipelines.client import Client
from pipelines.clock import Clock
from pipelines.credentials import Credentials
from pipelines.decode import SCHEMA
from pipelines.reading import packages
from pipelines.runs import Run
from pipelines.sandbox.account import Account
from pipelines.sandbox.server import Sandbox
from pipelines.sandbox.switches import Faults, Limits, Switches
from pipelines.settings import Settings
from pipelines.sizing import Slice
from pipelines.sync import connect, sync, windows_read
from pipelines.views import create_raw
from pipelines.warehouse import Warehouse
from pipelines.windows import LAST_CALL, RETENTION, Window, plan
from tests import nursery
from tests.clocks import OF_A_RUN, Time
from tests.given import apply_views

REPOSITORY = Path(__file__).resolve().parents[1]
NOW = datetime(2026, 11, 20, 12, 0, tzinfo=timezone.utc)
UNLIMITED = Limits(requests=0)
PACELESS = 100_000  # requests a minute
PATIENT = 600  # seconds for an answer: a machine that stalls is no network that does
TOP = ("sid", "account_sid", "service_sid", "verification_sid", "date_created", "date_updated",
       "conversion_status", "channel", "url")  # fmt: skip
NESTED = {
    "price": ("value", "currency"),
    "channel_data": ("verification_sid", "to", "status", "message_status", "error_code", "country",
                     "code_length", "locale", "mcc", "mnc", "carrier"),
}  # fmt: skip
OURS = ("TWILIO_", "SOURCES__", "WAREHOUSE__")

Row = dict[str, Any]
Reads = list[reading.SliceRead]
Capture = pytest.CaptureFixture[str]
Emptied = Callable[..., duckdb.DuckDBPyConnection]

for name, examples in {"short": 25, "long": 400}.items():
    hypothesis.settings.register_profile(
        name,
        max_examples=examples,
        # Both compare with the clock on the wall, which goes on while a machine stalls.
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="the long tests, and these alone")
    parser.addoption("--seed", type=int, help="what is drawn at random; a failure names its own")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """One seed for all workers, which hear it from the process that starts them."""
    told: dict[str, int] = getattr(config, "workerinput", {})
    if config.option.seed is None:
        config.option.seed = told.get("seed", random.randrange(10**6))
    config.option.hypothesis_seed = str(config.option.seed)
    hypothesis.settings.load_profile("long" if config.option.long else "short")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist's hook, where a worker is about to be started."""
    node.workerinput["seed"] = node.config.option.seed


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked `long` run with --long; with it those too of which more examples are more."""
    chosen: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        is_long = item.get_closest_marker("long") is not None
        has_examples = hypothesis.is_hypothesis_test(getattr(item, "obj", None))
        chosen[is_long or has_examples if config.option.long else not is_long].append(item)
    config.hook.pytest_deselected(items=chosen[False])
    items[:] = chosen[True]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """What failed says how to run it again as it was."""
    report: Any = yield
    if report.failed:
        long = " --long" if item.config.option.long else ""
        seed = item.config.option.seed
        again = f"""make test ARGS="'{item.nodeid}' --seed {seed}{long}\""""
        report.sections.append(("To repeat it", again))
    return report  # type: ignore[return-value]


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # a run looks for garbage after each load, and need not go through modules


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or what DuckDB is built with takes them for leaks
    nursery.close()


@pytest.fixture(autouse=True)
def bare_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    bare(monkeypatch)
    seed = f"{request.config.option.seed} {request.node.nodeid}"
    random.seed(seed)
    monkeypatch.setenv(nursery.SEED, seed)


def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of the machine's reaches a test, and none of a test's outlives it."""
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DLT_PROJECT_DIR", str(REPOSITORY))
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "CRITICAL")
    monkeypatch.setenv("COLUMNS", "200")  # how wide a table may be
    # What earlier tests have left behind, as a process of its own would not.
    logging.getLogger("verify_sync").handlers.clear()
    errors._SECRETS.clear()


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Within a run none passes but what the test adds: its windows are known to the second."""
    time = Time(monkeypatch.setattr)
    time.rule(*OF_A_RUN)
    return time


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Time:
    """Time of its own for the rate limit and for tries after a failure: waiting for them is over at
    once."""
    time = Time(monkeypatch.setattr)
    time.rule_waits()
    return time


@dataclass
class World:
    """A sandbox and a warehouse beside it; `now` is the present of both."""

    sandbox: Sandbox
    settings: Settings
    now: datetime = field(default=NOW)
    truths: dict[datetime, dict[str, Row]] = field(default_factory=dict, repr=False)

    def sync(self) -> Run:
        return sync(self.settings, self.now)

    def move(self, **duration: float) -> None:
        self.now += timedelta(**duration)

    def truth(self, at: datetime | None = None) -> dict[str, Row]:
        """By sid: what the API would list, up to the second before now, as columns of text."""
        at = at or self.now
        if at not in self.truths:
            listed = self.sandbox.truth(at.timestamp())
            rows = {attempt["sid"]: as_columns(attempt) for attempt in listed if is_whole(attempt)}
            self.truths[at] = {s: row for s, row in rows.items() if row["date_created"] < at}
        return dict(self.truths[at])

    def unusable(self) -> list[Row]:
        """What the API lists that cannot be an attempt."""
        return [row for row in self.sandbox.truth() if not is_whole(row)]

    def stored(self) -> dict[str, Row]:
        """By sid: the published attempts, each of them once, without `read_at`."""
        rows = self.query("select * exclude (read_at) from raw")
        stored = {row["sid"]: row for row in rows}
        assert len(stored) == len(rows), "an attempt is stored twice"
        return stored

    def query(self, sql: str) -> list[Row]:
        """`raw` stands for twilio_verify.attempts."""
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


@cache
def reader() -> duckdb.DuckDBPyConnection:
    """To make an instance takes four times as long as to ask it."""
    return duckdb.connect()


def environment_of(world: World) -> dict[str, str]:
    """What an operator would set."""
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
    """A module, with the world's settings in the environment; see nursery.run."""
    environment = {**os.environ, **environment_of(world)}
    return nursery.run(module, argv, environment, prepare=prepare)


def slice_small(change: Callable[[Any, str, int], None] = setattr) -> None:
    """About 12 slices for 800 attempts at 100 a page, in packages of 4 to 6 pages."""
    for module, name, value in (
        (sizing, "MOST_PAGES", 2),
        (sizing, "USUAL_PAGES", 1),
        (reading, "MOST_PAGES", 2),
        (reading, "USUAL_PAGES", 1),
        (reading, "ENOUGH_PAGES", 4),
    ):
        change(module, name, value)


@pytest.fixture
def in_slices(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of which a first sync reads many slices."""
    slice_small(monkeypatch.setattr)
    world = make_world(attempts=800)
    world.settings = replace(world.settings, page_size=100)
    return world


def read_windows(world: World, windows: Iterable[Window], client: Client | None = None) -> Reads:
    """Each as one slice."""
    client = client or connect(world.settings, Clock(world.now))
    groups = packages(client, (Slice(window, None, 1) for window in windows))
    return [read for group in groups for read in group]


def due_windows(world: World) -> list[Window]:
    """What a sync would read."""
    read = windows_read(Warehouse(world.settings), world.settings, world.now)
    return plan(read, world.settings.revisit_after, world.now)


def nothing_is_due(world: World) -> bool:
    """But perhaps a later last call, see the planner's tests."""
    last_day = world.now - RETENTION + LAST_CALL
    return all(piece.before <= last_day for piece in due_windows(world))


def is_whole(attempt: Row) -> bool:
    return attempt["sid"] is not None and attempt["date_created"] != "soon"


def as_columns(attempt: Row) -> Row:
    """An attempt of the API as a row of `twilio_verify.attempts`, worked out by hand."""
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
    """The most requests that any trailing window of `seconds` holds."""
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
    """A world whose warehouse is in `directory`; `switches` are those of Switches and Faults."""
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
    """Of what it has made up for one test it is not asked again by the next."""
    return Account(seed=seed, attempts=attempts, days=days, since=since)


USUAL = (1, 2_000, 30, int((NOW - timedelta(days=30)).timestamp()))
_usual_truth: dict[datetime, dict[str, Row]] = {}


def usual_truth(world: World) -> dict[datetime, dict[str, Row]]:
    """What the usual account holds when nearly every test begins."""
    if not _usual_truth:
        _usual_truth[NOW] = world.truth(NOW)
    return _usual_truth


@pytest.fixture
def make_world(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Starts a sandbox: make_world(attempts=…, days=…, limits=…, <switches>, <faults>)."""
    with ExitStack() as stack:
        yield lambda **given: stack.enter_context(serving(tmp_path / "warehouse", **given))


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    return make_world()


@pytest.fixture(scope="session")
def first_sync(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a first sync of the usual account leaves, for `synced` to copy."""
    folder = tmp_path_factory.mktemp("first") / "warehouse"
    with pytest.MonkeyPatch.context() as monkeypatch:
        bare(monkeypatch)
        Time(monkeypatch.setattr).rule(*OF_A_RUN)
        with serving(folder) as world:
            world.sync()
    return folder


@pytest.fixture
def synced(world: World, first_sync: Path) -> World:
    """`world` after its first sync, of which its sandbox's log does not tell."""
    shutil.copytree(first_sync, world.settings.directory)
    return world


@pytest.fixture
def configured(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The environment an operator would set for `world`."""
    configure(world, monkeypatch)
    return world


def configure(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment_of(world).items():
        monkeypatch.setenv(name, value)


def refused(capture: Capture, *argv: str) -> tuple[int, str]:
    """Exit code and the one line on stderr of a command that must not work."""
    code = main(argv, now=NOW)
    told = capture.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1
    assert "Traceback" not in told.err
    return code, told.err


@contextmanager
def in_memory() -> Iterator[duckdb.DuckDBPyConnection]:
    """The raw tables as a sync would make them, empty."""
    with duckdb.connect() as connection:
        connection.execute("set timezone = 'UTC'")
        create_raw(connection, SCHEMA.empty_table())
        yield connection


@pytest.fixture(scope="session")
def emptied() -> Iterator[Emptied]:
    """`emptied(**settings)`: a database with their views, emptied at each call. To make the views
    takes longer than to ask them about a few attempts."""
    with in_memory() as connection:
        tables = connection.execute(
            "select table_name from duckdb_tables() where schema_name = 'twilio_verify'"
        ).fetchall()

        def empty(**settings: Any) -> duckdb.DuckDBPyConnection:
            for (table,) in tables:
                connection.execute(f"delete from twilio_verify.{table}")
            connection.execute("set timezone = 'UTC'")
            apply_views(connection, **settings)
            return connection

        yield empty


@pytest.fixture
def database(emptied: Emptied) -> duckdb.DuckDBPyConnection:
    return emptied()
