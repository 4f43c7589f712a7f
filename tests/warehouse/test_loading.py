"""Loading: no configuration of others reaches dlt, and no load may delete attempts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, get_args

import duckdb
import pyarrow as pa
import pytest
from dlt.common import known_env
from dlt.common.configuration.specs import BaseConfiguration
from dlt.pipeline.configuration import PipelineConfiguration

from pipelines.errors import Failure
from pipelines.reading.package import Package
from pipelines.twilio.columns import ATTEMPTS, REJECTED
from pipelines.warehouse import loading
from tests.worlds import NOW, REPOSITORY, World, environment_of

SECTIONS = (
    "", "PIPELINES__", "PIPELINES__VERIFY_SYNC__", "VERIFY_SYNC__", "SOURCES__", "RUNTIME__",
    "EXTRACT__", "NORMALIZE__", "LOAD__", "SCHEMA__", "DATA_WRITER__", "NORMALIZE__DATA_WRITER__",
    "DESTINATION__", "DESTINATION__DUCKDB__", "DESTINATION__DUCKDB__CREDENTIALS__", "PROVIDERS__",
)  # fmt: skip


def specs(of: type[BaseConfiguration] = BaseConfiguration) -> Iterator[type[BaseConfiguration]]:
    for spec in of.__subclasses__():
        yield spec
        yield from specs(spec)


def hostile() -> dict[str, str]:
    """A variable for every option of dlt, in every section where dlt may look for it."""
    found = {name: "7up" for name in vars(known_env).values() if str(name).startswith("DLT_")}
    for spec in specs():
        own = f"{spec.__section__.upper()}__" if spec.__section__ else ""
        for name, hint in spec.get_resolvable_fields().items():
            for section in {*SECTIONS, own}:
                found[f"{section}{name.upper()}"] = wrong(name, hint, spec)
    # What the machine itself needs, and what belongs to us.
    mine = {"DLT_PROJECT_DIR", "WAREHOUSE"}
    return {name: value for name, value in found.items() if name not in {*os.environ, *mine}}


def wrong(name: str, hint: Any, spec: type[BaseConfiguration]) -> str:
    choices = [text for text in str_choices(hint) if text]
    if choices:
        return "drop_data" if "drop_data" in choices else choices[-1]
    default = getattr(spec, name, None)
    return str(not default) if isinstance(default, bool) else "prod_%s"


def str_choices(hint: Any) -> Iterator[str]:
    """The texts of a Literal, also inside of an Optional."""
    for part in get_args(hint):
        if isinstance(part, str):
            yield part
        else:
            yield from str_choices(part)


def as_toml(variables: dict[str, str]) -> str:
    lines = [f"{name.lower().replace('__', '.')} = '{value}'" for name, value in variables.items()]
    return "\n".join(lines)


def test_no_option_of_dlts_reaches_the_pipeline_from_outside(
    make_world: Callable[..., World], tmp_path: Path
) -> None:
    """Real processes, because dlt reads some variables when it is imported."""
    world = make_world(now=datetime.now(timezone.utc))
    world.sandbox.now = time.time
    plain = {**os.environ, **environment_of(world), "PYTHONPATH": str(REPOSITORY)}
    others = hostile()
    assert {"REFRESH", "PIPELINES__REFRESH", "STAGING_TYPE", "RUNTIME__SENTRY_DSN"} <= others.keys()
    assert len(others) > 2_000
    project = tmp_path / "project"
    (project / ".dlt").mkdir(parents=True)
    pipelines = {n: v for n, v in others.items() if n.count("__") == 1 and n[:10] == "PIPELINES_"}
    (project / ".dlt" / "config.toml").write_text(as_toml(pipelines))
    for environment, *argv in (
        (plain, "sync"),
        ({**plain, **others, "DLT_PROJECT_DIR": str(project)}, "backfill", "--days", "2"),
    ):
        command = [sys.executable, "-m", "pipelines", *argv]
        told = subprocess.run(
            command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stderr
        assert told.stderr.count("\n") == told.stderr.count("Z ")
    sids = {row["sid"] for row in world.query("select sid from raw")}
    assert sids >= {attempt["sid"] for attempt in world.sandbox.truth(world.now.timestamp())}
    (runs,) = world.query("select count(*) as n from twilio_verify.sync_runs")
    assert runs["n"] == 2
    with duckdb.connect(str(world.settings.directory / "loading.duckdb")) as connection:
        schemas = connection.execute("select distinct schema_name from duckdb_tables()").fetchall()
    assert {name for (name,) in schemas} <= {"main", "twilio_verify", "twilio_verify_staging"}
    assert not [*tmp_path.glob("*.duckdb"), *tmp_path.glob("_storage")]


def test_every_option_of_the_pipeline_is_known_to_us() -> None:
    """A new option of a later dlt fails here: decide whether our pipeline needs it."""
    known = {
        "pipeline_name", "pipelines_dir", "destination_type", "destination_name", "staging_type",
        "staging_name", "import_schema_path", "export_schema_path", "dataset_name",
        "dataset_name_layout", "pipeline_salt", "restore_from_destination", "enable_runtime_trace",
        "use_single_dataset", "full_refresh", "dev_mode", "progress", "runtime", "refresh",
    }  # fmt: skip
    assert set(PipelineConfiguration.get_resolvable_fields()) == known


@pytest.mark.parametrize(
    "refresh", ["drop_data", pytest.param("drop_resources", marks=pytest.mark.long)]
)
@pytest.mark.parametrize("is_published", [True, False])
def test_a_load_that_deletes_attempts_is_never_published(
    synced: World, monkeypatch: pytest.MonkeyPatch, refresh: str, is_published: bool
) -> None:
    before = synced.stored()
    if not is_published:
        synced.settings.published.unlink()
    synced.move(hours=30)
    with monkeypatch.context() as patch:
        patch.setitem(loading._OPTIONS, "pipelines", {"refresh": refresh})
        with pytest.raises(Failure, match=r"deleted attempts .* renamed to .*set-aside-1: run"):
            synced.sync()
    assert synced.settings.published.exists() == is_published
    if is_published:
        assert synced.stored() == before
    synced.sync()
    assert synced.stored().keys() == {*synced.truth()} | ({*before} if is_published else set())


def test_a_pending_package_may_not_delete_attempts_either(
    synced: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, load = synced.stored(), loading.dlt.Pipeline.load

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    def deleting(pipeline: loading.dlt.Pipeline) -> Any:
        with pipeline.sql_client() as connection:
            connection.execute_sql(
                "delete from attempts where sid > (select min(sid) from attempts)"
            )
        return load(pipeline)

    synced.move(hours=30)
    for instead, ends in ((interrupted, KeyboardInterrupt), (deleting, Failure)):
        with monkeypatch.context() as patch:
            patch.setattr(loading.dlt.Pipeline, "load", instead)
            with pytest.raises(ends):
                synced.sync()
    assert synced.stored() == before


def test_rows_that_arrive_elsewhere_are_missed(
    synced: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced.move(hours=30)
    with monkeypatch.context() as patch:
        patch.setattr(loading, "SCHEMA", "elsewhere")
        with pytest.raises(Failure, match="did not arrive"):
            synced.sync()
    synced.sync()
    assert synced.stored().keys() >= synced.truth().keys()


def test_a_loaded_package_leaves_memory(world: World) -> None:
    """A sync of many packages takes no more memory than one of few."""
    warehouse = world.warehouse()
    with warehouse.opened():
        for number in range(3):
            row = {"sid": f"VL{number}", "date_created": NOW, "read_at": NOW}
            package = Package(pa.Table.from_pylist([row], ATTEMPTS), REJECTED.empty_table())
            loaded = weakref.ref(package)
            warehouse.loader.load(package)
            del package
            assert loaded() is None
