"""The lock of a folder: one run at a time, others wait or fail. What it protects: folder."""

from __future__ import annotations

import fcntl
import json
import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from filelock import AcquireReturnProxy, FileLock, Timeout

from pipelines.errors import Failure

_POLL = 0.05  # seconds between two tries
_GRACE = 5.0  # seconds for one holder to release the lock, or the next to write its name

log = logging.getLogger("verify_sync")


@dataclass(frozen=True)
class LockHolder:
    """Who holds a lock. `since` is UTC. `is_brief`: it holds the lock only for seconds.

    `last_success` is when the last successful sync ended. It is here because the database cannot
    be queried while a run holds the lock.
    """

    command: str
    pid: int
    since: str
    is_brief: bool = False
    last_success: str | None = None
    run_id: str = ""  # a pid is not unique: containers on one volume have the same pids

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid}, since {self.since} UTC)"


class Lock:
    """A file that one process locks. The kernel unlocks it when that process ends in any way.

    A command holds it from start to end, a backfill only while it loads a package. A run that
    waits for a backfill gets the lock before the next package. Several waiting runs get it in no
    fixed order.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._queue = file.with_name(f"{file.name}.queue")

    @contextmanager
    def held(self, holder: LockHolder, wait: float) -> Iterator[float]:
        """Takes the lock. Waits `wait` seconds for it, or without limit if its holder `is_brief`.

        Yields how many seconds it waited. Raises Failure if the lock is still taken then.
        """
        began = time.monotonic()
        until = began + wait
        with ExitStack() as queue:
            queue.enter_context(self._taken(self._queue, until))
            taken = self._taken(self._file, until)
        with taken:
            self.note(holder)
            try:
                yield time.monotonic() - began
            finally:
                self._file.write_bytes(b"")

    def note(self, holder: LockHolder) -> None:
        """Writes `holder` into the lock file. Each new holder empties that file first."""
        self._file.write_text(json.dumps(asdict(holder)), encoding="utf-8")

    def holder(self) -> LockHolder | None:
        """Returns who holds the lock; None if nobody does, or the holder is not written yet.

        Writes nothing. Ignores the text of a dead process: its pid may be another process's now.
        """
        with suppress(OSError, ValueError, TypeError), self._file.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return LockHolder(**json.loads(file.read()))
        return None

    def _taken(self, file: Path, until: float) -> AcquireReturnProxy:
        lock, told = FileLock(file), False
        known = time.monotonic()  # when the holder was last known
        while True:
            with suppress(Timeout):
                return lock.acquire(timeout=0)
            now, holder = time.monotonic(), self.holder()
            known = now if holder else known
            is_brief = holder.is_brief if holder else now < known + _GRACE
            if now >= until and not is_brief:
                raise Failure(
                    f"{self._file.parent} is in use by {holder or 'another run'}; try again later, "
                    "or wait for it with --wait SECONDS"
                )
            if not told:
                log.info("waiting for another run to finish with %s", self._file.parent)
                told = True
            time.sleep(_POLL)
