"""Pytest hooks and shared fixtures. The helpers behind the fixtures: worlds."""

from __future__ import annotations

import gc
import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import hypothesis
import pytest

from pipelines import errors
from tests import nursery
from tests.clocks import OF_A_RUN, Time
from tests.sql.given import apply_views
from tests.worlds import (
    REPOSITORY,
    World,
    configure,
    in_memory,
    serving,
    slice_small,
)

OURS = ("TWILIO_", "SOURCES__", "WAREHOUSE__")
Emptied = Callable[..., duckdb.DuckDBPyConnection]
for name, examples in {"short": 25, "long": 400}.items():
    hypothesis.settings.register_profile(
        name,
        max_examples=examples,
        # Both use the wall clock, so a slow machine would fail tests.
        deadline=None,
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run only the long tests")
    parser.addoption("--seed", type=int, help="random seed; a failure prints the one it used")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Chooses one random seed for all workers. A worker gets it from the main process."""
    told: dict[str, int] = getattr(config, "workerinput", {})
    if config.option.seed is None:
        config.option.seed = told.get("seed", random.randrange(10**6))
    config.option.hypothesis_seed = str(config.option.seed)
    hypothesis.settings.load_profile("long" if config.option.long else "short")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist's hook: passes the seed to a worker before it starts."""
    node.workerinput["seed"] = node.config.option.seed


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --long: all tests not marked `long`. With --long: the tests marked `long`, and
    Hypothesis tests with more examples."""
    chosen: dict[bool, list[pytest.Item]] = {True: [], False: []}
    for item in items:
        is_long = item.get_closest_marker("long") is not None
        has_examples = hypothesis.is_hypothesis_test(getattr(item, "obj", None))
        chosen[is_long or has_examples if config.option.long else not is_long].append(item)
    config.hook.pytest_deselected(items=chosen[False])
    items[:] = chosen[True]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Adds to a failure the command that repeats the test with the same seed."""
    report: Any = yield
    if report.failed:
        long = " --long" if item.config.option.long else ""
        seed = item.config.option.seed
        again = f"""make test ARGS="'{item.nodeid}' --seed {seed}{long}\""""
        report.sections.append(("To repeat it", again))
    return report  # type: ignore[return-value]


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # a run collects garbage after each load: skip the modules


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # else a library inside DuckDB reports the modules as leaks
    nursery.close()


@pytest.fixture(autouse=True)
def bare_environment(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    bare(monkeypatch)
    seed = f"{request.config.option.seed} {request.node.nodeid}"
    random.seed(seed)
    monkeypatch.setenv(nursery.SEED, seed)


def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the machine's settings and what earlier tests have left behind."""
    for name in [name for name in os.environ if name.startswith(OURS)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DLT_PROJECT_DIR", str(REPOSITORY))
    monkeypatch.setenv("RUNTIME__DLTHUB_TELEMETRY", "false")
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "CRITICAL")
    monkeypatch.setenv("COLUMNS", "200")  # width of printed tables
    # State that earlier tests in this process left behind.
    logging.getLogger("verify_sync").handlers.clear()
    errors._SECRETS.clear()


@pytest.fixture(autouse=True)
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clock of a run. Only the test moves it, so a run's windows are known to the second."""
    time = Time(monkeypatch.setattr)
    time.rule(*OF_A_RUN)
    return time


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Time:
    """A fake clock for the rate limit, for retries and for the sandbox: their waits end at once."""
    time = Time(monkeypatch.setattr)
    time.rule_waits()
    return time


@pytest.fixture
def in_slices(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose first sync reads many slices."""
    slice_small(monkeypatch.setattr)
    world = make_world(attempts=800)
    world.settings = replace(world.settings, page_size=100)
    return world


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
    """The warehouse folder after a first sync of the default account. `synced` copies it."""
    folder = tmp_path_factory.mktemp("first") / "warehouse"
    with pytest.MonkeyPatch.context() as monkeypatch:
        bare(monkeypatch)
        Time(monkeypatch.setattr).rule(*OF_A_RUN)
        with serving(folder) as world:
            world.sync()
    return folder


@pytest.fixture
def synced(world: World, first_sync: Path) -> World:
    """`world` after its first sync. The sandbox's log does not contain that sync's requests."""
    shutil.copytree(first_sync, world.settings.directory)
    return world


@pytest.fixture
def configured(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """`world`, with its settings in environment variables, as an operator sets them."""
    configure(world, monkeypatch)
    return world


@pytest.fixture(scope="session")
def emptied() -> Iterator[Emptied]:
    """`emptied(**settings)` returns a database with empty tables and the views for these settings.
    All tests share it, because creating the views takes longer than querying them."""
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
