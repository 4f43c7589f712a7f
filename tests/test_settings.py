"""Settings: a wrong one gives one line before any request, wherever it was set."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.__main__ import main
from pipelines.errors import Misuse
from pipelines.settings import load_settings
from tests import nursery
from tests.worlds import NOW, Capture, World, refused


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("SOURCES__TWILIO_VERIFY__PAGE_SIZE", "1001", "page_size"),
        ("SOURCES__TWILIO_VERIFY__PAGE_SIZE", "many", "page_size"),
        ("SOURCES__TWILIO_VERIFY__REQUESTS_PER_MINUTE", "0", "requests_per_minute"),
        ("SOURCES__TWILIO_VERIFY__REVISIT_AFTER", '["26h", "15m", "3d"]', "revisit_after"),
        ("SOURCES__TWILIO_VERIFY__REVISIT_AFTER", '["15m", "26h"]', "revisit_after"),
        ("SOURCES__TWILIO_VERIFY__REVISIT_AFTER", '["soon", "3d"]', "revisit_after"),
        ("SOURCES__TWILIO_VERIFY__REVISIT_AFTER", '["29d"]', "revisit_after"),
        ("SOURCES__TWILIO_VERIFY__REVISIT_AFTER", '["99999999999d"]', "revisit_after"),
        ("SOURCES__TWILIO_VERIFY__REVISIT_AFTER", "3d", "revisit_after"),
        ("SOURCES__TWILIO_VERIFY__BASE_URL", "http://verify.twilio.com", "base_url"),
        ("SOURCES__TWILIO_VERIFY__REVISIT_AFTER", "[" * 100_000, "revisit_after"),
        ("WAREHOUSE__DIR", " ", "warehouse.dir: empty"),
        ("WAREHOUSE__TIMEZONE", "Mars/Olympus", "timezone"),
        ("WAREHOUSE__TIMEZONE", "posixrules", "timezone"),  # Python knows it, DuckDB does not
        ("WAREHOUSE__PUMPING_VERIFICATIONS", "0", "pumping_verifications"),
        ("WAREHOUSE__PUMPING_RATE", "1.5", "pumping_rate"),
        ("WAREHOUSE__PUMPING_Z_SCORE", "many", "pumping_z_score: 'many' is not a number"),
        ("WAREHOUSE__FEE_CURRENCY", "dollars", "fee_currency"),
        ("WAREHOUSE__VERIFICATION_FEE", "free", "verification_fee"),
        ("WAREHOUSE__VERIFICATION_FEE", "nan", "verification_fee"),
        ("TWILIO_ACCOUNT_SID", "AC123", "TWILIO_ACCOUNT_SID"),
    ],
)
def test_a_wrong_setting_is_named_before_any_request(
    configured: World,
    capsys: Capture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: str,
    told: str,
) -> None:
    monkeypatch.setenv(name, value)
    code, line = refused(capsys, "sync")
    assert (code, told in line) == (2, True)
    assert configured.sandbox.log == []


def no_toml(file: Path) -> object:
    return file.write_text("x = [")


def no_utf8(file: Path) -> object:
    return file.write_bytes(b"x = '\xff'")


@pytest.mark.parametrize("harm", [no_toml, no_utf8, os.mkfifo, Path.mkdir])
@pytest.mark.parametrize(
    "name", ["config.toml", pytest.param("secrets.toml", marks=pytest.mark.long)]
)
def test_a_broken_configuration_file_is_named(
    tmp_path: Path, harm: Callable[[Path], object], name: str
) -> None:
    (tmp_path / ".dlt").mkdir()
    harm(tmp_path / ".dlt" / name)
    told = nursery.run("pipelines", ("sync",), {**os.environ, "DLT_PROJECT_DIR": str(tmp_path)})
    assert (told.returncode, told.stderr.count("\n")) == (2, 1)
    assert f"{name}" in told.stderr


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Some editors on Windows write one, and carriage returns."""
    (tmp_path / ".dlt").mkdir()
    text = "[warehouse]\r\ndir = 'a folder '\r\nfee_currency = 'eur'\r\n"
    (tmp_path / ".dlt" / "config.toml").write_text(text, encoding="utf-8-sig", newline="")
    told = nursery.run("pipelines", ("check",), {**os.environ, "DLT_PROJECT_DIR": str(tmp_path)})
    assert f"{tmp_path}/a folder holds no attempts" in told.stderr


@pytest.mark.parametrize("odd", ["$HOME", "50%off", "O'Brien", "what?", "a*b", "a\\b", "a\x1b[0m"])
def test_a_folder_that_cannot_be_used_is_refused_at_once(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    monkeypatch.setenv("WAREHOUSE__DIR", f"/tmp/{odd}/data")
    code, line = refused(capsys, "sync")
    assert (code, "must not be in the folder's path" in line, "\x1b" in line) == (2, True, False)
    assert configured.sandbox.log == []


@pytest.mark.parametrize(
    "folder",
    [
        "it;is--fine {x}",
        *(pytest.param(f, marks=pytest.mark.long) for f in ('a"b', "größe", "a\r")),
    ],
)
def test_any_other_folder_can_be_used(
    configured: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.setenv("WAREHOUSE__DIR", str(tmp_path / folder))
    for command in ("sync", "backfill", "check", "status"):
        assert main([command], now=NOW) == 0
    assert (tmp_path / folder.strip() / "verify.duckdb").exists()


def test_a_variable_that_only_looks_like_a_setting_is_not_read(
    configured: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PAGE_SIZE", "TIMEOUT", "DIR", "SOURCES__PAGE_SIZE"):
        monkeypatch.setenv(name, "nonsense")
    assert main(["sync"], now=NOW) == 0


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("STATUS", "converted", "conversion_status"),
        ("COUNTRY", "COL", "sources.twilio_verify.country"),
        ("CHANNEL", "fax", "sms, call"),
        ("TO", "573003003030", "E.164"),
        ("VERIFY_SERVICE_SID", "VA1", "VA followed by"),
        ("COUTRY", "CO", "no such setting"),
        ("_COUNTRY", "CO", "no such setting"),
        ("country", "CO", "no such setting"),
        ("COUNTRY", "", "sources.twilio_verify.country: empty"),
        ("GIVE_UP_AFTER", "a while", "give_up_after"),
    ],
)
def test_a_filter_that_cannot_be_synced_by_is_told(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch,
    name: str, value: str, told: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(f"SOURCES__TWILIO_VERIFY__{name}", value)
    for argv in (["sync"], ["sync", "--dry-run"]):
        code, line = refused(capsys, *argv)
        assert (code, told in line, "3003003030" in line) == (2, True, False)
    assert configured.sandbox.log == []


def test_a_variable_of_somebody_elses_is_no_setting(
    configured: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WAREHOUSE", "WAREHOUSE_DIR", "SOURCES"):
        monkeypatch.setenv(name, "COMPUTE_WH")
    assert main(["list"], now=NOW) == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[sources.twilio_verify]\ncoutry = "CO"\n', "sources.twilio_verify.coutry: no such"),
        ('[sources.twilio_verfiy]\ncountry = "CO"\n', "[sources.twilio_verfiy]: no such section"),
        ('[twilio_verify]\ncountry = "CO"\n', "use [sources.twilio_verify]"),
        ('[source.twilio_verify]\ncountry = "CO"\n', "[source.twilio_verify]: no such section"),
        ('country = "CO"\n[sources.twilio_verify]\n', "country: outside of its section"),
        ('[sources]\ncountry = "CO"\n', "put it below [sources.twilio_verify]"),
        ('fee_currency = "EUR"\n', "put it below [warehouse]"),
        ('[warehous]\ndir = "w"\n', "use [warehouse]"),
        ("[warehouse]\npumping_z_score = 'high'\n", "'high' is not a number"),
        ("[sources.twilio_verify]\npage_size = inf\n", "'inf' is not a whole number"),
        ("[sources.twilio_verify]\npage_size = true\n", "'True' is not a whole number"),
        ("[sources.twilio_verify]\napi_secret = ['s3cr3t']\n", "api_secret: not a text"),
        ("[sources.twilio]\na = 1\n[destination.duckdb]\nb = 2\n[load]\nworkers = 1\n", ""),
    ],
)
def test_what_is_misspelt_in_the_configuration_file_is_told(
    tmp_path: Path, text: str, told: str
) -> None:
    """A misspelt filter would silently read everything. A secrets file is in the same folder."""
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "config.toml").write_text(text)
    secrets = f"account_sid = 'AC{1:032}'\nauth_token = '{2:032}'\n"
    (tmp_path / ".dlt" / "secrets.toml").write_text(f"[sources.twilio_verify]\n{secrets}")
    run = nursery.run("pipelines", ("check",), {**os.environ, "DLT_PROJECT_DIR": str(tmp_path)})
    assert run.returncode == (2 if told else 1)
    assert (told or "run `make sync` first") in run.stderr
    assert run.stderr.count("\n") == 1
    assert "s3cr3t" not in run.stderr


@pytest.mark.parametrize(
    "variable",
    ["SOURCES__TWILIO_VERFIY__TO", "TWILIO_VERIFY__TO", "WAREHOUS__DIR", "WAREHOUSE_FEE_CURRENCY"],
)
def test_a_misspelt_section_in_the_environment_is_told(
    capsys: Capture, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "+573003003030")
    code, line = refused(capsys, "sync")
    assert (code, f"{variable}: no such se" in line, "3003030" in line) == (2, True, False)


def test_credentials_are_named_as_they_were_given(tmp_path: Path, configured: World) -> None:
    (tmp_path / ".dlt").mkdir()
    text = '[sources.twilio_verify]\nauth_token = "wrong"\n'
    (tmp_path / ".dlt" / "secrets.toml").write_text(text)
    environment = {**os.environ, "DLT_PROJECT_DIR": str(tmp_path)}
    del environment["TWILIO_AUTH_TOKEN"]
    told = nursery.run("pipelines", ("list",), environment)
    assert told.returncode == 2
    assert "TWILIO_ACCOUNT_SID and sources.twilio_verify.auth_token" in told.stderr


def test_a_tilde_is_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine" / "reports").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WAREHOUSE__DIR", "~/data")
    monkeypatch.setenv("WAREHOUSE__SQL", "~/mine")
    settings = load_settings()
    assert (settings.directory, settings.sql) == (tmp_path / "data", tmp_path / "mine")
    monkeypatch.setenv("WAREHOUSE__DIR", "~nobody-of-this-name/data")
    with pytest.raises(Misuse, match="home directory"):
        load_settings()
