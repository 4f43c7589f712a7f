"""`probe`: what it finds out, with each switch of the sandbox set the other way."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from pipelines.__main__ import main
from pipelines.sandbox.switches import Limits
from pipelines.twilio.probe import MOST_REQUESTS
from tests.worlds import NOW, Capture, World, configure, refused

MakeWorld = Callable[..., World]
USUAL = {
    "order of the list": "newest first",
    "attempts of exactly DateCreatedAfter": "included",
    "attempts of exactly DateCreatedBefore": "included",
    "letters of conversion_status": "lower",
    "error_code without an error": "null",
    "what a conversion marks": "all attempts",
    "attempts on several pages": "0 missing, 0 twice in 4 pages",
    "a page of 1000 attempts": "accepted: 1,000 attempts, more follow",
    "a page of 1001 attempts": "400, code 20007",
    "its Summary": "0 attempts, rate null",
    "Summary's rate": "text",
    "keys that have no column": "none",
    "bounds of the list": "heeded",
    "bounds of the Summary": "heeded",
    "Date header": "sent; this machine's clock differs by 0 s",
    "rows that are no attempts": "0",
    "a SID that does not exist": "404, code 20404",
    "precision of date_created": "whole seconds",
}


def probe(world: World, capsys: Capture) -> dict[str, tuple[str, str]]:
    """Runs it; returns answer and `holds` for each question. Looks for what must not be told."""
    world.sandbox.log.clear()
    assert main(["probe"], now=world.now) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert len(world.sandbox.log) <= MOST_REQUESTS
    assert not re.search(r"[A-Z]{2}[0-9a-f]{32}|\d{7}|@", told.out)
    assert told.out.isascii()
    lines = told.out.splitlines()[1:-1]
    rows = [re.split(r"  +", line) for line in lines]
    return {row[0]: (row[1], row[-1]) for row in rows}


@pytest.mark.parametrize(
    ("switches", "expected"),
    [
        ({}, {}),
        ({"oldest_first": True}, {"order of the list": "oldest first"}),
        (
            {"inclusive": False},
            {
                "attempts of exactly DateCreatedAfter": "excluded",
                "attempts of exactly DateCreatedBefore": "excluded",
            },
        ),
        pytest.param(
            {"upper_case": True}, {"letters of conversion_status": "upper"}, marks=pytest.mark.long
        ),
        ({"no_error": "empty"}, {"error_code without an error": '""'}),
        pytest.param(
            {"no_error": "absent"},
            {"error_code without an error": "absent"},
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"no_error": "zero"}, {"error_code without an error": "0"}, marks=pytest.mark.long
        ),
        ({"converts": "last"}, {"what a conversion marks": "only some attempts"}),
        ({"doubled": True}, {"attempts on several pages": r"0 missing, \d+ twice in . pages"}),
        pytest.param(
            {"clamp_page_size": True},
            {"a page of 1001 attempts": "accepted: 1,000 attempts"},
            marks=pytest.mark.long,
        ),
        pytest.param(
            {"empty_rate": "zero"}, {"its Summary": '0 attempts, rate "0"'}, marks=pytest.mark.long
        ),
        pytest.param(
            {"rate_as_number": True}, {"Summary's rate": "a number"}, marks=pytest.mark.long
        ),
        ({"rows": "unknown_keys"}, {"keys that have no column": "brand, channel_data.segments"}),
        ({"rows": "no_sid"}, {"rows that are no attempts": r"\d\d+"}),
    ],
)
def test_each_switch_set_the_other_way_is_found_out(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, capsys: Capture,
    switches: dict[str, Any], expected: dict[str, str],
) -> None:  # fmt: skip
    """All of these are ways that verify-sync can live with."""
    world = make_world(**switches)
    configure(world, monkeypatch)
    found = probe(world, capsys)
    for question, answer in {**USUAL, **expected}.items():
        given = found[question][0]
        if question in expected or not switches:
            assert re.fullmatch(answer, given) or given == answer, question
    assert {holds for _, holds in found.values()} == {"yes"}
    left = [file.name for file in world.settings.directory.iterdir()]
    assert left == ["requests.sqlite"]  # for the rate limit


@pytest.mark.parametrize(
    ("faults", "question", "answer"),
    [
        ({"largest_page": 500}, "a page of 1000 attempts", "400, code 60373"),
        ({"ignored": "DateCreatedAfter"}, "bounds of the list", r"\d+ attempts outside"),
        ({"ignored": "Country"}, "Country=ZZ", "ignored"),
        ({"clock_offset": 100}, "Date header", "sent; this machine's clock differs by 100 s"),
    ],
)
def test_what_does_not_hold_is_said(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, capsys: Capture,
    faults: dict[str, Any], question: str, answer: str,
) -> None:  # fmt: skip
    world = make_world(**faults)
    configure(world, monkeypatch)
    given, holds = probe(world, capsys)[question]
    assert re.fullmatch(answer, given), given
    assert holds == "NO"


def test_a_summary_that_ignores_its_dates_is_found_out(
    configured: World, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = configured.sandbox.answer

    def answering(path: str, parameters: dict[str, str], *rest: Any) -> str:
        return answer(path, {} if path.endswith("/Summary") else parameters, *rest)

    monkeypatch.setattr(configured.sandbox, "answer", answering)
    found = probe(configured, capsys)
    assert found["bounds of the Summary"][1] == "NO"
    assert found["Summary's total_attempts"][1] == "NO"


def test_an_account_without_attempts(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    world = make_world(attempts=0)
    configure(world, monkeypatch)
    found = probe(world, capsys)
    assert found["attempts of the last 30 days"][1] == "?"
    assert found["a SID that does not exist"] == ("404, code 20404", "yes")


def test_what_ends_it_is_one_line(
    make_world: MakeWorld, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for fault, code in (("401", 2), ("503", 1), ("html", 1), ("reset", 1)):
        world = make_world(fail=fault, fail_rate=1.0, limits=Limits(requests=0))
        configure(world, monkeypatch)
        assert refused(capsys, "probe")[0] == code
        assert len(world.sandbox.log) <= 2
    assert NOW
