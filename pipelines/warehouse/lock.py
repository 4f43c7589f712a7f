"""The lock of a folder: one run at a time, others wait or are told who has it. It opens no file."""

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
_GRACE = 1.0  # seconds that a new holder has to write down who it is

log = logging.getLogger("verify_sync")


@dataclass(frozen=True)
class LockHolder:
    """Who has a lock. `since` is UTC. `is_brief`: for seconds only, so that others can wait.

    `last_success` is when the newest sync that succeeded ended: while somebody has the lock, the
    database that knows it cannot be asked.
    """

    command: str
    pid: int
    since: str
    is_brief: bool = False
    last_success: str | None = None

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid}, since {self.since} UTC)"


class Lock:
    """A file that one process has locked; the kernel unlocks it however that process ends.

    A command holds it from its beginning to its end; a backfill only while it loads a package. Who
    waits for it then has it before the next package. Several who wait have it in no certain order.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._queue = file.with_name(f"{file.name}.queue")

    @contextmanager
    def held(self, holder: LockHolder, wait: float) -> Iterator[float]:
        """Waits for it: `wait` seconds, or as long as it takes a holder that `is_brief`.

        Yields how many seconds it waited. Raises Failure when that was in vain.
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
        """Says who has it: in the lock itself, which each new holder empties."""
        self._file.write_text(json.dumps(asdict(holder)), encoding="utf-8")

    def holder(self) -> LockHolder | None:
        """Who has it; None if nobody, or who has not said so yet. Writes nothing.

        What a process that died has left in it counts no more: its pid may be another's by now.
        """
        with suppress(OSError, ValueError, TypeError), self._file.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return LockHolder(**json.loads(file.read()))
        return None

    def _taken(self, file: Path, until: float) -> AcquireReturnProxy:
        lock, began, told = FileLock(file), time.monotonic(), False
        while True:
            with suppress(Timeout):
                return lock.acquire(timeout=0)
            self._check(began, until)
            if not told:
                log.info("waiting until another run has done with %s", self._file.parent)
                told = True
            time.sleep(_POLL)

    def _check(self, began: float, until: float) -> None:
        """Raises Failure when there is no more waiting."""
        now, holder = time.monotonic(), self.holder()
        if now < (until if holder else max(until, began + _GRACE)) or (holder and holder.is_brief):
            return
        raise Failure(
            f"{self._file.parent} is in use by {holder or 'another run'}; try again later, or have "
            "this command wait for it: --wait SECONDS"
        )
