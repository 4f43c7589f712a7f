"""Writes attempts as the API's JSON at an instant. What happens to attempts: sends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from pipelines.sandbox import world
from pipelines.sandbox.account import Account, Block, mix
from pipelines.sandbox.faults import odd
from pipelines.sandbox.sends import EMAIL, ERRORS, NEVER, QUEUED, SENT, STATUSES, Bools, Ints
from pipelines.sandbox.switches import Switches

_ODD = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2**64
_INVERSE = pow(_ODD, -1, 2**64)
_NO_ERROR = {"null": "null", "absent": "", "empty": '""', "zero_text": '"0"', "zero": "0"}
# The host in an attempt's `url`. It is Twilio's, so that the port does not change the data.
_API = "https://verify.twilio.com"
ATTEMPT, VERIFICATION, SERVICE = 1, 2, 3  # kinds of SID, each scrambled differently


@dataclass(frozen=True)
class Sids:
    """Turns numbers into the 32 hex digits of a SID and back, to find an attempt by its SID."""

    seed: int

    def texts(self, numbers: Ints, kind: int) -> list[str]:
        shift = np.uint64((self.seed * 977 + kind) % 2**64)
        low = numbers.astype(np.uint64) * np.uint64(_ODD) + shift
        text = np.stack([mix(low, kind + 1), low], axis=1).astype(">u8").tobytes().hex()
        return [text[start : start + 32] for start in range(0, len(text), 32)]

    def number(self, digits: str, kind: int) -> int | None:
        """The number behind 32 hex digits; None if they are no SID of this account."""
        try:
            low = int(digits[-16:], 16)
        except ValueError:
            return None
        number = (low - self.seed * 977 - kind) * _INVERSE % 2**64
        known = number < 2**62 and self.texts(np.array([number]), kind)[0] == digits.lower()
        return number if known else None


class Renderer:
    """Writes `account`'s attempts as JSON, in the format that `switches` choose.

    `rows` is the fault in every third attempt (see `Faults`); "right" = none.
    """

    def __init__(
        self, account: Account, switches: Switches, account_sid: str, rows: str = "right"
    ) -> None:
        self.switches = switches
        self._rows = rows
        self.sids = Sids(account.seed)
        self.services = [f"VA{sid}" for sid in self.sids.texts(np.arange(world.SERVICES), SERVICE)]
        self._head = f'{{"sid":"VL%s","account_sid":"{account_sid}","service_sid":"%s",'
        self._networks = [
            [
                f'"country":"{country.iso}","code_length":%d,"locale":"{country.locale}",'
                f'"mcc":"{carrier.mcc}","mnc":"{carrier.mnc}","carrier":"{carrier.name}"'
                for carrier in country.carriers
            ]
            for country in world.COUNTRIES
        ]

    def is_converted(self, block: Block, now: float) -> Bools:
        """Which attempts are marked converted: all of a converted verification, or the last one."""
        marked: Bools = block.converted <= now
        return marked if self.switches.converts == "all" else marked & (block.is_converting > 0)

    def render(self, block: Block, places: Ints, now: float) -> list[str]:
        """The attempts at positions `places` of `block`, each as JSON text."""
        texts = self._usual(block, places, now)
        if self._rows == "right":
            return texts
        numbers = block.index[places].tolist()
        return [odd(text, self._rows, n) for text, n in zip(texts, numbers, strict=True)]

    def _usual(self, block: Block, places: Ints, now: float) -> list[str]:
        chosen = Block(**{f.name: getattr(block, f.name)[places] for f in fields(Block)})
        converted = self.is_converted(chosen, now)
        typed = np.where(converted, 0, np.where(now >= chosen.expires, 2, 1))
        statuses = self._words(STATUSES)
        typings = self._words(("confirmed", "unconfirmed", "expired"))
        conversions = self._words(("unconverted", "converted"))
        currency = "USD" if self.switches.upper_case else "usd"
        no_error = self._no_error()
        rows = zip(
            self.sids.texts(chosen.index, ATTEMPT),
            self.sids.texts(chosen.verification, VERIFICATION),
            _iso(chosen.created),
            _iso(self._updated(chosen, converted, now)),
            converted.tolist(),
            chosen.channel.tolist(),
            _price(chosen, now).tolist(),
            chosen.destination.tolist(),
            typed.tolist(),
            _status(chosen, now).tolist(),
            _error(chosen, now).tolist(),
            (chosen.index % len(no_error)).tolist(),
            chosen.country.tolist(),
            chosen.carrier.tolist(),
            chosen.service.tolist(),
            strict=True,
        )
        return [
            self._head % (sid, self.services[service])
            + f'"verification_sid":"VE{ve}","date_created":"{created}Z",'
            f'"date_updated":"{updated}Z","conversion_status":{conversions[is_converted]},'
            f'"channel":"{world.CHANNELS[channel]}","price":'
            + (f'{{"value":"{cost / 1e6:.6g}","currency":"{currency}"}}' if cost >= 0 else "null")
            + f',"channel_data":{{"verification_sid":"VE{ve}","to":'
            + (f'"{_address(to)}"' if channel == EMAIL else f'"+{to}"')
            + f',"status":{typings[code]},"message_status":{statuses[status]},'
            + (f'"error_code":"{ERRORS[error]}",' if error else no_error[encoding])
            + (
                f'"code_length":{world.CODE_LENGTH[service]},"locale":"en"'
                if channel == EMAIL  # e-mail has no network and no country
                else self._networks[country][carrier] % world.CODE_LENGTH[service]
            )
            + f'}},"url":"{_API}/v2/Attempts/VL{sid}"}}'
            for (
                sid, ve, created, updated, is_converted, channel, cost, to, code, status, error,
                encoding, country, carrier, service,
            ) in rows
        ]  # fmt: skip

    def _updated(self, chosen: Block, converted: Bools, now: float) -> Ints:
        events = [chosen.sent, chosen.first, chosen.final]
        events.append(np.where(converted, chosen.converted, NEVER))
        if self.switches.price_touches_updated:
            events += [chosen.priced, chosen.settled]
        updated = chosen.created
        for event in events:
            updated = np.where(event <= now, np.maximum(updated, event), updated)
        return updated

    def _words(self, words: Iterable[str | None]) -> list[str]:
        upper = self.switches.upper_case
        return ["null" if w is None else f'"{w.upper() if upper else w}"' for w in words]

    def _no_error(self) -> list[str]:
        """The JSON members that mean "no error". If there are several, attempts take turns."""
        mode = self.switches.no_error
        modes = _NO_ERROR if mode == "mixed" else (mode,)
        return [f'"error_code":{_NO_ERROR[m]},' if _NO_ERROR[m] else "" for m in modes]


def user_of(address: str) -> int | None:
    """The user's number in an e-mail address; None if no made-up user has it."""
    name, _, _ = address.partition("@")
    number = name.removeprefix("user")
    user = int(number) if number.isdecimal() and number.isascii() else None
    return user if user is not None and _address(user) == address else None


def _address(user: int) -> str:
    return f"user{user}@{world.EMAIL_DOMAINS[user % len(world.EMAIL_DOMAINS)]}"


def _status(chosen: Block, now: float) -> Ints:
    status = np.where(now >= chosen.sent, SENT, QUEUED)
    status = np.where(now >= chosen.first, chosen.first_status, status)
    status = np.where(now >= chosen.final, chosen.final_status, status)
    return np.where(chosen.first_status == 0, 0, status)


def _error(chosen: Block, now: float) -> Ints:
    return np.where((now >= chosen.first) & (now < chosen.final), chosen.error, 0)


def _price(chosen: Block, now: float) -> Ints:
    """Millionths of a US dollar; -1 = not known yet."""
    price = np.where(now >= chosen.settled, chosen.settled_price, chosen.price)
    return np.where(now >= chosen.priced, price, -1)


def _iso(instants: Ints) -> list[str]:
    texts: list[str] = np.datetime_as_string(instants.astype("datetime64[s]")).tolist()
    return texts
