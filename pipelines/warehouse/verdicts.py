"""What checks found, from run to run: which rows are due for checking, and what is new to say.

A check that failed on all rows stands until all rows pass. A warning stands until a check that
could see its rows does not find them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from pipelines.warehouse.checks import FAIL, WARN, CheckResult
from pipelines.warehouse.connections import Connection
from pipelines.warehouse.kept import loads_of_mark
from pipelines.warehouse.marks import CHECKED, CHECKED_IN_FULL, FAILING, WARNING, mark, set_mark
from pipelines.warehouse.recovery import Loads, loads_in
from pipelines.warehouse.scope import Scope

_IN_FULL_EVERY = timedelta(days=1)


@dataclass(frozen=True)
class Verdicts:
    """What the checks of a run found, beside what stood before."""

    failed: list[CheckResult]
    begun: list[CheckResult]  # warnings that are new
    ended: list[str]  # names of warnings that are over


def seen(connection: Connection) -> Loads | None:
    """Returns the loads that the checks have passed; None while a check of all rows fails."""
    if standing(connection, FAILING):
        return None
    return loads_of_mark(mark(connection, CHECKED))


def seen_today(connection: Connection, now: datetime) -> Loads | None:
    """The same for a run: None also for the first time and once a day, when all rows are due."""
    last = mark(connection, CHECKED_IN_FULL)
    age = now - datetime.fromisoformat(last) if last else _IN_FULL_EVERY
    return seen(connection) if timedelta() <= age < _IN_FULL_EVERY else None


def note(
    connection: Connection, answers: list[CheckResult], scope: Scope, now: datetime
) -> Verdicts:
    """Notes what the checks found, and returns what is new."""
    failed = [answer for answer in answers if answer.verdict == FAIL]
    warning = [answer for answer in answers if answer.verdict == WARN]
    before = standing(connection, WARNING)
    # A check that saw a part of the rows cannot tell that a warning is over.
    blind = {answer.name for answer in answers if answer.is_partial}
    after = {answer.name for answer in warning} | (before & blind)
    connection.begin()
    if scope.changes is None:
        _set_names(connection, FAILING, (answer.name for answer in failed))
        if not failed:
            set_mark(connection, CHECKED_IN_FULL, now.isoformat())
    if not failed:
        set_mark(connection, CHECKED, " ".join(map(str, loads_in(connection) or ())))
    _set_names(connection, WARNING, after)
    connection.commit()
    begun = [answer for answer in warning if answer.name not in before]
    return Verdicts(failed, begun, sorted(before - after))


def standing(connection: Connection, name: str) -> set[str]:
    """Returns the names of the checks that stand: FAILING or WARNING."""
    return set(json.loads(mark(connection, name) or "[]"))


def _set_names(connection: Connection, name: str, values: Iterable[str]) -> None:
    set_mark(connection, name, json.dumps(sorted(values)))
