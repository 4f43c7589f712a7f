"""Find out how this account's API behaves where its documentation is silent."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.text import counted

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from pipelines.twilio.probe import Finding

_HOLDS = {True: "yes", False: "NO", None: "?"}


def add_arguments(_: argparse.ArgumentParser) -> None:
    """This command has no options of its own."""


def run(_: argparse.Namespace, settings: Settings, now: datetime) -> None:
    from pipelines.twilio.clock import Clock
    from pipelines.twilio.probe import findings
    from pipelines.warehouse.ingest import connect

    with connect(settings, Clock(now)) as client:
        found = list(findings(client.ask, now))
        requests = client.counts.requests
    print("\n".join(table(found)))
    wrong = sum(finding.holds is False for finding in found)
    print(
        f"{counted(wrong, 'assumption')} not held, after {counted(requests, 'request')}; nothing "
        "was stored, and this table has no phone number and no SID: attach it to a bug report"
    )


def table(found: Iterable[Finding]) -> Iterator[str]:
    """Yields a header and one line per finding."""
    rows = [("question", "answer", "verify-sync assumes", "holds")]
    rows += [(*finding[:3], _HOLDS[finding.holds]) for finding in found]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for row in rows:
        cells = (text.ljust(width) for text, width in zip(row, widths, strict=False))
        yield "  ".join([*cells, row[3]])
