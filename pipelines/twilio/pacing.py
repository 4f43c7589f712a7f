"""The rate limit, shared by all threads and runs. Sending: transport."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.errors import Failure, Misuse, advised

WINDOW = 60.0  # seconds over which the API counts requests
_DRIFT = 0.1  # seconds that the machine's clock may be ahead of ours
_TOLD = 1.0  # seconds; shorter waits are not logged

log = logging.getLogger("verify_sync")


class Pacer:
    """At most `limit` requests in any 60 seconds; a context manager.

    A request holds one of `limit` slots, from before it is sent until 60 seconds after the end of
    its answer. So the limit holds, no matter when in between the server counts the request. Slots
    are stored in the SQLite file `path`, so that the next run knows them; without a path, in
    memory. Other limiters count a request once, when it is sent, and so exceed it by jitter.
    """

    def __init__(self, limit: int, path: Path | None = None) -> None:
        if limit < 1:
            raise Misuse(f"requests_per_minute: {limit} is not at least 1")
        self._limit, self._path = limit, path
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._in_flight: set[int] = set()
        self._told_until = 0.0
        # Wall time, because the next run needs it; advanced by a clock that nobody can set.
        self._started = time.time() - time.monotonic()
        try:
            self._slots = self._opened()
        except (OSError, sqlite3.OperationalError) as error:
            raise self._unusable(error) from error

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
            now = self._now()
            query = "select free_at from slots where free_at > ? order by free_at"
            return [min(at - now, WINDOW) for (at,) in slots.execute(query, [now])]

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
            now = self._now()
            own = ",".join(map(str, self._in_flight))
            slots.execute(f"delete from slots where free_at <= ? and id not in ({own})", [now])
            (taken,) = slots.execute("select count(*) from slots").fetchone()
            if taken >= self._limit:
                query = "select free_at from slots order by free_at limit 1 offset ?"
                (free_at,) = slots.execute(query, [taken - self._limit]).fetchone()
                return None, min(max(free_at - now, 0.01), WINDOW)
            # Store the slot before the request, for the longest time: after a kill it still counts.
            row = slots.execute("insert into slots (free_at) values (?)", [now + 2 * WINDOW])
            number = row.lastrowid or 0
            self._in_flight.add(number)
            return number, 0.0

    def _release(self, number: int) -> None:
        if self._closed.is_set():  # the slot stays in use, as after a kill
            return
        with self._transaction() as slots:
            self._in_flight.discard(number)
            free_at = self._now() + WINDOW
            slots.execute("insert or replace into slots values (?, ?)", [number, free_at])

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._closed.is_set():
                raise Failure("given up, because the run has ended")
            try:
                self._slots.execute("begin immediate")
                with self._slots:
                    self._catch_up()
                    yield self._slots
            except sqlite3.Error as error:
                raise self._unusable(error) from error

    def _catch_up(self) -> None:
        """Moves all slots forward if the machine has slept or its clock was set forward. The next
        run reads that clock, and would find the slots free too early."""
        behind = time.time() - self._now()
        if behind > _DRIFT:
            self._started += behind
            self._slots.execute("update slots set free_at = free_at + ?", [behind])

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
            slots.execute("create table if not exists slots (id integer primary key, free_at real)")
            # Shorten slots of requests that a kill interrupted, or of a clock that was ahead.
            latest = self._now() + WINDOW
            slots.execute("update slots set free_at = ? where free_at > ?", [latest, latest])
        except BaseException:
            slots.close()
            raise
        return slots

    def _now(self) -> float:
        return self._started + time.monotonic()

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
