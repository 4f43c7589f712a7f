"""Links that a server made, and addresses that a user typed: no credentials leave the host."""

from __future__ import annotations

import random
from itertools import repeat

import pytest
import requests
from urllib3.util import parse_url

from pipelines.errors import Failure, Misuse
from pipelines.twilio.base_url import checked_base
from pipelines.twilio.chain import Chain
from pipelines.twilio.columns import ATTEMPTS
from pipelines.twilio.decode import Page
from pipelines.twilio.query import ListQuery
from tests.worlds import NOW

BASE = "https://verify.twilio.com"
LINK = (
    f"{BASE}/v2/Attempts?DateCreatedAfter=2026-11-20T12%3A00%3A00Z&PageSize=1000&Page=1"
    "&PageToken=PTabc%3D"
)
PIECES = [
    *"\\@/?#:;.%[] \t\r\n\0<>\"'`|^~{}!$&*()+,=_-1aZ\x7f\x85\xa0",
    *"ſK。．／＼％＠：？＃\u2028\u200b\u202eе", "\ud83d", "//", "\\\\", "evil.example",
    "@evil.example", "evil.example\\@", "evil.example#@", ".evil.example", "user:word@", "[::1]",
    "http:", "https:",
    "ftp://", "javascript:", "%40", "%2f", "%5c", "%00", "%0d%0a", "..", "/../", ":80", ":443",
    ":99999", "\r\nHost: evil.example", "&Country=US", "&PageToken=PTx", "xn--", "0x7f.1", "127.1",
]  # fmt: skip


def mutated(url: str) -> str:
    """The URL after 1 to 4 small changes, mostly near its host."""
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(url) + 1 if random.random() < 0.3 else 34)
        piece, gone = random.choice(PIECES), random.choice((0, 0, 1, 8))
        url = url[:at] + piece + url[at + gone :]
    return url


def connects_to(url: str, parameters: dict[str, str] | None = None) -> tuple[object, ...]:
    """Scheme, host and port to which requests and urllib3 would connect."""
    prepared = requests.Request("GET", url, params=parameters, auth=("us", "er")).prepare()
    parts = parse_url(prepared.url or "")
    assert parts.auth is None
    return parts.scheme, parts.host, parts.port or {"http": 80, "https": 443}[str(parts.scheme)]


def after(link: object) -> dict[str, str] | None:
    page = Page(ATTEMPTS.empty_table(), set(), next_page_url=link)
    return Chain(ListQuery(NOW), checked_base(BASE)).after(page)


@pytest.mark.parametrize("number", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_no_link_leads_away(number: int) -> None:
    """Only a link's parameters are used, and they stay parameters."""
    followed = 0
    for link in map(mutated, repeat(LINK, number)):
        try:
            given = after(link)
        except Failure:
            continue
        assert connects_to(f"{BASE}/v2/Attempts", given) == ("https", "verify.twilio.com", 443)
        followed += 1
    assert number / 100 < followed < number * 0.9


@pytest.mark.parametrize("number", [10_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_a_base_url_is_read_by_all_in_the_same_way(number: int) -> None:
    accepted = 0
    for url in map(mutated, repeat(f"{BASE}:443/api/v2", number)):
        try:
            base = checked_base(url)
        except Misuse:
            continue
        assert connects_to(f"{base}/v2/Attempts", {"Country": "CO"}) == base[:3]
        assert base.is_local or base.scheme == "https"
        accepted += 1
    assert number / 100 < accepted < number * 0.9


@pytest.mark.parametrize(
    "link",
    [
        r"https://evil.example\@verify.twilio.com/v2/Attempts?PageToken=PTx",
        r"https://verify.twilio.com\@evil.example/v2/Attempts?PageToken=PTx",
        "https://verify.twilio.com@evil.example/v2/Attempts?PageToken=PTx",
        "https://user:word@verify.twilio.com/v2/Attempts?PageToken=PTx",
        "https://verify.twilio.com\t/v2/Attempts?PageToken=PTx",
        "https://verify.twilio.com/v2/Attempts?PageToken=PT\r\nHost: evil.example",
        "https:\\\\verify.twilio.com/v2/Attempts",
        "//verify.twilio.com/v2/Attempts",
        "https://verify.twilio.com/v2/Attempts?" + "a" * 20_000,
        "https://verify.twilio.com/v2/Attempts?" + "a=1&" * 2_000,
        "https://verify.twilio.com.evil.example/v2/Attempts",
        "https://verify.twilio.com:444/v2/Attempts",
        "https://veri\u017fy.twilio.com/v2/Attempts",
        ["https://verify.twilio.com/v2/Attempts"],
    ],
)
def test_a_link_in_two_readings_is_refused(link: object) -> None:
    with pytest.raises(Failure, match="next_page_url") as caught:
        after(link)
    assert str(caught.value).isprintable()


def test_a_link_that_is_spelled_otherwise_is_followed() -> None:
    assert after("HTTPS://VERIFY.twilio.com:443/x?Page=1&PageToken=PT%2B+x&New") == {
        "Page": "1", "PageToken": "PT+ x", "New": "",
    }  # fmt: skip


@pytest.mark.parametrize(
    "url",
    [
        r"https://evil.example\@verify.twilio.com", "http://[::1", "http://[::1]x", "http://:80",
        "https://verify.twilio.com?x=1", "https://verify.twilio.com:0", "https://-", "https://a..b",
        "https://verify.twilio.com\n", "https://verify.twilio.com/\\", "https://veriſy.twilio.com",
    ],
)  # fmt: skip
def test_a_base_url_in_two_readings_is_refused(url: str) -> None:
    with pytest.raises(Misuse, match="base_url is not a URL such as"):
        checked_base(url)
