"""The rate limit, shared by all threads and runs. Sending: transport."""

from __future__ import annotations

import logging
import platform
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.errors import Failure, Misuse, advised

WINDOW = 60.0  # seconds over which the API counts requests
_LEASE = 2 * WINDOW  # seconds for which a request in flight holds its slot, unless renewed
_RENEWAL = 20.0  # seconds between renewals; the lease is long enough if some of them come late
_TOLD = 1.0  # seconds; shorter waits are not logged
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

log = logging.getLogger("verify_sync")


class Pacer:
    """At most `limit` requests in any 60 seconds; a context manager.

    A request holds one of `limit` slots, from before it is sent until 60 seconds after the end of
    its answer. So the limit holds, no matter when in between the server counts the request. Slots
    are stored in the SQLite file `path`, so that other runs know them; without a path, in memory.
    Other limiters count a request once, when it is sent, and so exceed it by jitter.

    Times are those of a clock that starts with the machine, goes on while it sleeps, and that
    nobody can set. Of a slot that another machine stored, or this one before its last start, only
    its changes are known here: it is free a minute after the last one was seen. A killed run's
    requests hold their slots for as long as Twilio may count them.
    """

    def __init__(self, limit: int, path: Path | None = None) -> None:
        if limit < 1:
            raise Misuse(f"requests_per_minute: {limit} is not at least 1")
        self._limit, self._path = limit, path
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._in_flight: set[int] = set()
        self._seen: dict[tuple[int, str, float], float] = {}  # others' slots: when first seen
        self._told_until = 0.0
        self._boot = _boot()
        try:
            self._slots = self._opened()
        except (OSError, sqlite3.OperationalError) as error:
            raise self._unusable(error) from error
        if path is not None:
            threading.Thread(target=self._renew, daemon=True).start()

    def __enter__(self) -> Pacer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Threads that wait for a slot or a retry get a Failure at once."""
        self._closed.set()
        with self._lock:
            self._slots.close()

    def pause(self, seconds: float) -> None:
        """Waits for `seconds`. Raises Failure if `close` is called meanwhile."""
        if self._closed.wait(seconds):
            raise Failure("given up, because the run has ended")

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Waits until a request may be sent. The block sends it and reads the whole answer."""
        number = self._take()
        try:
            yield
        finally:
            self._release(number)

    def taken(self) -> int:
        """The number of slots in use: requests of the last minute, of all runs."""
        return len(self._freed())

    def seconds_for(self, requests: int) -> float:
        """The least number of seconds until `requests` more requests have had a slot."""
        freed = self._freed()[-self._limit :]
        free = self._limit - len(freed)
        if requests <= free:
            return 0.0
        freed += [WINDOW] * free  # free slots: taken now, they are free again in a minute
        rounds, place = divmod(requests - free - 1, self._limit)
        return rounds * WINDOW + freed[place]

    def _freed(self) -> list[float]:
        """For each slot in use, the seconds until it is free; soonest first."""
        with self._transaction() as slots:
            self._clear(slots)
            return self._left(slots)

    def _clear(self, slots: sqlite3.Connection) -> None:
        """Deletes the slots that are free."""
        now, own = self._now(), ",".join(map(str, self._in_flight))
        slots.execute(
            f"delete from in_use where boot = ? and free_at <= ? and id not in ({own})",
            [self._boot, now],
        )
        others = slots.execute("select * from in_use where boot != ?", [self._boot]).fetchall()
        self._seen = {slot: self._seen.get(slot, now) for slot in others}
        free = [(slot[0],) for slot, seen in self._seen.items() if seen + WINDOW <= now]
        slots.executemany("delete from in_use where id = ?", free)

    def _left(self, slots: sqlite3.Connection) -> list[float]:
        """For each slot, the seconds until it is free, at most a minute; soonest first."""
        now = self._now()
        left = [
            (self._seen[number, boot, free_at] + WINDOW if boot != self._boot else free_at) - now
            for number, boot, free_at in slots.execute("select * from in_use")
        ]
        return sorted(min(max(seconds, 0.01), WINDOW) for seconds in left)

    def _take(self) -> int:
        while True:
            number, wait = self._claim()
            if number is not None:
                return number
            self._tell(wait)
            self.pause(wait)

    def _claim(self) -> tuple[int | None, float]:
        """A slot's number and 0, or None and the seconds to wait before the next try."""
        with self._transaction() as slots:
            self._clear(slots)
            (taken,) = slots.execute("select count(*) from in_use").fetchone()
            if taken >= self._limit:
                return None, self._left(slots)[taken - self._limit]
            # Store the slot before the request: after a kill it still counts.
            number = self._hold(slots, None, _LEASE)
            self._in_flight.add(number)
            return number, 0.0

    def _hold(self, slots: sqlite3.Connection, number: int | None, seconds: float) -> int:
        """Stores that slot `number` (None: a new one) is free in so many seconds."""
        slot = [number, self._boot, self._now() + seconds]
        return slots.execute("insert or replace into in_use values (?, ?, ?)", slot).lastrowid or 0

    def _renew(self) -> None:
        """Renews the slots of requests in flight: an answer may take longer than a lease."""
        while not self._closed.wait(_RENEWAL):
            if self._in_flight:
                with suppress(Failure), self._transaction() as slots:  # a request tells it, too
                    for number in self._in_flight:
                        self._hold(slots, number, _LEASE)

    def _release(self, number: int) -> None:
        if self._closed.is_set():  # the slot stays in use, as after a kill
            return
        with self._transaction() as slots:
            self._in_flight.discard(number)
            self._hold(slots, number, WINDOW)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed.is_set():
                raise Failure("given up, because the run has ended")
            try:
                self._slots.execute("begin immediate")
                with self._slots:
                    yield self._slots
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def _opened(self) -> sqlite3.Connection:
        if self._path is None:
            return self._prepared(":memory:")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return self._prepared(str(self._path))
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError:  # the file is damaged, for example by a power cut
            self._path.unlink()
            return self._prepared(str(self._path))

    def _prepared(self, database: str) -> sqlite3.Connection:
        slots = sqlite3.connect(
            database, timeout=WINDOW, isolation_level=None, check_same_thread=False
        )
        try:
            slots.execute("pragma synchronous = off")  # no fsync: the file covers only one minute
            slots.execute("begin immediate")
            with slots:
                self._set_up(slots)
        except BaseException:
            slots.close()
            raise
        return slots

    def _set_up(self, slots: sqlite3.Connection) -> None:
        # No number is used twice: a run may release a slot that others took for free long ago.
        slots.execute(
            "create table if not exists in_use"
            " (id integer primary key autoincrement, boot text, free_at real)"
        )
        if slots.execute("select 1 from sqlite_master where name = 'slots'").fetchone():
            # Of a release that knew only the wall clock.
            slots.execute("insert into in_use select null, 'unknown', free_at from slots")
            slots.execute("drop table slots")
        # Shorten slots of requests that a kill interrupted. A run that is alive renews its own.
        latest = self._now() + WINDOW
        slots.execute(
            "update in_use set free_at = min(free_at, ?) where boot = ?", [latest, self._boot]
        )

    def _now(self) -> float:
        """Seconds since the machine started, including those for which it slept."""
        has_boottime = hasattr(time, "CLOCK_BOOTTIME")  # on macOS the other one goes on in sleep
        return time.clock_gettime(time.CLOCK_BOOTTIME if has_boottime else time.CLOCK_MONOTONIC)

    def _tell(self, wait: float) -> None:
        """Logs the wait: one line for all threads that wait for the same slots."""
        with self._lock:
            now = self._now()
            known, self._told_until = now < self._told_until, max(self._told_until, now + wait)
        if wait >= _TOLD and not known:
            log.info("rate limit (%d requests a minute) reached: waiting %.0f s", self._limit, wait)

    def _unusable(self, error: Exception) -> Failure:
        why = advised(str(error))
        return Failure(f"{self._path}, the file of the rate limit, cannot be used: {why}")


def _boot() -> str:
    """Linux's id of this start of the machine, the same in all its containers; else its name."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return platform.node()
