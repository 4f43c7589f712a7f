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
_COUNTRIES = {*pytz.country_names, "XK"}  # ISO 3166, and Kosovo's code, which networks use
# Of each filter: its query parameter, and the column that must hold what was asked.
_PARAMETERS = {
    "verify_service_sid": ("VerifyServiceSid", "service_sid"),
    "country": ("Country", "channel_data__country"),
    "channel": ("Channel", "channel"),
    "to": ("ChannelData.To", "channel_data__to"),
    "verification_sid": ("VerificationSid", "verification_sid"),
    "status": ("Status", None),  # it may change between being selected and being told
}
PARAMETERS = frozenset(parameter for parameter, _ in _PARAMETERS.values())
# What never changes for an attempt: only that can be said to have been read to its end.
LASTING = ("verify_service_sid", "country", "channel", "to", "verification_sid")


@dataclass(frozen=True)
class Filters:
    """The list endpoint's filters besides the created window; None = not filtered.

    Summary knows only the first three.
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

        Raises Misuse that calls a filter what `names` does and says what it may be. A
        destination is not quoted: it would end up in a log.
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
        """As `of`, of those that can be synced by; any other, `status` first, is a Misuse."""
        for name in given.keys() - set(LASTING):
            why = (
                "an attempt's status changes, and one that has become converted would never be "
                "read again; sync all of them and select by conversion_status in SQL"
                if name == "status"
                else f"no filter to sync by; there are {', '.join(LASTING)}"
            )
            raise Misuse(f"{(names or {}).get(name, name)}: {why}")
        return cls.of(given, names)

    def parameters(self) -> dict[str, str]:
        """As query parameters. Unknown ones are ignored by the API, so the names matter."""
        values = {_PARAMETERS[f.name][0]: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}

    def columns(self) -> Iterator[tuple[str, str, str]]:
        """Of each that every attempt must meet: its parameter, the column, what that must hold."""
        for name, (parameter, column) in _PARAMETERS.items():
            wanted = getattr(self, name)
            if wanted is not None and column is not None:
                yield parameter, column, wanted

    @property
    def hash(self) -> str:
        """Tells filter sets apart without telling them: `to` is somebody's phone number."""
        canonical = json.dumps(self.parameters(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    @property
    def are_summarised(self) -> bool:
        """Whether Summary can count what list would give."""
        return not (self.to or self.verification_sid or self.status)


NO_FILTERS = Filters()


def _sid(start: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(f"{start}[0-9a-fA-F]{{32}}", text):
            raise ValueError(f"not a SID; one is {start} followed by 32 hex digits")
        return text

    return check


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"'{masked(text)}' is not one of {', '.join(choices)}")
        return text.lower()  # which the API is known to take; what it gives back varies

    return check


def _country(text: str) -> str:
    if text.upper() not in _COUNTRIES:
        raise ValueError(
            f"'{masked(text)}' is no country's ISO 3166 code of two letters, as in CO, GB"
        )
    return text.upper()


def _destination(text: str) -> str:
    if not re.fullmatch(r"\+[1-9]\d{1,14}|[^@\s]+@[^@\s]+\.[^@\s]+", text):
        raise ValueError(
            "neither a phone number in E.164 (a plus sign, country code and number, at most 15 "
            "digits and nothing between them) nor an e-mail address"
        )
    keep_secret(text.removeprefix("+"))  # whoever quotes it, in whatever form
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
