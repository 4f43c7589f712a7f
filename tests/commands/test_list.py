"""`list` and `fetch`: single requests to the API. `list` stores nothing, `fetch` merges."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import datetime

import pytest

from pipelines.__main__ import main
from tests.worlds import NOW, Capture, World, configure, refused


def listed(capfd: Capture, *options: str) -> list[dict[str, str]]:
    assert main(["list", *options, "--format=csv"], now=NOW) == 0
    return list(csv.DictReader(io.StringIO(capfd.readouterr().out)))


def test_list_shows_what_is_there_now_and_stores_nothing(configured: World, capfd: Capture) -> None:
    truth = configured.truth()
    newest = sorted(truth.values(), key=lambda row: row["date_created"])[-20:]
    found = listed(capfd)
    assert {row["attempt_sid"] for row in found} == {row["sid"] for row in newest}
    assert [row["created_at"] for row in found] == sorted(
        (row["created_at"] for row in found), reverse=True
    )
    assert [file.name for file in configured.settings.directory.iterdir()] == ["requests.sqlite"]
    assert main(["list", "--limit=1"], now=NOW) == 0
    assert found[0]["attempt_sid"] in capfd.readouterr().out


@pytest.mark.parametrize("options", [["--limit=3"], ["--limit=1", "--channel=sms"], []])
def test_list_shows_the_newest_of_an_api_that_lists_the_oldest_first(
    make_world: Callable[..., World],
    monkeypatch: pytest.MonkeyPatch,
    capfd: Capture,
    options: list[str],
) -> None:
    world = make_world(oldest_first=True)
    configure(world, monkeypatch)
    rows = [row for row in world.truth().values() if not options[1:] or row["channel"] == "sms"]
    newest = sorted(rows, key=lambda row: row["date_created"], reverse=True)
    found = [row["attempt_sid"] for row in listed(capfd, *options)]
    assert found == [row["sid"] for row in newest][: len(found)]
    assert len(found) == int(options[0][8:] if options else 20)


@pytest.mark.parametrize(
    ("option", "column", "value"),
    [
        ("--service", "service_sid", None),
        ("--country", "channel_data__country", "BR"),
        ("--channel", "channel", "whatsapp"),
        ("--to", "channel_data__to", None),
        ("--verification", "verification_sid", None),
        ("--status", "conversion_status", "converted"),
    ],
)
def test_list_takes_every_filter(
    configured: World, capfd: Capture, option: str, column: str, value: str | None
) -> None:
    rows = [*configured.truth().values()]
    value = value or next(row[column] for row in rows if row["channel"] == "sms")
    expected = {row["sid"] for row in rows if row[column] == value}
    found = listed(capfd, option, value, "--limit=5000")
    assert {row["attempt_sid"] for row in found} == expected
    assert 0 < len(found) < len(configured.truth())


@pytest.mark.parametrize(
    ("options", "after", "before"),
    [
        (["--after=2026-11-18"], "2026-11-18T00", "2026-11-20T12"),
        (["--after=yesterday"], "2026-11-19T00", "2026-11-20T12"),
        (["--after=2 days ago", "--before=6 hours ago"], "2026-11-18T12", "2026-11-20T06"),
        (["--after=2026-11-18T20:00:00-05:00"], "2026-11-19T01", "2026-11-20T12"),
        (["--after=2026-11-18 20:00", "--before=today"], "2026-11-18T20", "2026-11-20T00"),
    ],
)  # fmt: skip
def test_list_takes_a_window(
    configured: World, capfd: Capture, options: list[str], after: str, before: str
) -> None:
    first, last = (datetime.fromisoformat(f"{hour}:00:00+00:00") for hour in (after, before))
    expected = {s for s, r in configured.truth().items() if first <= r["date_created"] <= last}
    found = listed(capfd, *options, "--limit=5000")
    assert {row["attempt_sid"] for row in found} == expected
    assert expected


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--country=COL"], "--country"),
        (["--channel=fax"], "sms, call, email, whatsapp, rbm"),
        (["--status=pending"], "converted, unconverted"),
        (["--service=VA12"], "--service"),
        (["--verification=VL12"], "--verification"),
        (["--to=573003003030"], "E.164"),
        (["--country="], "--country"),
        (["--after="], "--after"),
        (["--after=2026-11-23/T11"], "--after"),
        (["--after=0001-01-01"], "--after"),
        (["--before=9999-12-31T23:59:59-12:00"], "--before"),
        (["--country=573003003030"], "--country"),
        (["--after=soon"], "yesterday"),
        (["--after=10:30"], "--after"),
        (["--after=today", "--before=yesterday"], "earlier"),
    ],
)
def test_a_wrong_filter_is_told_before_any_request(
    configured: World, capsys: Capture, options: list[str], told: str
) -> None:
    code, line = refused(capsys, "list", *options)
    assert (code, told in line, "3003003030" in line) == (2, True, False)
    assert configured.sandbox.log == []


@pytest.mark.usefixtures("synced")
def test_fetch_merges_single_attempts(configured: World, capfd: Capture) -> None:
    before = configured.stored()
    configured.move(hours=30)
    sids = [sid for sid, row in configured.truth().items() if row != before.get(sid, row)]
    assert main(["fetch", *sids[:2]], now=configured.now) == 0
    assert "merged 2 attempts" in capfd.readouterr().out
    after, truth = configured.stored(), configured.truth()
    assert {sid: after[sid] for sid in sids[:2]} == {sid: truth[sid] for sid in sids[:2]}
    assert all(before[sid] != after[sid] for sid in sids[:2])
    assert {**after, **{sid: before[sid] for sid in sids[:2]}} == before


def test_fetch_before_the_first_sync_vouches_for_nothing(configured: World, capfd: Capture) -> None:
    sid = next(iter(configured.truth()))
    assert main(["fetch", sid], now=NOW) == 0
    assert [*configured.stored()] == [sid]
    assert configured.query("from twilio_verify.windows_read") == []
    assert main(["sync"], now=NOW) == 0
    assert configured.stored() == configured.truth()


@pytest.mark.usefixtures("synced")
def test_fetch_of_an_unknown_attempt_leaves_what_is_stored(
    configured: World, capsys: Capture
) -> None:
    capsys.readouterr()
    stored, oldest = (
        configured.stored(),
        min(configured.truth().values(), key=lambda r: r["date_created"]),
    )
    configured.move(days=1)  # Twilio has forgotten the oldest now
    known = [*configured.truth()][-1]
    for missing in (oldest["sid"], "VL" + "0" * 32):
        assert main(["fetch", missing, known], now=configured.now) == 1
        told = capsys.readouterr()
        assert f"no attempt {missing}: unknown, or older than 30 days" in told.err
        assert "merged 1 attempt;" in told.out
    assert {**configured.stored(), known: None} == {**stored, known: None}
    assert configured.stored()[known] == configured.truth()[known]


def test_fetch_of_an_undated_attempt_rejects_it(
    make_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch, capfd: Capture
) -> None:
    world = make_world(rows="no_date")
    monkeypatch.setenv("SOURCES__TWILIO_VERIFY__BASE_URL", world.sandbox.url)
    monkeypatch.setenv("TWILIO_ACCOUNT_SID", world.sandbox.account_sid)
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", world.sandbox.auth_token)
    monkeypatch.setenv("WAREHOUSE__DIR", str(world.settings.directory))
    sids = [next(iter(world.truth())), world.unusable()[0]["sid"]]
    assert main(["fetch", *sids], now=NOW) == 0
    assert "merged 1 attempt;" in capfd.readouterr().out
    assert [*world.stored()] == sids[:1]
    assert len(world.query("from twilio_verify.rejected_attempts")) == 1


@pytest.mark.parametrize("sid", ["VL12", "VE" + "0" * 32, "VL" + "g" * 32, "../Summary"])
def test_fetch_of_what_is_no_sid_asks_nobody(configured: World, capsys: Capture, sid: str) -> None:
    code, line = refused(capsys, "fetch", "VL" + "0" * 32, sid)
    assert (code, "32 hex digits" in line) == (2, True)
    assert configured.sandbox.log == []
    assert not configured.settings.directory.exists()
