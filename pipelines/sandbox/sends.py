"""Draws one day of sends at random: recipient, delivery, conversion, price. Data: world.

All functions take a random generator and return arrays with one element per send.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.sandbox import world

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

DAY = 86_400
NEVER = np.int64(2**62)

# channel_data.message_status by number; 0 = null.
STATUSES = (
    None, "queued", "sent", "delivered", "undelivered", "failed", "read",
    "ringing", "in-progress", "completed", "busy", "no-answer", "canceled",
)  # fmt: skip
QUEUED, SENT, DELIVERED, UNDELIVERED, FAILED, READ = 1, 2, 3, 4, 5, 6
RINGING, COMPLETED, BUSY, NO_ANSWER = 7, 9, 10, 11
ERRORS = (
    None, "30003", "30004", "30005", "30006", "30007", "30008", "30034",
    "30410", "30450", "63024", "63036", "60410", "60605",
)  # fmt: skip
SMS, CALL, EMAIL, WHATSAPP, RBM = range(5)
_SMS_ERRORS = np.array([1, 3, 4, 5, 6, 8, 9, 7, 12, 13, 2])
_SMS_ERROR_SHARE = (0.30, 0.16, 0.12, 0.10, 0.14, 0.05, 0.04, 0.04, 0.02, 0.02, 0.01)


@dataclass(frozen=True)
class Outage:
    """A carrier that delivers almost nothing between two instants (epoch seconds)."""

    country: int
    carrier: int
    start: int
    end: int


@dataclass(frozen=True)
class Attack:
    """SMS pumping: `size` sends to consecutive numbers of one prefix, spread over `hours`."""

    country: int
    start: int
    hours: float
    size: int


def _pick(rng: np.random.Generator, shares: tuple[float, ...], n: int) -> Ints:
    bounds = np.cumsum(shares) / sum(shares)
    places = np.searchsorted(bounds, rng.random(n), side="right")
    return np.minimum(places, len(shares) - 1).astype(np.int64)


def _delay(rng: np.random.Generator, median: float, sigma: float, n: int) -> Ints:
    """Log-normal delays in whole seconds, at least 1."""
    return 1 + (median * np.exp(sigma * rng.standard_normal(n))).astype(np.int64)


def verifications(
    rng: np.random.Generator, n: int, day: int, outages: list[Outage]
) -> dict[str, Ints]:
    """Ordinary verifications: up to five sends each, with fallback, until one converts."""
    people = _people(rng, n, day)
    sends = []
    for chance in (*world.RESEND_CHANCE, 0.0):
        send = {**people, **_send(rng, people, outages)}
        sends.append(send)
        again = (send["converted"] == NEVER) & (rng.random(len(send["user"])) < chance)
        people = {name: column[again] for name, column in people.items()}
        people["created"] = people["created"] + _delay(rng, 45, 0.5, len(people["created"]))
        people["channel"] = _next_channel(rng, people["channel"])
    columns = {name: np.concatenate([send[name] for send in sends]) for name in sends[0]}
    when = np.full(n, NEVER)  # all sends of a verification share its conversion time
    np.minimum.at(when, columns["verification"], columns["converted"])
    columns["converted"] = when[columns["verification"]]
    return columns


def _people(rng: np.random.Generator, n: int, day: int) -> dict[str, Ints]:
    """The verifications that begin on `day`: user, time and first channel of each."""
    country = _pick(rng, tuple(c.weight for c in world.COUNTRIES), n)
    local = _pick(rng, world.HOURS, n) * 3600 + (rng.random(n) * 3600).astype(np.int64)
    zone = np.array([c.utc_offset for c in world.COUNTRIES])[country]
    carrier = np.zeros(n, dtype=np.int64)
    for number, facts in enumerate(world.COUNTRIES):
        here = country == number
        carrier[here] = _pick(rng, tuple(c.share for c in facts.carriers), int(here.sum()))
    return {
        "verification": np.arange(n, dtype=np.int64),
        "created": day * DAY + (local - zone * 3600) % DAY,
        "country": country,
        "carrier": carrier,
        "user": rng.integers(0, 10**6, n),
        "service": _pick(rng, world.SERVICE_SHARE, n),
        "channel": _pick(rng, world.FIRST_CHANNEL_SHARE, n),
    }


def _next_channel(rng: np.random.Generator, channel: Ints) -> Ints:
    """The channel of a resend: mostly the same one. E-mail users always keep e-mail."""
    turn = np.array([SMS, CALL, WHATSAPP])[_pick(rng, world.RESEND_CHANNEL_SHARE, len(channel))]
    following: Ints = np.where((channel == EMAIL) | (turn == SMS), channel, turn)
    return following


def _send(
    rng: np.random.Generator, people: dict[str, Ints], outages: list[Outage]
) -> dict[str, Ints]:
    """One send to each of `people`: delivery, conversion, price."""
    created, channel, country = people["created"], people["channel"], people["country"]
    n = len(created)
    status, error, first, final, final_status = _delivery(rng, created, channel, country)
    for outage in outages:
        hit = (country == outage.country) & (people["carrier"] == outage.carrier)
        hit &= (created >= outage.start) & (created < outage.end) & (channel == SMS)
        hit &= rng.random(n) < 0.92
        status[hit], error[hit], first[hit] = UNDELIVERED, ERRORS.index("30410"), created[hit] + 30
    arrived = np.isin(status, (0, SENT, DELIVERED, READ, COMPLETED)) | (final != NEVER)
    chance = np.array([c.conversion for c in world.COUNTRIES])[country]
    chance = chance * np.array(world.CHANNEL_CONVERSION)[channel]
    typed = rng.random(n) < np.where(arrived, np.minimum(chance, 0.97), 0.02)
    validity = np.array(world.CODE_VALIDITY)[people["service"]]
    delay = np.minimum(_delay(rng, 24, 0.8, n), 595)
    slow = (validity > 600) & (rng.random(n) < 0.08)  # some 24 h codes are typed hours later
    delay = np.where(slow, 600 + (rng.random(n) * (validity - 900)).astype(np.int64), delay)
    return {
        "sent": created + 1 + (rng.random(n) * 3).astype(np.int64),
        "first": first,
        "final": final,
        "converted": np.where(typed, created + delay, NEVER),
        "expires": created + validity,
        **_pricing(rng, created, channel, country, status),
        "destination": _destination(people),
        "is_converting": typed.astype(np.int64),
        "first_status": status,
        "final_status": final_status,
        "error": error,
    }


def _delivery(
    rng: np.random.Generator, created: Ints, channel: Ints, country: Ints
) -> tuple[Ints, Ints, Ints, Ints, Ints]:
    """Carrier reports: (status, error, time of the report, time of its change, new status)."""
    n, luck = len(created), rng.random(len(created))
    status = np.full(n, DELIVERED)
    error = np.zeros(n, dtype=np.int64)
    failed = luck < 0.055
    status[failed] = np.where(luck[failed] < 0.04, UNDELIVERED, FAILED)
    error[failed] = _SMS_ERRORS[_pick(rng, _SMS_ERROR_SHARE, int(failed.sum()))]
    call = channel == CALL
    status[call] = np.array([COMPLETED, NO_ANSWER, BUSY, FAILED])[
        _pick(rng, (0.78, 0.14, 0.05, 0.03), int(call.sum()))
    ]
    error[call & (status != FAILED)] = 0
    error[failed & np.isin(channel, (EMAIL, WHATSAPP))] = 10
    rbm = failed & (channel == RBM)
    status[rbm], error[rbm] = FAILED, 11
    wait = _delay(rng, 6, 0.9, n)
    late = rng.random(n) < 0.03  # some receipts take hours, up to two days
    wait = np.where(late, 600 + (rng.random(n) * 2 * DAY).astype(np.int64), wait)
    first = created + 4 + wait
    silent = (rng.random(n) < 0.03) & (status == DELIVERED)
    status[silent], first[silent] = SENT, NEVER  # no receipt ever comes
    final, final_status = np.full(n, NEVER), status.copy()
    seen = (channel == WHATSAPP) & (status == DELIVERED) & (rng.random(n) < 0.7)
    final[seen] = first[seen] + _delay(rng, 40, 1.2, int(seen.sum()))
    final_status[seen] = READ
    # Most failed RBM attempts fall back to SMS: the same attempt then becomes delivered.
    rescued = rbm & (rng.random(n) < 0.7)
    final[rescued], final_status[rescued] = first[rescued] + 45, DELIVERED
    mute = ~np.array([c.receipts for c in world.COUNTRIES])[country] & (channel != EMAIL)
    status[mute], final_status[mute], error[mute], first[mute], final[mute] = 0, 0, 0, NEVER, NEVER
    return status, error, first, final, final_status


def _pricing(
    rng: np.random.Generator, created: Ints, channel: Ints, country: Ints, status: Ints
) -> dict[str, Ints]:
    """Prices appear minutes to hours after the send. Some change once, some never appear."""
    n = len(created)
    flat = np.array([-1 if price is None else price for price in world.CHANNEL_PRICE])[channel]
    sms = np.array([c.sms_price for c in world.COUNTRIES])[country]
    price = np.where(flat < 0, sms, flat)
    priced = created + _delay(rng, 900, 1.1, n)
    priced = np.minimum(priced, created + DAY - 3600)
    never = (status == 0) | (rng.random(n) < 0.01)
    change = (rng.random(n) < 0.18) & ~never
    factor = np.array([0.5, 0.9, 1.1, 2.0])[rng.integers(0, 4, n)]
    settled = priced + (rng.random(n) * (created + DAY - priced)).astype(np.int64)
    return {
        "priced": np.where(never, NEVER, priced),
        "settled": np.where(change, np.maximum(settled, priced + 1), NEVER),
        "price": price,
        "settled_price": (price * factor).astype(np.int64),
    }


def _destination(people: dict[str, Ints]) -> Ints:
    """The phone number's digits, calling code first; for e-mail, the user's number."""
    number: Ints = people["user"].copy()
    for place, facts in enumerate(world.COUNTRIES):
        here = (people["country"] == place) & (people["channel"] != EMAIL)
        spread = (number[here] * 7_919 + people["carrier"][here] * 1_000_003) % 10**facts.digits
        number[here] = int(facts.dial) * 10**facts.digits + spread
    return number


def pumping(rng: np.random.Generator, attack: Attack) -> dict[str, Ints]:
    """The sends of an attack: to nearly consecutive numbers, delivered, paid, 1 % converted."""
    n, facts = attack.size, world.COUNTRIES[attack.country]
    ordinal = np.arange(n, dtype=np.int64)
    created = attack.start + (rng.random(n) * attack.hours * 3600).astype(np.int64)
    people = {"verification": ordinal, "created": np.sort(created), "user": ordinal}
    carrier = int(rng.integers(len(facts.carriers)))
    fixed = {"country": attack.country, "carrier": carrier, "service": 1, "channel": SMS}
    people |= {name: np.full(n, value, dtype=np.int64) for name, value in fixed.items()}
    send = {**people, **_send(rng, people, [])}
    prefix = int(rng.integers(10 ** (facts.digits - 4) - 1)) * 10_000
    send["destination"] = int(facts.dial) * 10**facts.digits + prefix + ordinal * 3 // 2 % 10_000
    typed = rng.random(n) < 0.01
    send["converted"] = np.where(typed, send["created"] + 40, NEVER)
    return {**send, "is_converting": typed.astype(np.int64)}
