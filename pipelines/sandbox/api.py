"""The three endpoints: path and parameters in, response body or `Refusal` out. HTTP: server."""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
import zlib
from dataclasses import replace
from datetime import datetime, timezone
from urllib.parse import urlencode

from pipelines.sandbox import world
from pipelines.sandbox.faults import Failing, mislead
from pipelines.sandbox.state import Query, View
from pipelines.sandbox.switches import Faults

LIST, SUMMARY = "/v2/Attempts", "/v2/Attempts/Summary"
MAX_PAGE_SIZE = 1000
Parameters = dict[str, str]


class Refusal(Exception):
    """An error response: HTTP status, Twilio's error code and message."""

    def __init__(self, status: int, code: int, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.retry_after: int | None = None  # seconds; set for 429 and 503

    def body(self) -> str:
        more = f"https://www.twilio.com/docs/errors/{self.code}"
        parts = {"code": self.code, "message": self.message, "more_info": more}
        return json.dumps({**parts, "status": self.status})


class Api:
    """Answers requests for the account in `view`. `url` is the server's address."""

    def __init__(self, view: View, url: str, faults: Faults, failing: Failing) -> None:
        self._view = view
        self._url = url
        self._faults = faults
        self._failing = failing

    def answer(self, path: str, raw: Parameters, now: float) -> str:
        """The body of a 200 response. Raises Refusal for every other status."""
        if path == LIST:
            return self._list(raw, now)
        if path == SUMMARY:
            return self._summary(raw, now)
        sid = path.removeprefix(LIST + "/")
        found = self._view.find(sid, now) if re.fullmatch("VL[0-9a-fA-F]{32}", sid) else None
        if found is None:
            resource = path.removeprefix("/v2")
            raise Refusal(404, 20404, f"The requested resource {resource} was not found")
        return found

    def _summary(self, raw: Parameters, now: float) -> str:
        raw = self._known(raw)
        query = replace(_query(raw), prefix=raw.get("DestinationPrefix") or None)
        total, converted = self._view.summary(query, now)
        body = {
            "total_attempts": total,
            "total_converted": converted,
            "total_unconverted": total - converted,
            "conversion_rate_percentage": self._rate(total, converted),
            "url": self._url + SUMMARY,
        }
        return json.dumps(body)

    def _rate(self, total: int, converted: int) -> float | str | None:
        switches = self._view.switches
        if not total:
            return "0" if switches.empty_rate == "zero" else None
        share = 100 * converted / total
        return share if switches.rate_as_number else f"{share:.9f}".rstrip("0").rstrip(".")

    def _list(self, raw: Parameters, now: float) -> str:
        switches, page, token = self._view.switches, _integer(raw, "Page", 0), raw.get("PageToken")
        size = self._page_size(raw)
        if page and token is None:
            raise Refusal(400, 70002, "Page number without a page token")
        start, backwards = _read_token(token) if token else (None, False)
        if token and self._failing.refuses_token():
            raise Refusal(400, 60200, "Invalid parameter: PageToken")
        query = _list_query(self._known(raw))
        ascending = switches.oldest_first != backwards
        texts, indexes, more = self._rows(query, now, start, ascending, size)
        if backwards:
            texts, indexes, more = texts[::-1], indexes[::-1], True
        following = previous = None
        if more and indexes:
            step = 1 if switches.oldest_first else -1
            last = indexes[-1] - step * (switches.doubled and size > 1)
            following = self._following(raw, size, page, _write_token(last, False))
        if page > 0 and indexes:
            previous = self._page_url(raw, size, page - 1, _write_token(indexes[0], True))
        meta = {
            "key": "attempts",
            "page": page,
            "page_size": size,
            "first_page_url": self._page_url(raw, size, 0, None),
            "previous_page_url": previous,
            "url": self._page_url(raw, size, page, token),
            "next_page_url": following,
        }
        return f'{{"attempts":[{",".join(texts)}],"meta":{json.dumps(meta)}}}'

    def _following(self, raw: Parameters, size: int, page: int, token: str) -> str:
        """The next page's URL, or a wrong one if the fault `next_page` is on."""
        wrong = self._faults.next_page
        if wrong == "circle" and page > 0:
            return self._page_url(raw, size, page + 1, raw["PageToken"])
        if wrong == "itself" and page == 0:
            return self._page_url(raw, size, 0, None)
        url = self._page_url(raw, size, page + 1, token)
        return mislead(wrong, url) if page == 0 else url

    def _known(self, raw: Parameters) -> Parameters:
        return {name: value for name, value in raw.items() if name != self._faults.ignored}

    def _rows(
        self, query: Query, now: float, start: int | None, ascending: bool, size: int
    ) -> tuple[list[str], list[int], bool]:
        """Up to `size` rows after index `start`, their indexes, and whether more rows follow."""
        texts: list[str] = []
        indexes: list[int] = []
        for block, places in self._view.walk(query, now, start, ascending):
            chosen = places[: size - len(texts)]
            if len(chosen):
                texts += self._view.renderer.render(block, chosen, now)
                indexes += block.index[chosen].tolist()
            if len(chosen) < len(places):
                return texts, indexes, True
        return texts, indexes, False

    def _page_size(self, raw: Parameters) -> int:
        size = _integer(raw, "PageSize", 50)
        if 0 < self._faults.largest_page < size:
            raise Refusal(400, 60373, "Page size too large")
        if size > MAX_PAGE_SIZE:
            if self._view.switches.clamp_page_size:
                return MAX_PAGE_SIZE
            raise Refusal(400, 20007, "Page size too large")
        if 0 < self._faults.heavy_page < size:
            raise Refusal(500, 20500, "An internal server error has occurred")
        if size < 1:
            raise Refusal(400, 60200, "Invalid parameter: PageSize")
        return size

    def _page_url(self, raw: Parameters, size: int, page: int, token: str | None) -> str:
        kept = {k: v for k, v in raw.items() if k not in ("PageSize", "Page", "PageToken")}
        paging = {"PageSize": str(size), "Page": str(page)}
        tail = {"PageToken": token} if token else {}
        return f"{self._url}{LIST}?{urlencode({**kept, **paging, **tail})}"


def _query(raw: Parameters) -> Query:
    """The filters that list and summary share. Ignores unknown parameters, as Twilio does."""
    return Query(
        after=_instant(raw, "DateCreatedAfter"),
        before=_instant(raw, "DateCreatedBefore"),
        country=raw["Country"].upper() if raw.get("Country") else None,
        channel=_choice(raw, "Channel", world.CHANNELS),
        service=raw.get("VerifyServiceSid") or None,
    )


def _list_query(raw: Parameters) -> Query:
    status = _choice(raw, "Status", ("converted", "unconverted"))
    return replace(
        _query(raw),
        to=raw.get("ChannelData.To") or None,
        verification=raw.get("VerificationSid") or None,
        converted=None if status is None else status == "converted",
    )


def _instant(raw: Parameters, name: str) -> int | None:
    text = raw.get(name)
    if not text:
        return None
    try:
        parsed = datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc)
    except ValueError:
        raise Refusal(400, 60200, f"Invalid parameter: {name}") from None
    return int(parsed.timestamp())


def _choice(raw: Parameters, name: str, choices: tuple[str, ...]) -> str | None:
    text = raw.get(name)
    if not text:
        return None
    if text.lower() not in choices:
        raise Refusal(400, 60200, f"Invalid parameter: {name}")
    return text.lower()


def _integer(raw: Parameters, name: str, default: int) -> int:
    text = raw.get(name, str(default))
    if not text.isdecimal():
        raise Refusal(400, 60200, f"Invalid parameter: {name}")
    return int(text)


def _write_token(index: int, backwards: bool) -> str:
    """A page token, opaque to callers: start index (exclusive), direction, checksum."""
    packed = struct.pack(">q?", index, backwards)
    return "PT" + base64.urlsafe_b64encode(packed + struct.pack(">I", zlib.crc32(packed))).decode()


def _read_token(token: str) -> tuple[int, bool]:
    try:
        data = base64.urlsafe_b64decode(token.removeprefix("PT").encode())
        index, backwards, check = struct.unpack(">q?I", data)
    except (binascii.Error, struct.error, ValueError):
        index, backwards, check, data = 0, False, -1, b""
    if check != zlib.crc32(data[:9]):
        raise Refusal(400, 60200, "Invalid parameter: PageToken")
    return index, backwards
