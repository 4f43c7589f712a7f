"""How DuckDB's errors are classified."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from pipelines.errors import Failure
from pipelines.warehouse.connections import Damaged, OpenElsewhere, unusable


@pytest.mark.parametrize(
    ("said", "kind", "told"),
    [
        ('IO Error: Could not set lock on file "f"', OpenElsewhere, "another process"),
        ("IO Error: Corrupt database file: wrong checksum\nmore", Damaged, "wrong checksum)"),
        ("IO Error: Cannot write: No space left on device", Failure, "Cannot write: No space"),
    ],
)
def test_only_damage_is_taken_for_damage(said: str, kind: type[Failure], told: str) -> None:
    """A file is set aside only if it is damaged."""
    failure = unusable(Path("f"), duckdb.Error(said))
    assert type(failure) is kind
    assert told in str(failure)
