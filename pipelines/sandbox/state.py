"""Selects the attempts that a request sees: filters, retention, visibility. JSON: render."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np

from pipelines.sandbox import world
from pipelines.sandbox.account import INDEX_BITS, Account, Block, day_range
from pipelines.sandbox.render import ATTEMPT, VERIFICATION, Renderer, user_of
from pipelines.sandbox.sends import DAY, EMAIL, Bools, Ints
from pipelines.sandbox.switches import Switches

RETENTION = 30 * DAY


@dataclass(frozen=True)
class Query:
    """The filters of a list or summary request. Instants are epoch seconds; None = no filter."""

    after: int | None = None
    before: int | None = None
    to: str | None = None
    country: str | None = None
    channel: str | None = None
    service: str | None = None
    verification: str | None = None
    converted: bool | None = None
    prefix: str | None = None


class View:
    """An account as the API shows it at an instant `now` (epoch seconds)."""

    def __init__(self, account: Account, switches: Switches, renderer: Renderer) -> None:
        self.account = account
        self.switches = switches
        self.renderer = renderer

    def walk(
        self, query: Query, now: float, start: int | None = None, ascending: bool = True
    ) -> Iterator[tuple[Block, Ints]]:
        """Blocks with the positions of matching attempts, in listing order after index `start`."""
        days = self._days(query, now)
        for day in days if ascending else reversed(days):
            first = day if start is None else start >> INDEX_BITS
            if day < first if ascending else day > first:
                continue
            block = self.account.block(day)
            places = np.flatnonzero(self._matches(block, query, now))
            if start is not None:
                index = block.index[places]
                places = places[index > start if ascending else index < start]
            if len(places):
                yield block, places if ascending else places[::-1]

    def summary(self, query: Query, now: float) -> tuple[int, int]:
        """(number of attempts, number of converted attempts)."""
        total = converted = 0
        for block, places in self.walk(query, now):
            total += len(places)
            converted += int(self.renderer.is_converted(block, now)[places].sum())
        return total, converted

    def find(self, sid: str, now: float) -> str | None:
        """One attempt's JSON; None if it is unknown, not visible yet or past retention."""
        index = self.renderer.sids.number(sid[2:], ATTEMPT)
        if index is None:
            return None
        block = self.account.block(index >> INDEX_BITS)
        place = index & (1 << INDEX_BITS) - 1
        if place >= len(block.index) or not self._matches(block, Query(), now)[place]:
            return None
        return self.renderer.render(block, np.array([place]), now)[0]

    def everything(self, now: float) -> Iterator[str]:
        """The JSON of all attempts the API would list, oldest first."""
        for block, places in self.walk(Query(), now):
            yield from self.renderer.render(block, places, now)

    def _days(self, query: Query, now: float) -> range:
        oldest = now - RETENTION
        after = oldest if query.after is None else max(query.after, oldest)
        return day_range(after, now if query.before is None else min(query.before, now))

    def _matches(self, block: Block, query: Query, now: float) -> Bools:
        created = block.created
        mask: Bools = (created <= now) & (created > now - RETENTION)
        if self.switches.visibility_delay:
            delay = block.index * 7_919 % (self.switches.visibility_delay + 1)
            mask &= created + delay <= now
        edge = 0 if self.switches.inclusive else 1
        if query.after is not None:
            mask &= created >= query.after + edge
        if query.before is not None:
            mask &= created <= query.before - edge
        if query.country is not None:
            here = [place for place, c in enumerate(world.COUNTRIES) if c.iso == query.country]
            mask &= np.isin(block.country, here) & (block.channel != EMAIL)
        if query.channel is not None:
            mask &= block.channel == world.CHANNELS.index(query.channel)
        if query.service is not None:
            services = self.renderer.services
            mask &= block.service == (
                services.index(query.service) if query.service in services else -1
            )
        if query.verification is not None:
            found = self.renderer.sids.number(query.verification[2:], VERIFICATION)
            mask &= block.verification == (-1 if found is None else found)
        if query.to is not None:
            mask &= _sent_to(block, query.to)
        if query.prefix is not None:
            mask &= _starts_with(block, query.prefix.lstrip("+"))
        if query.converted is not None:
            mask &= self.renderer.is_converted(block, now) == query.converted
        return mask


def _sent_to(block: Block, to: str) -> Bools:
    mail = block.channel == EMAIL
    user = user_of(to)
    if user is not None:
        return cast(Bools, mail & (block.destination == user))
    digits = int(to[1:]) if to.startswith("+") and to[1:].isdecimal() and len(to) < 18 else -1
    return cast(Bools, ~mail & (block.destination == digits))


def _starts_with(block: Block, digits: str) -> Bools:
    if not digits.isdecimal() or len(digits) > 15:
        return np.zeros(len(block.index), dtype=np.bool_)
    length = np.char.str_len(block.destination.astype(str))
    lead = block.destination // 10 ** np.maximum(length - len(digits), 0)
    return cast(Bools, (block.channel != EMAIL) & (lead == int(digits)))
