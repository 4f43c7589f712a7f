"""Filters of the list endpoint, and the message for a wrong one."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from pipelines.commands.sync import sync
from pipelines.errors import Failure, Misuse
from pipelines.twilio.decode import decode
from pipelines.twilio.filters import CHANNELS, LASTING, NO_FILTERS, STATUSES, Filters
from pipelines.twilio.query import ListQuery
from tests.worlds import NOW, World

VE, VA = "VE" + "a" * 32, "VA" + "0" * 32


@pytest.mark.parametrize(
    ("name", "text", "kept"),
    [
        ("country", "co", "CO"),
        ("country", "XK", "XK"),
        ("channel", "WhatsApp", "whatsapp"),
        ("status", "CONVERTED", "converted"),
        ("to", "+573003003030", "+573003003030"),
        ("to", " a.user+tag@example.co ", "a.user+tag@example.co"),
        ("verification_sid", VE, VE),
        ("verify_service_sid", VA, VA),
        ("to", None, None),
    ],
)
def test_a_filter_is_normalised(name: str, text: str | None, kept: str | None) -> None:
    assert Filters.of({name: text}) == replace(NO_FILTERS, **{name: kept})


@pytest.mark.parametrize(
    ("name", "text", "valid"),
    [
        ("country", "COL", "ISO 3166.*CO, GB"),
        ("country", "UK", "ISO 3166"),
        ("country", "", "ISO 3166"),
        ("to", "", r"E\.164"),
        ("status", " ", "converted"),
        ("channel", "fax", ", ".join(CHANNELS)),
        ("status", "pending", ", ".join(STATUSES)),
        ("verification_sid", VA, "VE followed by 32 hex digits"),
        ("verify_service_sid", VA + "0", "VA followed by 32 hex digits"),
        ("to", "573003003030", r"E\.164.*e-mail"),
        ("to", "+57 300 300 3030", r"E\.164"),
        ("to", "+5730030030301234", "15 digits"),
        ("to", "nobody@nowhere", "e-mail"),
    ],
)
def test_a_wrong_filter_is_told_with_the_valid_values(name: str, text: str, valid: str) -> None:
    with pytest.raises(Misuse, match=valid) as caught:
        Filters.of({name: text}, {name: "--its-option"})
    assert str(caught.value).startswith("--its-option: ")
    assert not re.search(r"\d{8}|nobody", str(caught.value))  # no destination is quoted


def test_a_hash_tells_filters_apart_without_telling_them() -> None:
    one, other = Filters(to="+573003003030"), Filters(to="+573003003031")
    assert one.hash == Filters(to="+573003003030").hash
    assert len({one.hash, other.hash, NO_FILTERS.hash}) == 3
    assert "3003003030" not in one.hash


ROW: dict[str, Any] = {
    "sid": "VL1", "account_sid": "AC1", "service_sid": VA, "verification_sid": VE,
    "date_created": "2026-01-01T00:00:00Z", "channel": "SMS",
    "channel_data": {"to": "+573003003030", "country": "co"},
}  # fmt: skip
MATCHING = {
    "verify_service_sid": VA, "country": "CO", "channel": "sms", "to": "+573003003030",
    "verification_sid": VE,
}  # fmt: skip
OTHERS = {
    "verify_service_sid": "VA" + "1" * 32, "country": "US", "channel": "call",
    "to": "+573003003031", "verification_sid": "VE" + "b" * 32,
}  # fmt: skip


@pytest.mark.parametrize("name", LASTING)
def test_rows_are_held_against_the_filter(name: str) -> None:
    attempts = decode([ROW], NOW).attempts
    ListQuery(filters=Filters(**{name: MATCHING[name]})).check(attempts)
    with pytest.raises(Failure, match=r"VL1.*ignores that filter") as caught:
        ListQuery(filters=Filters(**{name: OTHERS[name]})).check(attempts)
    assert "300300" not in str(caught.value)


@pytest.mark.parametrize("name", LASTING)
def test_a_missing_value_is_no_contradiction(name: str) -> None:
    bare = {"sid": "VL1", "date_created": ROW["date_created"]}
    ListQuery(filters=Filters(**{name: OTHERS[name]})).check(decode([bare], NOW).attempts)


@pytest.mark.parametrize("name", LASTING)
def test_white_space_is_no_contradiction(name: str) -> None:
    row = {key: f" {value}\n" for key, value in ROW.items() if isinstance(value, str)}
    data = {key: f"\t{value} " for key, value in ROW["channel_data"].items()}
    spaced = {**row, "date_created": ROW["date_created"], "channel_data": data}
    ListQuery(filters=Filters(**{name: MATCHING[name]})).check(decode([spaced], NOW).attempts)


def test_a_status_may_have_changed_meanwhile() -> None:
    ListQuery(filters=Filters(status="converted")).check(decode([ROW], NOW).attempts)


def test_a_destination_may_come_with_its_channel() -> None:
    row = {**ROW, "channel_data": {"to": "whatsapp:+573003003030"}}
    ListQuery(filters=Filters(to="+573003003030")).check(decode([row], NOW).attempts)


# --- filters and progress


def synced(make_world: Callable[..., World], *runs: tuple[str | None, float]) -> World:
    """A world after several syncs. Each has a country filter or none, and hours since the last."""
    world = make_world(attempts=2_000)
    for country, hours in runs:
        world.move(hours=hours)
        world.settings = replace(world.settings, filters=Filters(country=country))
        sync(world.settings, world.now)
    return world


@pytest.mark.long
def test_a_filter_that_comes_and_goes_leaves_no_hole(make_world: Callable[..., World]) -> None:
    world = synced(make_world, ("CO", 0), (None, 0), ("CO", 0))
    assert world.stored() == world.truth()
    counted = "select count(distinct filters_hash) as n from twilio_verify.windows_read"
    assert world.query(counted) == [{"n": 2}]


def test_with_a_filter_only_its_attempts_are_stored(make_world: Callable[..., World]) -> None:
    world = synced(make_world, ("CO", 0))
    expected = {s: r for s, r in world.truth().items() if r["channel_data__country"] == "CO"}
    assert world.stored() == expected
    assert expected


def test_progress_with_a_filter_is_not_progress_without(make_world: Callable[..., World]) -> None:
    """The run without a filter reads all that the filtered runs did not ask for."""
    world = synced(make_world, ("CO", 0), (None, 30), ("CO", 50), (None, 50))
    world.now += timedelta(days=4)
    sync(world.settings, world.now)
    stored = world.stored()
    assert {sid: stored[sid] for sid in world.truth()} == world.truth()
