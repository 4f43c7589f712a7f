"""The user's own views and checks: applied after ours, published, and never an obstacle."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from pipelines.__main__ import main
from tests.worlds import NOW, Capture, World

Write = Callable[[str, str], Path]
BUSIEST = """-- What we look at every morning.
create or replace view busiest as
select
    service_sid,
    count(*) as attempts
from verification_attempts
group by service_sid;

comment on view busiest is 'One row per service.';
comment on column busiest.attempts is 'Sent by it; it isn''t ours.';
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of the user's folder: own("reports/mine.sql", text)."""
    folder = tmp_path / "mine"
    (folder / "reports").mkdir(parents=True)
    monkeypatch.setenv("WAREHOUSE__SQL", str(folder))

    def write(name: str, text: str) -> Path:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
        return file

    return write


def warnings(capture: Capture) -> list[str]:
    lines = capture.readouterr().err.splitlines()
    return [line for line in lines if "skipped" in line or "check" in line]


def published_views(world: World) -> set[str]:
    return {row["view_name"] for row in world.query(
        "select view_name from duckdb_views() where schema_name = 'main' and not internal")
    }  # fmt: skip


def test_a_view_is_published_and_the_next_sync_applies_a_change(
    configured: World, capsys: Capture, own: Write, tmp_path: Path
) -> None:
    own("reports/busiest.sql", BUSIEST)
    assert main(["sync"], now=NOW) == 0
    assert len(configured.query("from busiest")) == 3
    (comment,) = configured.query(
        "select comment from duckdb_columns() where table_name = 'busiest' and comment is not null"
    )
    assert comment["comment"] == "Sent by it; it isn't ours."
    assert main(["sync"], now=NOW) == 0
    assert "nothing new to publish" in capsys.readouterr().out
    # The same columns, another meaning.
    own("reports/busiest.sql", BUSIEST.replace("count(*)", "-count(*)"))
    assert main(["sync"], now=NOW) == 0
    assert "; published" in capsys.readouterr().out
    assert all(row["attempts"] < 0 for row in configured.query("from busiest"))
    backup = shutil.copy(configured.settings.published, tmp_path / "backup.duckdb")
    assert main(["restore", str(backup)], now=NOW) == 0
    assert len(configured.query("from busiest")) == 3
    (tmp_path / "mine" / "reports" / "busiest.sql").unlink()
    assert main(["sync"], now=NOW) == 0
    assert "busiest" not in published_views(configured)
    assert warnings(capsys) == []


@pytest.mark.usefixtures("synced")
def test_views_may_read_each_other_in_any_order(
    configured: World, capsys: Capture, own: Write
) -> None:
    own("reports/a.sql", "create view a as select * from b")
    own("reports/b.sql", "create view b as select * from c")
    own("reports/c.sql", "create view c as select 1 as one")
    own("reports/x.sql", "create view x as select * from y")
    own("reports/y.sql", "create view y as select * from x")
    assert main(["views"], now=NOW) == 0
    assert configured.query("from a") == [{"one": 1}]
    told = warnings(capsys)
    assert len(told) == 2
    assert "reports/x.sql, line 1: Catalog Error" in told[0]
    assert {"a", "b", "c"} <= published_views(configured)


# The text of a file, and the warning that follows the file's name.
LEFT_OUT = {
    "empty": ("", "line 1: the file does not create the view mine"),
    "no such column": (
        "-- A line.\n\ncreate view mine as\nselect\n    channel,\n    chanel\nfrom stg_attempts",
        'line 6: Binder Error: Referenced column "chanel" not found',
    ),
    "a slip": ("\n\ncreate view mine as\nselect 1 +;", "line 4: Parser Error"),
    "no such table": ("create view mine as from nowhere", "line 1: Catalog Error: Table with name"),
    "a wrong comment": (
        "create view mine as select 1 as a;\n\n-- b\ncomment on column mine.b is 'c';",
        "line 4: ",
    ),
    "another name": ("\ncreate view yours as select 1 as a", "line 2: only `create or replace"),
    "a table": ("create table mine as select 1 as a", "line 1: only `create or replace view mine"),
    "more": (
        "create view mine as select 1 as a;\ndelete from twilio_verify.attempts;",
        "line 2: only",
    ),
    "in a comment": (
        "/* /* */ create view mine as select 1 */ drop table twilio_verify.attempts;",
        "line 1: only",
    ),
    "a comment on ours": (
        "create view mine as select 1;\ncomment on view daily_conversion is ''",
        "line 2: only",
    ),
    "a query": ("select 1", "line 1: only"),
    "a rewritten one": ("create view mine as select 1;\npragma show_tables;", "line 2: only"),
    "a pragma": ("create view mine as select 1;\nset threads = 1;", "line 2: only"),
    "no such file": ("create view mine as from read_csv('nowhere.csv')", "line 1: IO Error"),
    "too large": ("-- a comment\n" * 100_000, "line 1: the file is larger than 1 MB"),
    "control": ('create view mine as from "\x1b[31m"', "line 1: Catalog Error"),
    "a number": ('create view mine as select "573001234567"', "[redacted]"),
}


@pytest.mark.parametrize("kind", LEFT_OUT)
@pytest.mark.usefixtures("synced")
def test_one_that_cannot_be_applied_is_left_out_with_one_line(
    configured: World, capsys: Capture, own: Write, kind: str
) -> None:
    text, told = LEFT_OUT[kind]
    file = own("reports/mine.sql", text)
    own("reports/other.sql", "create view other as select 1 as one")
    before = configured.stored()
    capsys.readouterr()
    for command in ("views", "sync"):  # every run tries the file again
        assert main([command], now=NOW) == 0
        (line,) = warnings(capsys)
        assert f" your view is skipped: {file}, " in line
        assert told in line
        assert "\x1b" not in line
        assert "573001234567" not in line
    assert "mine" not in published_views(configured)
    assert configured.query("from other") == [{"one": 1}]
    assert configured.stored() == before


@pytest.mark.usefixtures("synced")
def test_names_that_are_none_and_files_that_are_no_text(
    configured: World, capsys: Capture, own: Write
) -> None:
    own("reports/settings.sql", "create view settings as select 1 as a")
    own("reports/daily_conversion.sql", "create or replace view daily_conversion as select 1 as a")
    own("reports/two words.sql", 'create view "two words" as select 1 as a')
    own("reports/a;drop.sql", "create view a as select 1")
    own("reports/latin.sql", "").write_bytes(b"create view latin as select '\xe9' as a")
    x = own("reports/x.sql", "create view x as select 1 as a")
    x.with_name("folder.sql").mkdir()
    os.mkfifo(x.with_name("pipe.sql"))
    before = configured.query("from daily_conversion order by all")
    capsys.readouterr()
    assert main(["views"], now=NOW) == 0
    told = warnings(capsys)
    assert len(told) == 7
    assert sum("line 1: it is not a regular file" in line for line in told) == 2
    assert configured.query("from daily_conversion order by all") == before
    assert configured.query("from x") == [{"a": 1}]


@pytest.mark.usefixtures("synced")
def test_own_checks_warn_and_hold(configured: World, capsys: Capture, own: Write) -> None:
    own("checks/few.sql", "-- severity: warn\n-- Few.\nselect 1 as one")
    own("checks/none.sql", "-- severity: fail\r\n-- None.\r\nselect 1 as one where false")
    capsys.readouterr()
    assert main(["check", "--all"], now=NOW) == 0
    told = capsys.readouterr().out
    assert "warn  few, 1 row: Few.\n      one 1\n" in told
    assert "ok    none\n" in told
    assert "ok    sids_are_unique\n" in told
    assert main(["views"], now=NOW) == 0
    assert "check warn: few, 1 row: Few." in capsys.readouterr().err
    configured.move(days=1)
    published = configured.settings.published.read_bytes()
    own("checks/none.sql", "-- severity: fail\n-- None.\nselect 1 as one")
    assert main(["sync"], now=configured.now) == 1
    assert "verify.duckdb stays as it was, because checks failed: none" in capsys.readouterr().err
    assert configured.settings.published.read_bytes() == published
    own("checks/none.sql", "").unlink()
    own("checks/sids_are_unique.sql", "-- severity: warn\n-- Other.\nselect 1 where false")
    assert main(["check", "--all", "--quiet"], now=configured.now) == 1
    told = capsys.readouterr().out
    assert "fail  sids_are_unique: not run: verify-sync has a check of this name" in told
    own("checks/sids_are_unique.sql", "").unlink()
    assert main(["sync"], now=configured.now) == 0
    assert configured.stored().keys() >= configured.truth().keys()


@pytest.mark.usefixtures("synced")
def test_a_run_warns_of_a_view_only_once(configured: World, capsys: Capture, own: Write) -> None:
    own("reports/mine.sql", "create view mine as from nowhere")
    capsys.readouterr()
    assert main(["reconcile", "--days", "1"], now=NOW) == 0  # applies views twice
    assert len(warnings(capsys)) == 1


def test_a_folder_that_holds_neither_is_refused(
    configured: World, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path / "nowhere", tmp_path):
        monkeypatch.setenv("WAREHOUSE__SQL", str(folder))
        assert main(["sync"], now=NOW) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert f"warehouse.sql: {folder} is not a folder with reports/ or checks/" in told
    assert not configured.settings.directory.exists()


@pytest.mark.usefixtures("synced")
def test_a_view_whose_file_is_gone_keeps_nothing_from_being_published(
    configured: World, capsys: Capture, own: Write, tmp_path: Path
) -> None:
    prices = tmp_path / "prices.csv"
    prices.write_text("country,price\nCO,0.05\n")
    own("reports/prices.sql", f"create view prices as from read_csv('{prices}')")
    assert main(["views"], now=NOW) == 0
    with duckdb.connect(str(configured.settings.published), read_only=True) as reader:
        assert reader.execute("from prices").fetchall() == [("CO", 0.05)]
    prices.unlink()
    configured.move(days=1)
    assert main(["sync"], now=configured.now) == 0
    assert configured.stored().keys() >= configured.truth().keys()
