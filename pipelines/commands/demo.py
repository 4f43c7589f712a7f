"""Sync a made-up account and show a few answers; no Twilio account needed."""

from __future__ import annotations

import argparse
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING

from pipelines.commands._output import cost, shown
from pipelines.text import counted, typed

if TYPE_CHECKING:
    from pipelines.settings import Settings
    from pipelines.warehouse.runs import Run

ATTEMPTS, DAYS = 20_000, 30
ANSWERS = {
    "Conversion by channel (attempts by own channel, verifications by first channel)": """
        select channel, sum(attempts)::bigint as attempts,
            sum(verifications)::bigint as verifications,
            round(sum(converted_verifications) / sum(verifications), 3) as success_rate,
            round(sum(delivered_attempts) / sum(delivered_attempts + failed_attempts), 3)
                as delivery_rate
        from daily_conversion group by channel order by attempts desc""",
    "The countries with the lowest success rate": """
        select country, sum(verifications)::bigint as verifications,
            round(sum(converted_verifications) / sum(verifications), 3) as success_rate
        from daily_conversion where country != 'unknown'
        group by country having sum(verifications) >= 100
        order by success_rate, verifications desc limit 5""",
    "Who is pumping": """
        select created_date, country, destination_prefix, verifications, converted,
            round(baseline, 2) as baseline, longest_number_run, wasted_spend, currency
        from pumping_suspects order by wasted_spend desc limit 5""",
}


def add_arguments(_: argparse.ArgumentParser) -> None:
    """This command has no options of its own."""


def run(_: argparse.Namespace, settings: Settings, now: datetime) -> None:
    done = demo(settings, now)
    folder = shown(settings.directory / "demo")
    print(
        f"This sync read {counted(done.attempts, 'attempt')} from the sandbox with "
        f"{cost(done)}. Now try queries of your own:\n"
        f"  WAREHOUSE__DIR={folder} {typed('sql', query='from daily_conversion limit 5')}\n"
        f"  WAREHOUSE__DIR={folder} {typed('sql')}\n"
        "For your own account, set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN and run "
        f"`{typed('sync')}`."
    )


def demo(settings: Settings, now: datetime) -> Run:
    """Syncs a made-up account into a folder of its own and prints a few query results."""
    from pipelines.commands._results import run_query
    from pipelines.commands.sync import sync
    from pipelines.sandbox.account import Account
    from pipelines.sandbox.sends import DAY
    from pipelines.sandbox.server import Sandbox
    from pipelines.twilio.credentials import Credentials
    from pipelines.warehouse.published import open_published

    account = Account(attempts=ATTEMPTS, days=DAYS, since=int(now.timestamp()) - DAYS * DAY)
    with Sandbox(account, now=now.timestamp) as sandbox:
        of_sandbox = replace(
            settings,
            directory=settings.directory / "demo",
            base_url=sandbox.url,
            credentials=Credentials.of(sandbox.account_sid, sandbox.auth_token),
        )
        # A new sandbox does not count the requests of earlier demos.
        of_sandbox.requests_log.unlink(missing_ok=True)
        run = sync(of_sandbox, now)
    with open_published(of_sandbox.published) as connection:
        for title, query in ANSWERS.items():
            print(title)
            run_query(connection, query, "table")
            print()
    return run
