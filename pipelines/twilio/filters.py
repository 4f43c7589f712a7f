"""The filters of list and summary, checked before they are sent. Checking answers: query."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import pytz

from pipelines.errors import Misuse, keep_secret, masked

CHANNELS = ("sms", "call", "email", "whatsapp", "rbm")
STATUSES = ("converted", "unconverted")
_COUNTRIES = {*pytz.country_names, "XK"}  # ISO 3166, plus Kosovo's code, which networks use
# For each filter: its query parameter, and the column that must hold its value.
_PARAMETERS = {
    "verify_service_sid": ("VerifyServiceSid", "service_sid"),
    "country": ("Country", "channel_data__country"),
    "channel": ("Channel", "channel"),
    "to": ("ChannelData.To", "channel_data__to"),
    "verification_sid": ("VerificationSid", "verification_sid"),
    "status": ("Status", None),  # not checked: it may change while Twilio answers
}
PARAMETERS = frozenset(parameter for parameter, _ in _PARAMETERS.values())
# These never change for an attempt. With any other filter a window could not count as read.
LASTING = ("verify_service_sid", "country", "channel", "to", "verification_sid")


@dataclass(frozen=True)
class Filters:
    """The list endpoint's filters, besides the created window; None = not filtered.

    The Summary endpoint knows only the first three.
    """

    verify_service_sid: str | None = None
    country: str | None = None
    channel: str | None = None
    to: str | None = None
    verification_sid: str | None = None
    status: str | None = None

    @classmethod
    def of(cls, given: Mapping[str, str | None], names: Mapping[str, str] | None = None) -> Filters:
        """Checks and normalises `given`; None filters nothing.

        Raises Misuse that says which values are valid, and calls a filter by its name in `names`.
        The message never quotes a destination: it would end up in a log.
        """
        found = {}
        for name, text in given.items():
            if text is None:
                continue
            try:
                found[name] = _CHECKS[name](text.strip())
            except ValueError as error:
                raise Misuse(f"{(names or {}).get(name, name)}: {error}") from None
        return cls(**found)

    @classmethod
    def lasting(
        cls, given: Mapping[str, str | None], names: Mapping[str, str] | None = None
    ) -> Filters:
        """Like `of`, for the filters of a sync. Raises Misuse for any other, such as `status`."""
        for name in given.keys() - set(LASTING):
            why = (
                "you cannot filter a sync by status, because it changes over time; "
                "sync all attempts and select by conversion_status in SQL"
                if name == "status"
                else f"not a filter of a sync; use one of {', '.join(LASTING)}"
            )
            raise Misuse(f"{(names or {}).get(name, name)}: {why}")
        return cls.of(given, names)

    def parameters(self) -> dict[str, str]:
        """The query parameters. A wrong name would filter nothing: the API ignores unknown ones."""
        values = {_PARAMETERS[f.name][0]: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def columns(self) -> Iterator[tuple[str, str, str]]:
        """For each filter that an answer can be checked for: its parameter, column and value."""
        for name, (parameter, column) in _PARAMETERS.items():
            wanted = getattr(self, name)
            if wanted is not None and column is not None:
                yield parameter, column, wanted

    @property
    def hash(self) -> str:
        """Identifies a set of filters without showing it: `to` is somebody's phone number."""
        canonical = json.dumps(self.parameters(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def are_summarised(self) -> bool:
        """Whether the Summary endpoint knows all filters that are set."""
        return not (self.to or self.verification_sid or self.status)


NO_FILTERS = Filters()


def _sid(start: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(f"{start}[0-9a-fA-F]{{32}}", text):
            raise ValueError(f"not a valid SID: it must be {start} followed by 32 hex digits")
        return text

    return check


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"'{masked(text)}' is not one of {', '.join(choices)}")
        return text.lower()  # the API accepts lower case; its answers vary

    return check


def _country(text: str) -> str:
    if text.upper() not in _COUNTRIES:
        raise ValueError(
            f"'{masked(text)}' is not an ISO 3166 country code of two letters, as in CO, GB"
        )
    return text.upper()


def _destination(text: str) -> str:
    if not re.fullmatch(r"\+[1-9]\d{1,14}|[^@\s]+@[^@\s]+\.[^@\s]+", text):
        raise ValueError(
            "neither a phone number in E.164 (a plus sign, then country code and number: at most "
            "15 digits, no spaces) nor an e-mail address"
        )
    keep_secret(text.removeprefix("+"))  # so that no message or log line can show it
    return text


attempt_sid = _sid("VL")
_CHECKS: dict[str, Callable[[str], str]] = {
    "verify_service_sid": _sid("VA"),
    "country": _country,
    "channel": _one_of(CHANNELS),
    "to": _destination,
    "verification_sid": _sid("VE"),
    "status": _one_of(STATUSES),
}
