"""The command line: each command, and the exit code. 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import fields
from datetime import datetime, timezone
from typing import Any

from pipelines.arguments import FILTER_OPTIONS, TEXT, instant, parser_of
from pipelines.backfill import backfill, window_of
from pipelines.checks import FAIL
from pipelines.errors import Failure, Misuse, first_line, masked
from pipelines.export import export
from pipelines.filters import Filters, attempt_sid
from pipelines.interrupt import INTERRUPTED, heed_signals, ignore_signals, was_interrupted
from pipelines.output import cost, log_to_stderr, report, shown, tell, tell_read, what_was_published
from pipelines.progress import counted
from pipelines.query import open_published, prompt, run_query
from pipelines.reconcile import differing, reconcile, table
from pipelines.runs import Run
from pipelines.sandbox.switches import SWITCHES
from pipelines.settings import Settings, load_settings
from pipelines.status import Status
from pipelines.sync import (
    due,
    fetch_attempts,
    limit_seconds,
    not_there,
    publish,
    sync,
)
from pipelines.warehouse import Warehouse
from pipelines.windows import RETENTION

log = logging.getLogger("verify_sync")


def main(argv: Sequence[str] | None = None, now: datetime | None = None) -> int:
    """Runs one command at `now` (aware; default: the clock, read once)."""
    arguments = parser_of(_COMMANDS).parse_args(argv)
    log_to_stderr(arguments)
    try:
        arguments.run(arguments, load_settings(), now or datetime.now(timezone.utc))
        if sys.stdout:  # closed, it is None
            sys.stdout.flush()  # what cannot be written is a failure as well
    except KeyboardInterrupt:
        return report(arguments, 1, INTERRUPTED)
    except Failure as failure:
        if was_interrupted():  # DuckDB makes an error of its own of a signal
            return report(arguments, 1, INTERRUPTED)
        return report(arguments, failure.exit_code, str(failure))
    except BrokenPipeError:  # `verify-sync sql … | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if was_interrupted():
            return report(arguments, 1, INTERRUPTED)
        message = first_line(error)
        hint = "" if arguments.debug else " (--debug shows where)"
        return report(arguments, 1, f"{type(error).__name__}: {message}{hint}")
    return 0


# --- commands; the first line of each docstring is its help


def _sync(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    """Read what is due, merge and publish it."""
    if arguments.dry_run:
        _print_due(settings, now)
        return
    tell_read(arguments, settings, sync(settings, now, arguments.wait))


def _print_due(settings: Settings, now: datetime) -> None:
    found = due(settings, now)
    if found:
        print(f"{'created after':21}{'created before':21}{'attempts':>10}{'requests':>10}")
    for piece in found:
        window = f"{piece.window.after:%F %T}  {piece.window.before:%F %T}  "
        attempts = "?" if piece.attempts is None else f"{piece.attempts:,}"
        print(f"{window}{attempts:>10}{piece.requests:>10,}")
    requests = sum(piece.requests for piece in found)
    asked = sum(piece.attempts is not None for piece in found)
    seconds = limit_seconds(requests + asked, settings.requests_per_minute)
    attempts = counted(sum(piece.attempts or 0 for piece in found), "attempt")
    if any(piece.attempts is None for piece in found):
        attempts = "an unknown number of attempts (Twilio did not count them)"
    print(
        f"due: {attempts} in {counted(len(found), 'window')}, {counted(requests, 'request')}; "
        f"after the {asked:,} of this dry run the rate limit allows them in {seconds // 60} min"
    )


def _backfill(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    """Read a window again, the last 30 days unless told otherwise; resumable."""
    after = instant(arguments.after, now, "--after")
    before = instant(arguments.before, now, "--before")
    window = window_of(arguments.days, after, before, now)
    given = {name: getattr(arguments, name) for name in ("days", "after", "before")}
    asked = " ".join(f"--{name} {value}" for name, value in given.items() if value is not None)
    run = backfill(settings, window, asked, now, arguments.restart, arguments.wait)
    tell_read(arguments, settings, run)


def _list(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    """Show attempts live from Twilio; nothing is stored."""
    from pipelines.live import show

    given = {name: getattr(arguments, name) for name in FILTER_OPTIONS}
    filters = Filters.of(given, FILTER_OPTIONS)
    after = instant(arguments.after, now, "--after")
    before = instant(arguments.before, now, "--before")
    if after and before and after >= before:
        raise Misuse("--after must be earlier than --before")
    if min(after or now, before or now) < now - RETENTION:
        log.warning("Twilio has forgotten what is older than 30 days")
    show(settings, now, filters, (after, before), arguments.limit, arguments.format)


def _fetch(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    """Read single attempts by their SIDs and merge them."""
    for sid in arguments.sid:
        try:
            attempt_sid(sid)
        except ValueError as error:
            raise Misuse(f"'{masked(sid)}': {error}") from None
    sids = dict.fromkeys(arguments.sid)  # each once
    run, missing = fetch_attempts(settings, sids, now, arguments.wait)
    merged = counted(run.attempts, "attempt")
    tell(arguments, f"merged {merged}; {what_was_published(settings, run)}", run)
    if missing:
        raise Failure(not_there(missing))


def _demo(_: argparse.Namespace, settings: Settings, now: datetime) -> None:
    """Sandbox, sync and a few answers; no account needed."""
    from pipelines.demo import demo  # here, because a scheduled sync has no use for a sandbox

    run = demo(settings, now)
    folder = shown(settings.directory / "demo")
    print(
        f"\nThis sync read {counted(run.attempts, 'attempt')} from the sandbox in "
        f"{run.seconds:.1f} s. Now ask it something yourself:\n"
        f'  WAREHOUSE__DIR={folder} make sql QUERY="from daily_conversion limit 5"\n'
        f"  WAREHOUSE__DIR={folder} make sql\n"
        "For your own account, set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN and run `make sync`."
    )


def _sql(arguments: argparse.Namespace, settings: Settings, _: datetime) -> None:
    """Read-only SQL over the published file."""
    if not arguments.query:
        prompt(settings.published, arguments.format)
        return
    with open_published(settings.published) as connection:
        run_query(connection, arguments.query, arguments.format)


def _reconcile(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    """Compare each day with Twilio's own totals; read again what differs."""
    run, comparisons = reconcile(settings, arguments.days, now, arguments.wait)
    differ = differing(comparisons)
    if arguments.log_format == TEXT and (differ or not arguments.quiet):
        print("\n".join(table(comparisons)))
    days = counted(len({comparison.window for comparison in comparisons}), "day")
    result = f"compared {days} with {cost(run)}; {what_was_published(settings, run)}"
    tell(arguments, result, run)
    if differ:
        raise Failure(run.error or "")


def _status(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    """Say how fresh and how complete the warehouse is."""
    status = Status.of(settings, now)
    print(json.dumps(status.as_json(), indent=1) if arguments.json else "\n".join(status.lines()))
    status.require_success(arguments.max_age)


def _check(_: argparse.Namespace, settings: Settings, now: datetime) -> None:
    """Run the checks of sql/checks on what the last run left."""
    warehouse = Warehouse(settings)
    warehouse.refuse_newer()
    warehouse.require()
    answers = warehouse.check(now)
    for answer in answers:
        print(f"{answer.verdict:6}{answer if answer.count != 0 else answer.name}")
        for row in answer.rows:
            print(f"{'':6}{row}")
        if answer.count and answer.count > len(answer.rows):
            print(f"{'':6}… and {answer.count - len(answer.rows):,} more")
    failed = [answer for answer in answers if answer.verdict == FAIL]
    if failed:
        raise Failure(f"{counted(len(failed), 'check')} of {len(answers)} failed")


def _views(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    """Apply the views of sql/ again and publish."""
    warehouse = Warehouse(settings, Run("views", now, arguments.wait))
    warehouse.require()
    with warehouse.opened():
        warehouse.apply_views(again=True)
        publish(warehouse, now)
    tell(arguments, f"views applied; published {shown(settings.published)}")


def _export(arguments: argparse.Namespace, settings: Settings, _: datetime) -> None:
    """Write every view and raw table as Parquet."""
    with open_published(settings.published) as connection:
        written = export(connection, arguments.folder)
    print(
        f"wrote {counted(len(written), 'file')} to {shown(arguments.folder.absolute())}; they "
        "hold phone numbers"
    )


def _restore(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    """Start again from a backup of the published file."""
    kept = Warehouse(settings, Run("restore", now, arguments.wait)).restore(arguments.file)
    for file in kept:
        tell(arguments, f"what it replaced is kept as {shown(file)}")
    tell(
        arguments,
        f"published {shown(settings.published)} from {shown(arguments.file)}; "
        "`make sync` reads what it lacks",
    )


def _sandbox(arguments: argparse.Namespace, _: Settings, now: datetime) -> None:
    """The stand-in API alone, on loopback."""
    from pipelines.sandbox.account import Account
    from pipelines.sandbox.server import Sandbox

    given = vars(arguments)
    account = Account(
        seed=arguments.seed,
        attempts=arguments.attempts,
        days=arguments.days,
        since=int(now.timestamp() - arguments.days * 86_400),
    )
    groups: dict[str, Any] = {
        group.__name__.lower(): group(**{f.name: given[f.name] for f in fields(group)})
        for group in SWITCHES
    }
    try:
        sandbox = Sandbox(account, now=time.time, port=arguments.port, **groups)
    except ValueError as error:
        raise Misuse(str(error)) from error
    except OSError as error:
        raise Failure(f"cannot listen on port {arguments.port}: {error.strerror}") from error
    print(
        f"sandbox on {sandbox.url}; Ctrl-C ends it. To sync from it, in another terminal:\n"
        "  export WAREHOUSE__DIR=warehouse/sandbox\n"
        f"  export SOURCES__TWILIO_VERIFY__BASE_URL={sandbox.url}\n"
        f"  export TWILIO_ACCOUNT_SID={sandbox.account_sid}\n"
        f"  export TWILIO_AUTH_TOKEN={sandbox.auth_token}\n"
        "  make sync",
        flush=True,
    )
    with suppress(KeyboardInterrupt):  # that is how it is ended
        sandbox.serve()


_COMMANDS = {
    "sync": _sync,
    "backfill": _backfill,
    "list": _list,
    "fetch": _fetch,
    "reconcile": _reconcile,
    "status": _status,
    "demo": _demo,
    "sql": _sql,
    "check": _check,
    "views": _views,
    "export": _export,
    "restore": _restore,
    "sandbox": _sandbox,
}


def entry(argv: Sequence[str] | None = None, now: datetime | None = None) -> None:
    """The console script: `main`, which signals end cleanly, and the process with it."""
    heed_signals()
    gc.freeze()  # modules stay: what looks for garbage after each load need not go through them
    try:
        code = main(argv, now)
    finally:  # or what DuckDB is built with takes them for leaks, and says so
        gc.unfreeze()
    ignore_signals()
    with suppress(OSError, AttributeError):
        sys.stdout.flush()
    # All is closed: taking the interpreter apart takes a third of a second, and longer where a
    # reader of a failed run waits to try again for nothing.
    os._exit(code)


if __name__ == "__main__":
    entry()
