"""`demo`: syncs a made-up account and queries it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from pipelines.__main__ import main
from tests.worlds import Capture


def test_the_demo_twice(capfd: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAREHOUSE__DIR", str(tmp_path))
    assert main(["demo"]) == 0
    first = capfd.readouterr().out
    with duckdb.connect(str(tmp_path / "demo" / "verify.duckdb"), read_only=True) as connection:
        sql = "select sum(pages) from twilio_verify.windows_read"
        (requests,) = connection.execute(sql).fetchall()[0]
    assert requests <= 100  # a burst that the real API allows
    for text in (
        "Conversion by channel",
        "countries with the lowest",
        "make sql",
    ):
        assert text in first
    assert main(["demo"]) == 0
