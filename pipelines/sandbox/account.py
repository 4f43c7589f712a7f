"""A made-up Verify account: every attempt is a pure function of (seed, index, now).

The account is generated a UTC day at a time. A `Block` holds one day's attempts as columns of
what will ever happen to them and when; what the API would say at an instant is read off it by
`state.py`. The same seed gives the same account on every machine and however it is read.
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

INDEX_BITS = 24  # an attempt's index is day << 24 | its place in the day
MEAN_SENDS = 1.15  # attempts a verification, measured over seeds: turns attempts into verifications


@dataclass(frozen=True)
class Block:
    """One day of attempts in order of creation, one element each. Instants are epoch seconds."""

    index: Ints
    verification: Ints
    created: Ints
    sent: Ints
    first: Ints  # when `first_status` (a receipt) arrives; NEVER if it does not
    final: Ints  # when `final_status` follows it (read; a failover's success)
    converted: Ints  # when the verification's code is typed back
    expires: Ints
    priced: Ints
    settled: Ints  # when the price changes for the last time
    price: Ints  # millionths of a US dollar
    settled_price: Ints
    destination: Ints  # the phone number's digits, or the number of an e-mail user
    is_converting: Ints  # 1 if this very send's code is the one typed
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
    """`attempts` is the expected count in `days` days; nothing exists before `since` (epoch s).

    `attacks` and `outages` default to one of each every 28 days, so that any 30-day window holds
    them; pass sequences (or empty ones) to place them by hand.
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
                if len(self._blocks) > 40:  # 30 days are visible at once; a summary walks them all
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
        """How many verifications begin on `day`: exact over weeks, whatever the account's size."""
        rate = self.attempts / self.days / MEAN_SENDS
        before, after = (d // 7 * 7 + sum(world.WEEKDAYS[: d % 7]) for d in (day + 3, day + 4))
        return int(rate * after) - int(rate * before)  # 1970-01-01 was a Thursday: + 3 = Monday 0

    def _month(self, day: int) -> tuple[int, np.random.Generator]:
        """Incidents recur every 28 days; the day within them belongs to the seed."""
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

    A verification that begins shortly before midnight is resent after it: one day of margin.
    """
    return range(int(after) // DAY - 1, int(before) // DAY + 1)
