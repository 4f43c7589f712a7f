"""Slices that were read, and load packages of them. Loading: warehouse.loading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.reading.windows import Window


@dataclass(frozen=True)
class SliceRead:
    """A slice that was read to its last page. `attempts` has its rows, as `columns.ATTEMPTS`."""

    account_sid: str
    filters_hash: str
    window: Window
    read_at: datetime  # when its first request was sent, or shortly before
    attempts: pa.Table
    rejected: pa.Table
    pages: int

    def record(self) -> dict[str, object]:
        """Its row in `windows_read`."""
        return {
            "account_sid": self.account_sid,
            "filters_hash": self.filters_hash,
            "created_after": self.window.after,
            "created_before": self.window.before,
            "read_at": self.read_at,
            "attempts": self.attempts.num_rows,
            "pages": self.pages,
        }


@dataclass(frozen=True)
class Package:
    """A load package: attempts, each once, and the windows that these attempts complete.

    `changed_in` has, for each attempt that was only read again, the load package that last changed
    a value of it. It is null for new and changed attempts.
    """

    attempts: pa.Table
    rejected: pa.Table
    windows_read: Sequence[dict[str, object]] = ()
    changed_in: pa.ChunkedArray | None = None

    @classmethod
    def of(cls, reads: Sequence[SliceRead]) -> Package:
        # One table per package, not per page: dlt's cost per table exceeds that of a page's rows.
        return cls(
            latest(pa.concat_tables([read.attempts for read in reads])),
            pa.concat_tables([read.rejected for read in reads]),
            [read.record() for read in reads],
        )

    def without(self, sids: Sequence[str]) -> Package:
        if not sids:
            return self
        others = pc.invert(pc.is_in(self.attempts["sid"], pa.array(sids, pa.string())))
        return replace(self, attempts=self.attempts.filter(others))


def latest(attempts: pa.Table) -> pa.Table:
    """One row per attempt: the one that was read last."""
    if pc.count_distinct(attempts["sid"]).as_py() == attempts.num_rows:
        return attempts
    read_at = attempts["read_at"].to_pylist()
    order = sorted(range(attempts.num_rows), key=read_at.__getitem__)
    last = dict(zip(attempts["sid"].take(order).to_pylist(), order, strict=True))
    return attempts.take(sorted(last.values()))
