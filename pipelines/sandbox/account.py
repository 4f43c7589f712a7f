"""A made-up Verify account: every attempt is a pure function of (seed, index, now).

The account is generated one UTC day at a time. A `Block` holds a day's attempts as columns, with
all their later events. `state.py` selects what the API shows at an instant. The same seed gives the
same account on every machine, in any order of requests.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox import world
from pipelines.sandbox.sends import (
    DAY,
    Attack,
    Ints,
    Outage,
    pumping,
    verifications,
)

INDEX_BITS = 24  # an attempt's index is day << 24 | its position in the day
MEAN_SENDS = 1.15  # attempts per verification, measured over many seeds


@dataclass(frozen=True)
class Block:
    """One day's attempts, oldest first, one array element each. Instants are epoch seconds."""

    index: Ints
    verification: Ints
    created: Ints
    sent: Ints
    first: Ints  # when the receipt with `first_status` arrives; NEVER if none does
    final: Ints  # when `final_status` replaces it (read, or success after fallback); or NEVER
    converted: Ints  # when the verification converts; NEVER if it does not
    expires: Ints  # when the code expires
    priced: Ints  # when `price` appears; NEVER if it does not
    settled: Ints  # when the price changes to `settled_price`; NEVER if it does not
    price: Ints  # millionths of a US dollar
    settled_price: Ints
    destination: Ints  # the phone number's digits; for e-mail, the user's number
    is_converting: Ints  # 1 if the code of this attempt was typed back
    channel: Ints
    country: Ints
    carrier: Ints
    service: Ints
    first_status: Ints
    final_status: Ints
    error: Ints


def mix(values: NDArray[np.uint64], salt: int) -> NDArray[np.uint64]:
    """splitmix64's finaliser: a bijection of 64-bit words that looks random."""
    z = values + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: NDArray[np.uint64] = z ^ (z >> np.uint64(31))
    return mixed


@dataclass
class Account:
    """About `attempts` attempts per `days` days, none before `since` (epoch seconds).

    By default it has one attack and one outage every 28 days, so that every 30-day window has both.
    Accounts under 3,000 attempts in 30 days have no attack. To place them yourself, pass
    `attacks` and `outages`; an empty tuple means none.
    """

    seed: int = 1
    attempts: int = 20_000
    days: float = 30.0
    since: int = 0
    attacks: tuple[Attack, ...] | None = None
    outages: tuple[Outage, ...] | None = None
    _blocks: OrderedDict[int, Block] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def block(self, day: int) -> Block:
        """The attempts whose verification began on UTC day `day` (days since 1970)."""
        with self._lock:
            if day in self._blocks:
                self._blocks.move_to_end(day)
            else:
                self._blocks[day] = self._generate(day)
                if len(self._blocks) > 40:  # keep the 30 days that a summary reads
                    self._blocks.popitem(last=False)
            return self._blocks[day]

    def _generate(self, day: int) -> Block:
        rng = np.random.default_rng([self.seed, day])
        parts = [verifications(rng, self._starts(day), day, self._outages(day))]
        parts += [pumping(rng, attack) for attack in self._attacks(day)]
        for number, offset in enumerate(np.cumsum([0] + [_count(part) for part in parts[:-1]])):
            parts[number]["verification"] += (day << INDEX_BITS) + offset
        columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        order = np.argsort(columns["created"], kind="stable")
        order = order[columns["created"][order] > self.since]
        columns = {name: column[order] for name, column in columns.items()}
        index = (day << INDEX_BITS) + np.arange(len(order), dtype=np.int64)
        columns.pop("user")
        return Block(index=index, **columns)

    def _starts(self, day: int) -> int:
        """How many verifications begin on `day`. Rounding errors do not add up over days."""
        rate = self.attempts / self.days / MEAN_SENDS
        before, after = (d // 7 * 7 + sum(world.WEEKDAYS[: d % 7]) for d in (day + 3, day + 4))
        return int(rate * after) - int(rate * before)  # day + 3: 1970-01-01 was a Thursday

    def _month(self, day: int) -> tuple[int, np.random.Generator]:
        """(days since the 28-day period began, the period's random generator)."""
        offset = int(np.random.default_rng([self.seed, 7]).integers(28))
        month, place = divmod(day - offset, 28)
        return place, np.random.default_rng([self.seed, 28, max(month, 0)])

    def _attacks(self, day: int) -> list[Attack]:
        if self.attacks is not None:
            return [attack for attack in self.attacks if attack.start // DAY == day]
        place, rng = self._month(day)
        size = int(self.attempts / self.days * 30 * 0.02)
        if place != 0 or size < 60:
            return []
        return [Attack(11, day * DAY + int(rng.integers(3600, 5 * 3600)), 5.0, size)]

    def _outages(self, day: int) -> list[Outage]:
        if self.outages is not None:
            return [o for o in self.outages if o.start // DAY <= day <= o.end // DAY]
        place, rng = self._month(day)
        if place != 12:
            return []
        country = int(rng.integers(1, 6))
        start = day * DAY + int(rng.integers(10, 14)) * 3600
        return [Outage(country, int(rng.integers(3)), start, start + 6 * 3600)]


def _count(columns: dict[str, Ints]) -> int:
    return int(np.max(columns["verification"], initial=-1)) + 1


def day_range(after: float, before: float) -> range:
    """UTC days whose blocks can hold attempts created in `[after, before]`, oldest first.

    It adds one day: a verification that begins before midnight can have resends after it.
    """
    return range(int(after) // DAY - 1, int(before) // DAY + 1)
