"""The command line: what can be asked for, and the exit code. 0 done, 1 failed, 2 wrong usage."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from pipelines.errors import Failure, redact
from pipelines.query import FORMATS, open_published, prompt, run_query
from pipelines.sandbox.switches import Limits, Switches
from pipelines.settings import Settings, load_settings
from pipelines.sync import due, limit_seconds, sync
from pipelines.warehouse import Warehouse


def main(argv: Sequence[str] | None = None, now: datetime | None = None) -> int:
    """Runs one command at `now` (aware; default: the clock, read once)."""
    arguments = _parser().parse_args(argv)
    _log_to_stderr()
    try:
        arguments.run(arguments, load_settings(), now or datetime.now(timezone.utc))
    except Failure as failure:
        return _report(arguments, failure.exit_code, str(failure))
    except KeyboardInterrupt:
        return _report(arguments, 1, "interrupted; what was loaded is kept, the next run goes on")
    except BrokenPipeError:  # `verify-sync sql … | head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        message = str(error).strip().partition("\n")[0]
        hint = "" if arguments.debug else " (--debug shows where)"
        return _report(arguments, 1, f"{type(error).__name__}: {message}{hint}")
    return 0


def _report(arguments: argparse.Namespace, exit_code: int, message: str) -> int:
    if arguments.debug:
        print(redact(traceback.format_exc()), file=sys.stderr)
    print(f"verify-sync: {redact(message)}", file=sys.stderr)
    return exit_code


# --- commands


def _sync(arguments: argparse.Namespace, settings: Settings, now: datetime) -> None:
    if arguments.dry_run:
        _print_due(settings, now)
        return
    outcome = sync(settings, now)
    read = f"read {_count(outcome.attempts, 'attempt')} in {_count(outcome.slices, 'slice')}"
    cost = f"{_count(outcome.pages, 'request')}, {outcome.seconds:.1f} s"
    print(f"{read} with {cost}; published {_shown(settings.published)}")


def _print_due(settings: Settings, now: datetime) -> None:
    found = due(settings, now)
    if found:
        print(f"{'created after':21}{'created before':21}{'attempts':>10}{'requests':>10}")
    for piece in found:
        window = f"{piece.window.after:%F %T}  {piece.window.before:%F %T}  "
        print(f"{window}{piece.attempts:>10,}{piece.requests:>10,}")
    requests = sum(piece.requests for piece in found)
    seconds = limit_seconds(requests, settings.requests_per_minute)
    print(
        f"due: {_count(sum(piece.attempts for piece in found), 'attempt')} in "
        f"{_count(len(found), 'slice')}, {_count(requests, 'request')}; "
        f"the rate limit allows them in {seconds // 60} min"
    )


def _demo(_: argparse.Namespace, settings: Settings, now: datetime) -> None:
    from pipelines.demo import demo  # here, because a scheduled sync has no use for a sandbox

    outcome = demo(settings, now)
    folder = _shown(settings.directory / "demo")
    print(
        f"\nThis sync read {_count(outcome.attempts, 'attempt')} from the sandbox in "
        f"{outcome.seconds:.1f} s. Now ask it something yourself:\n"
        f'  WAREHOUSE__DIR={folder} make sql QUERY="from daily_conversion limit 5"\n'
        f"  WAREHOUSE__DIR={folder} make sql\n"
        "For your own account, set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN and run `make sync`."
    )


def _sql(arguments: argparse.Namespace, settings: Settings, _: datetime) -> None:
    if not arguments.query:
        prompt(settings.published, arguments.format)
        return
    with open_published(settings.published) as connection:
        run_query(connection, arguments.query, arguments.format)


def _views(_: argparse.Namespace, settings: Settings, __: datetime) -> None:
    warehouse = Warehouse(settings)
    warehouse.require()
    with warehouse.opened():
        warehouse.apply_views()
        warehouse.publish()
    print(f"views applied; published {_shown(settings.published)}")


def _sandbox(arguments: argparse.Namespace, _: Settings, now: datetime) -> None:
    from pipelines.sandbox.account import Account
    from pipelines.sandbox.server import Sandbox

    given = vars(arguments)
    account = Account(
        seed=arguments.seed,
        attempts=arguments.attempts,
        days=arguments.days,
        since=int(now.timestamp() - arguments.days * 86_400),
    )
    try:
        sandbox = Sandbox(
            account,
            now=time.time,
            switches=Switches(**{f.name: given[f.name] for f in fields(Switches)}),
            limits=Limits(**{f.name: given[f.name] for f in fields(Limits)}),
            port=arguments.port,
        )
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
    sandbox.serve()


# --- arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="verify-sync",
        description="A complete, settled copy of Twilio Verify's attempts in DuckDB.",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = _add(commands, "sync", _sync, "read what is due, merge and publish it")
    command.add_argument(
        "--dry-run", action="store_true", help="only print what is due and what it costs"
    )
    _add(commands, "demo", _demo, "sandbox, sync and a few answers; no account needed")
    command = _add(commands, "sql", _sql, "read-only SQL over the published file")
    command.add_argument("query", nargs="?", help="default: an interactive prompt")
    command.add_argument("--format", choices=FORMATS, default="table")
    _add(commands, "views", _views, "apply the views of sql/ again and publish")
    _add_sandbox(commands)
    return parser


def _add(
    commands: Any, name: str, run: Callable[..., None], summary: str
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=summary, description=summary)
    command.add_argument("--debug", action="store_true", help="show tracebacks")
    command.set_defaults(run=run)
    return command


def _add_sandbox(commands: Any) -> None:
    command = _add(commands, "sandbox", _sandbox, "the stand-in API alone, on loopback")
    command.add_argument("--port", type=_between(int, 0, 65_535), default=8765)
    command.add_argument(
        "--attempts", type=_between(int, 0, 10**8), default=20_000, help="in --days days"
    )
    command.add_argument(
        "--days", type=_between(float, 0.01, 3650), default=30.0, help="how long the account exists"
    )
    command.add_argument("--seed", type=_between(int, 0, 2**31), default=1)
    for switch in (*fields(Limits), *fields(Switches)):
        flag, summary = "--" + switch.name.replace("_", "-"), switch.metadata["help"]
        options: dict[str, Any] = {"default": switch.default, "help": summary}
        if isinstance(switch.default, bool):
            options["action"] = argparse.BooleanOptionalAction
        else:
            kind = type(switch.default)
            options["type"] = kind if kind is str else _between(kind, 0, 10**6)
            options["choices"] = switch.metadata.get("choices")
        command.add_argument(flag, **options)


def _between(kind: Callable[[str], Any], low: float, high: float) -> Callable[[str], Any]:
    """An argument type: a number from `low` to `high`."""

    def checked(text: str) -> Any:
        try:
            number = kind(text)
        except ValueError:
            number = None
        if number is None or not low <= number <= high:
            raise argparse.ArgumentTypeError(f"'{text}' is not a number from {low} to {high}")
        return number

    return checked


# --- output


class _Redacted(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def _log_to_stderr() -> None:
    """Plain lines on a terminal, with the time elsewhere: cron's mail has no other."""
    handler = logging.StreamHandler()
    handler.setFormatter(
        _Redacted("%(message)s" if sys.stderr.isatty() else "%(asctime)s %(message)s")
    )
    log = logging.getLogger("verify_sync")
    log.handlers = [handler]
    log.setLevel(logging.INFO)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + "s" * (number != 1)


def _shown(path: Path) -> Path:
    """As a person would type it from here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def entry() -> None:
    """The console script."""
    code = main()
    if threading.active_count() > 1:  # a reader of a failed run, waiting to try again for nothing
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)


if __name__ == "__main__":
    entry()
