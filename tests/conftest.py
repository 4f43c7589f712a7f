"""Pytest's hooks, and the fixtures that tests ask for by name. What they are made of: worlds."""

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


@pytest.fixture
def in_slices(make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of which a first sync reads many slices."""
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
