"""The checks: each finds its fault, and a failed check keeps the published file as it was."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import duckdb
import hypothesis
import pytest
from hypothesis import strategies as st

from pipelines.__main__ import main
from pipelines.warehouse import checks
from pipelines.warehouse.checks import FAIL, WARN, check_files, run_checks
from pipelines.warehouse.connections import is_damage
from pipelines.warehouse.recovery import loads_in
from pipelines.warehouse.scope import Scope
from pipelines.warehouse.views import view_files
from tests.sql.given import found_by, given
from tests.worlds import NOW, Capture, World, make_kept_tables

# Duplicates an attempt that no sync reads again in the next hour.
TWICE = """insert into twilio_verify.attempts
    from twilio_verify.attempts order by date_created limit 1 offset 900"""
FIRST = "where sid = (select min(sid) from twilio_verify.attempts)"
SUBTLE = """create or replace view {0} as
    select * replace ({1} + (row_number() over () = 1)::bigint as {1}) from ({2})"""
COUNTED = {
    "daily_conversion": "attempts mature_attempts converted_attempts delivered_attempts"
    " failed_attempts unknown_attempts verifications converted_verifications credited_conversions",
    "conversion_cost": "attempts priced price_pending unpriced channel_spend wasted_spend"
    " credited_conversions",
    "verifications": "attempts",
}


FORGOTTEN = "delete from twilio_verify._marks where name = 'warning'"
HEAD = "-- severity: warn\n-- Rows.\n"


@pytest.fixture
def own_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes `mine.sql`, with the given text, the only check."""

    def written(text: str) -> Path:
        mine = tmp_path / "mine.sql"
        mine.write_text(text, encoding="utf-8")
        monkeypatch.setattr(checks, "check_files", lambda: [mine])
        return mine

    return written


def spoil(world: World, *statements: str) -> None:
    """Changes the run's own database, and makes the kept tables from what is there then."""
    with duckdb.connect(str(world.settings.directory / "loading.duckdb")) as connection:
        connection.execute("set timezone = 'UTC'")
        for statement in statements:
            connection.execute(statement)
        make_kept_tables(connection)


def spoilt_view(name: str, column: str = "attempts") -> str:
    """SQL that replaces a view so that `column` is one too high in one row."""
    (file,) = [file for file in view_files() if file.stem == name]
    body = file.read_text().partition(" as\n")[2].partition(";")[0]
    return SUBTLE.format(name, column, body)


PLANTED = {
    "sids_are_unique": [TWICE],
    "created_when_possible": [
        f"update twilio_verify.attempts set date_created = read_at + interval 2 minute {FIRST}"
    ],
    "values_are_known": [f"update twilio_verify.attempts set channel = 'PIGEON' {FIRST}"],
    "prices_are_positive": [f"update twilio_verify.attempts set price__value = '-0.01' {FIRST}"],
    "fees_add_up": ["update twilio_verify.attempts set price__currency = 'Eur'"],
    "no_new_gaps": [
        "update twilio_verify.windows_read set created_before = read_at - interval 40 day,"
        " created_after = read_at - interval 45 day, read_at = read_at - interval 20 day",
        "insert into twilio_verify.windows_read select * replace (read_at - interval 10 day as"
        " created_after, read_at as created_before) from (select * replace (read_at + interval"
        " 20 day as read_at) from twilio_verify.windows_read limit 1)",
    ],
    "reconciled": [
        f"insert into twilio_verify.reconciliations by name select '{filters}' as filters_hash,"
        f" date '2026-11-01' as created_after, date '2026-11-02' as created_before,"
        f" timestamptz '2026-11-20 {hour}:00:00Z' as reconciled_at, '{outcome}' as outcome,"
        " '1' as _dlt_id, '1' as _dlt_load_id"
        # The second does not resolve the first: it has other filters.
        for filters, hour, outcome in (("a", "01", "differs"), ("b", "02", "agrees"))
    ],
    "synced_lately": [
        "insert into twilio_verify.windows_read select * replace (read_at + interval 26 hour as"
        " read_at, 'failed' as _dlt_load_id) from twilio_verify.windows_read limit 1"
    ],
}


@pytest.mark.parametrize("name", [*PLANTED, "sums_agree"])
@pytest.mark.usefixtures("synced")
def test_each_check_finds_what_it_is_for_and_nothing_else(
    configured: World, capsys: Capture, name: str
) -> None:
    if name == "sums_agree":
        # This check compares views, so a view is spoilt and not a table.
        spoil(configured, spoilt_view("daily_conversion"))
    else:
        spoil(configured, *PLANTED.get(name, []))
    later = timedelta(hours=27 if name == "synced_lately" else 0)
    (severity,) = [f.read_text()[13:17] for f in check_files() if f.stem == name]
    code = main(["check", "--all"], now=NOW + later)
    told = capsys.readouterr()
    verdicts = {
        words[1].rstrip(":,"): words[0]
        for words in (line.split() for line in told.out.splitlines()[1:] if line[0] != " ")
    }
    expected = {f.stem: severity if f.stem == name else "ok" for f in check_files()}
    expected["kept_tables_agree"] = "ok"
    if name == "sids_are_unique":  # the attempt is then counted twice as well
        expected["sums_agree"] = FAIL
    assert verdicts == expected
    assert code == (severity == FAIL)
    assert severity in (FAIL, WARN)
    assert bool(
        re.fullmatch(rf"(verify-sync: \d+ checks? of {len(check_files()) + 1} failed\n)?", told.err)
    )
    assert bool(told.err) == code
    assert any(line.startswith("      ") for line in told.out.splitlines())


def test_a_look_at_all_rows_reads_every_column(synced: World, tmp_path: Path) -> None:
    """Published are the bytes of a file, so damage must not lie unread for long."""
    damaged = tmp_path / "damaged.duckdb"
    shutil.copy(synced.settings.published, damaged)
    with duckdb.connect(str(damaged)) as connection:
        connection.execute(
            "insert into twilio_verify.attempts select attempts.* replace (sid || n as sid,"
            " md5(n || sid) as url) from twilio_verify.attempts, range(40) as numbers (n)"
        )
        connection.execute("checkpoint")
        blocks = connection.execute(
            "select block_id from pragma_storage_info('twilio_verify.attempts') where block_id >= 0"
            " group by block_id having min(column_name) = 'url' and max(column_name) = 'url'"
        ).fetchall()
    content = bytearray(damaged.read_bytes())
    content[3 * 4096 + blocks[0][0] * 2**18 + 1000] ^= 0xFF
    damaged.write_bytes(content)
    with duckdb.connect(str(damaged), read_only=True) as connection:
        run_checks(connection, NOW, scope=Scope.since(connection, loads_in(connection)))
        with pytest.raises(duckdb.Error) as error:
            run_checks(connection, NOW)
        assert is_damage(error.value)


@pytest.mark.usefixtures("synced")
def test_a_view_in_which_every_attempt_is_counted_twice_is_noticed(
    configured: World, capsys: Capture
) -> None:
    spoil(
        configured,
        "create or replace view error_codes as select code, name from (values ('30003', 'a'),"
        " ('30003', 'b')) as codes (code, name)",
    )
    assert main(["check", "--all", "--quiet"], now=NOW) == 1
    told = capsys.readouterr().out
    views = ("daily_conversion", "conversion_cost")
    assert all(f"view_name {view}, counted attempts, " in told for view in views)


@pytest.mark.usefixtures("synced")
def test_an_attempt_that_staging_loses_is_noticed(world: World) -> None:
    with duckdb.connect(str(world.settings.directory / "loading.duckdb")) as connection:
        (staging,) = [file.read_text() for file in view_files() if file.stem == "stg_attempts"]
        body = staging.partition(";")[0]
        connection.execute(f"{body} where channel != 'rbm'")
        make_kept_tables(connection)
        found = found_by(connection, "sums_agree")
        of_days = ("conversion_cost", "daily_conversion")
        assert [row[:2] for row in found] == [(view, "attempts") for view in of_days]


@pytest.mark.usefixtures("synced")
def test_a_view_that_counts_one_too_many_is_noticed(world: World) -> None:
    """Whichever counted column is one too high in one of its rows."""
    with duckdb.connect(str(world.settings.directory / "loading.duckdb")) as connection:
        for view, columns in COUNTED.items():
            for column in columns.split():
                connection.begin()
                connection.execute(spoilt_view(view, column))
                (found,) = found_by(connection, "sums_agree")
                connection.rollback()
                assert found[0] == view
                assert found[2] == found[3] + 1, (view, column)
        assert found_by(connection, "sums_agree") == []


@pytest.mark.usefixtures("synced")
def test_a_failed_check_keeps_the_published_file_and_what_was_read(
    configured: World, capsys: Capture
) -> None:
    before = configured.settings.published.read_bytes()
    spoil(configured, TWICE)
    configured.move(hours=25)  # once a day the checks look at all rows
    assert main(["sync"], now=configured.now) == 1
    told = capsys.readouterr().err
    assert "check fail: sids_are_unique, 1 row: An attempt is stored twice" in told
    assert told.splitlines()[-1] == (
        "verify-sync: verify.duckdb stays as it was, because checks failed: sids_are_unique, "
        "sums_agree; all attempts read are kept, run `make check ARGS=--all` to see the rows"
    )
    assert main(["views"], now=configured.now) == 1
    assert configured.settings.published.read_bytes() == before
    (configured.settings.directory / "loading.duckdb").unlink()  # as the README says
    assert main(["sync"], now=configured.now) == 0
    assert configured.stored().keys() >= configured.truth().keys()
    assert configured.settings.published.read_bytes() != before


@pytest.mark.parametrize(
    ("prices", "found"),
    [
        ([("0.05", "usd"), ("0.05", "EUR")], []),
        ([("0.05", "EUR"), ("0.06", "GBP"), (None, "USD")], [("EUR", 1), ("GBP", 1)]),
        ([("0.05", None)], [("unknown", 1)]),
        ([("free", "USD"), ("0.04", "EUR")], [("EUR", 1)]),
        ([("free", "USD")], []),
        ([], []),
    ],
)
def test_fees_add_up_where_a_price_is_in_their_currency(
    database: duckdb.DuckDBPyConnection,
    prices: list[tuple[str | None, str | None]],
    found: list[tuple[str, int]],
) -> None:
    given(database, *({"price": {"value": v, "currency": c}} for v, c in prices))
    assert sorted(found_by(database, "fees_add_up")) == found


@pytest.mark.parametrize("name", ["values_are_known", "prices_are_positive"])
@pytest.mark.parametrize("space", [" ", "\n", "\t "])
def test_white_space_is_not_told(
    database: duckdb.DuckDBPyConnection, name: str, space: str
) -> None:
    words = {"channel": f"SMS{space}", "conversion_status": f"{space}unconverted"}
    data = {"status": f"expired{space}", "message_status": f"{space}SENT{space}"}
    prices = ({"value": value, "currency": f"usd{space}"} for value in (space, f"0.05{space}"))
    given(database, *({**words, "data": data, "price": price} for price in prices))
    assert found_by(database, name) == []


@pytest.mark.usefixtures("synced")
def test_a_price_that_is_no_number_is_shown(configured: World, capsys: Capture) -> None:
    spoil(configured, f"update twilio_verify.attempts set price__value = 'free' {FIRST}")
    assert main(["check", "--all", "--quiet"], now=NOW) == 0
    told = capsys.readouterr().out
    assert "warn  prices_are_positive, 1 row: A price is negative" in told
    assert "price__value free, price__currency" in told


@pytest.mark.usefixtures("synced")
def test_a_warning_is_said_and_published(configured: World, capsys: Capture) -> None:
    spoil(configured, f"update twilio_verify.attempts set price__value = '-0.01' {FIRST}")
    configured.move(hours=25)
    assert main(["sync"], now=configured.now) == 0
    told = capsys.readouterr()
    assert "check warn: prices_are_positive, 1 row: A price is negative" in told.err
    assert "published" in told.out


@pytest.mark.usefixtures("synced")
def test_rows_are_shown_without_destinations_and_only_the_first(
    configured: World, capsys: Capture, own_check: Callable[[str], Path]
) -> None:
    own_check(
        "-- severity: warn\n-- Numbers.\nselect substr(destination, 2) as number,"
        " substr(destination, 2)::bigint as whole, [destination] as more,"
        " '57 300-123 4567' as spaced, substr(destination, 2)::double as real,"
        " substr(destination, 2)::decimal(20) as exact,"
        " '57.300.123.4567' as dotted, ['d@localhost', 'o''brien@example.com'] as mails,"
        " 12_345_678 as amount, 1234567.5 as usd, 5e9 + 0.5 as part, date '2026-11-20'"
        " as on_day from stg_attempts where channel = 'sms' order by attempt_sid;\n"
    )
    assert main(["check", "--all", "--quiet"], now=NOW) == 0
    first, *rows, last = capsys.readouterr().out.splitlines()
    (there,) = configured.query("select count(*) as n from raw where channel = 'sms'")
    assert first == f"warn  mine, {there['n']:,} rows: Numbers."
    shown = (
        "number [redacted], whole [redacted], more ['[redacted]'], spaced [redacted],"
        " real [redacted].0, exact [redacted], dotted [redacted],"
        ' mails [[redacted], "[redacted]"],'
        " amount 12345678, usd 1234567.5, part 5000000000.5, on_day 2026-11-20"
    )
    assert rows == [f"      {shown}"] * 20
    assert last == f"      … and {there['n'] - 20:,} more"


NO_CHECKS = [
    ("select 1", "the first line must be '-- severity: fail' or '-- severity: warn'"),
    (f"{HEAD}select a from nowhere", "nowhere does not exist!"),
    (f"{HEAD}select nobody from stg_attempts", "run `make views`"),
    (f"{HEAD}selec 1", "syntax error"),
    (f"{HEAD}select '573001234567x'::int as a", "[redacted]x"),
    (f"{HEAD}select error('no more')", "no more"),
    (f"{HEAD}-- to do", "one query"),
    (f"{HEAD}select 1; select 2 where false", "one query"),
    (f"\n{HEAD}select 1", "the first line"),
    (f"{HEAD}drop view daily_conversion", "one query"),
    (f"{HEAD}delete from twilio_verify.attempts returning sid", "one query"),
    (f"{HEAD}commit; drop view daily_conversion; select 1", "one query"),
]


@pytest.mark.usefixtures("synced")
def test_what_is_no_check_is_named_and_changes_nothing(
    configured: World, capsys: Capture, own_check: Callable[[str], Path]
) -> None:
    """An invalid check must write nothing, though `views` and `sync` check in the file that they
    load into. With severity `warn` it only warns there: it must not hold back what was read."""
    before = configured.query("select count(*) as n from daily_conversion")
    for text, told in NO_CHECKS:
        for severity in (WARN, FAIL) if text == NO_CHECKS[-1][0] else (WARN,):
            mine = own_check(text.replace(WARN, severity))
            fails = severity == FAIL or "first line" in told
            start = f"{FAIL if fails else WARN}  mine: not run: "
            assert main(["check", "--all", "--quiet"], now=NOW) == fails
            (line,) = capsys.readouterr().out.splitlines()
            assert line.startswith(start)
            assert told in line
            assert line.endswith(f" ({mine})")
            if told != "one query":  # only that one could have written
                continue
            spoil(configured, FORGOTTEN)  # a warning is said when it is new
            assert main(["views"], now=NOW) == fails
            assert f"check {start.replace('  mine', ': mine')}" in capsys.readouterr().err
    own_check(f"\ufeff{HEAD}select 1 where false".replace("severity", "Severity"))
    assert main(["check", "--all", "--quiet"], now=NOW) == 0
    assert main(["views"], now=NOW) == 0
    assert configured.query("select count(*) as n from daily_conversion") == before
    assert configured.stored() == configured.truth()


@pytest.mark.usefixtures("synced")
def test_a_query_that_would_write_cannot(
    configured: World, capsys: Capture, own_check: Callable[[str], Path]
) -> None:
    spoil(configured, "create sequence twilio_verify.counter")
    own_check(f"{HEAD}select nextval('twilio_verify.counter')")
    assert main(["views"], now=NOW) == 0
    assert "check warn: mine: not run: " in capsys.readouterr().err


@pytest.mark.usefixtures("synced")
def test_what_cannot_be_read_is_no_check_and_does_not_hide_the_others(
    configured: World, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder.sql").mkdir()
    (tmp_path / "latin.sql").write_bytes(HEAD.encode() + b"select 'M\xe4rz'")
    (tmp_path / "mine.sql").write_text(f"{HEAD}select 1 where false")
    monkeypatch.setattr(checks, "check_files", lambda: sorted(tmp_path.glob("*.sql")))
    assert main(["check", "--all", "--quiet"], now=NOW) == 1
    folder, latin = capsys.readouterr().out.splitlines()
    assert folder.startswith("fail  folder: not run: it is not a regular file (")
    assert latin.startswith("fail  latin: not run: the file is not UTF-8 (")
    assert main(["check", "--all"], now=NOW) == 1
    assert "ok    mine" in capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("synced")
def test_a_check_for_which_memory_does_not_suffice_is_not_passed(
    configured: World, capsys: Capture, own_check: Callable[[str], Path]
) -> None:
    own_check("-- severity: fail\n-- Rows.\nselect list(range) as l from range(40_000_000)")
    assert main(["views"], now=NOW) == 0
    told = capsys.readouterr()
    assert "check warn: mine: not run: not enough memory (" in told.err
    assert "published" in told.out


def test_a_first_sync_that_a_check_holds_back_says_so(
    configured: World, capsys: Capture, own_check: Callable[[str], Path]
) -> None:
    mine = own_check("-- severity: fail\n-- Rows.\nselect 1 as one")
    assert main(["sync"], now=NOW) == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        "verify-sync: verify.duckdb is not published, because checks failed: mine; all attempts "
        "read are kept, run `make check ARGS=--all` to see the rows"
    )
    assert main(["sql", "select 1"], now=NOW) == 1
    assert "which creates it or says why it cannot" in capsys.readouterr().err
    assert main(["check", "--all", "--quiet"], now=NOW) == 1
    assert "fail  mine, 1 row: Rows.\n      one 1\n" in capsys.readouterr().out
    mine.write_text(f"{HEAD}select 1 where false")
    assert main(["sync"], now=NOW) == 0
    assert configured.stored() == configured.truth()


def test_before_the_first_sync_there_is_nothing_to_check(
    configured: World, capsys: Capture
) -> None:
    assert main(["check", "--all", "--quiet"], now=NOW) == 1
    assert "run `make sync` first" in capsys.readouterr().err


@hypothesis.settings(suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(st.data())
def test_the_check_of_new_gaps_finds_those_of_the_view(
    database: duckdb.DuckDBPyConnection, data: st.DataObject
) -> None:
    """The check looks only at the windows that can still matter."""
    hours = st.integers(0, 24 * 80)
    windows = data.draw(
        st.lists(st.tuples(st.sampled_from("ab"), hours, st.integers(1, 200), hours), max_size=12)
    )
    database.execute("delete from twilio_verify.windows_read; delete from twilio_verify._dlt_loads")
    database.execute("insert into twilio_verify._dlt_loads values ('1', 0)")
    for filters_hash, after, length, age in windows:
        database.execute(
            "insert into twilio_verify.windows_read by name select ? as filters_hash,"
            " timestamptz '2026-06-01' + to_hours(?) as created_after,"
            " created_after + to_hours(?) as created_before,"
            " created_before + to_hours(?) as read_at, '1' as _dlt_load_id",
            [filters_hash, after, length, age],
        )
    (file,) = (file for file in check_files() if file.stem == "no_new_gaps")
    found = database.execute(file.read_text(encoding="utf-8")).fetchall()
    expected = database.execute(
        "select lost_after, lost_before from gaps where lost_before > ("
        "select max(read_at) from twilio_verify.windows_read) - interval 37 day"
    ).fetchall()
    assert sorted(found) == sorted(expected)


@pytest.mark.usefixtures("synced")
def test_a_value_of_any_length_or_kind_is_shown_on_a_short_line(
    configured: World, capsys: Capture
) -> None:
    """A terminal would obey its control characters."""
    spoil(
        configured,
        "update twilio_verify.attempts set channel = 'x@' || repeat('a+', 500000) "
        f"{FIRST}; update twilio_verify.attempts set channel = chr(27) || '[2J' || chr(13) ||"
        " chr(8238) || 'ok  all_is_well' where sid = (select max(sid) from"
        " twilio_verify.attempts)",
    )
    assert main(["check", "--all", "--quiet"], now=NOW) == 0
    told = capsys.readouterr().out
    assert told.replace("\n", "").isprintable()
    assert max(map(len, told.splitlines())) < 1_000
    assert "\\x1b[2j" in told
    assert not [line for line in told.splitlines() if line.startswith("ok  all")]
