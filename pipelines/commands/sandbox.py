"""Serve a made-up account through an API like Twilio's, on loopback."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipelines.commands._arguments import between
from pipelines.errors import Failure, Misuse
from pipelines.sandbox.switches import SWITCHES
from pipelines.text import typed

if TYPE_CHECKING:
    from pipelines.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=between(int, 0, 65_535), default=8765)
    parser.add_argument(
        "--attempts", type=between(int, 0, 10**8), default=20_000, help="attempts in --days days"
    )
    parser.add_argument(
        "--days", type=between(float, 0.01, 3650), default=30.0, help="age of the account in days"
    )
    parser.add_argument("--seed", type=between(int, 0, 2**31), default=1)
    for group in SWITCHES:
        options = parser.add_argument_group(group.__name__.lower(), (group.__doc__ or "").strip())
        for switch in fields(group):
            _add_switch(options, switch.name, switch.default, switch.metadata)


def _add_switch(
    options: argparse._ArgumentGroup, name: str, default: Any, metadata: Mapping[str, Any]
) -> None:
    given: dict[str, Any] = {"default": default, "help": metadata["help"]}
    if isinstance(default, bool):
        given["action"] = argparse.BooleanOptionalAction
    else:
        kind = type(default)
        given["type"] = kind if kind is str else between(kind, -(10**6), 10**6)
        given["choices"] = metadata.get("choices")
    options.add_argument("--" + name.replace("_", "-"), **given)


def run(arguments: argparse.Namespace, _: Settings, now: datetime) -> None:
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
        f"  {typed('sync')}",
        flush=True,
    )
    with suppress(KeyboardInterrupt):  # Ctrl-C is the normal end
        sandbox.serve()
