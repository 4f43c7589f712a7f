"""Alternatives to verify-sync: run `python -m tests.bench.peers NAME` with our settings."""

from __future__ import annotations

import os
import sys
from typing import Any


def rest_api() -> None:
    """dlt's stock REST source, set up as its documentation shows, merged on sid."""
    import dlt
    from dlt.sources.rest_api import rest_api_source

    source = rest_api_source(
        {
            "client": {
                "base_url": os.environ["SOURCES__TWILIO_VERIFY__BASE_URL"],
                "auth": {
                    "type": "http_basic",
                    "username": os.environ["TWILIO_ACCOUNT_SID"],
                    "password": os.environ["TWILIO_AUTH_TOKEN"],
                },
                "paginator": {"type": "json_link", "next_url_path": "meta.next_page_url"},
            },
            "resources": [
                {
                    "name": "attempts",
                    "primary_key": "sid",
                    "write_disposition": "merge",
                    "endpoint": {
                        "path": "v2/Attempts",
                        "params": {"PageSize": 1000},
                        "data_selector": "attempts",
                    },
                }
            ],
        }
    )
    folder = os.environ["WAREHOUSE__DIR"]
    pipeline = dlt.pipeline(
        "peer",
        pipelines_dir=f"{folder}/dlt",
        destination=dlt.destinations.duckdb(f"{folder}/verify.duckdb"),
        dataset_name="twilio_verify",
    )
    pipeline.run(source)


def official() -> None:
    """A plain script with Twilio's own client: stream, data frame, upsert by sid."""
    import duckdb
    import pandas as pd
    from twilio.rest import Client

    client = Client(os.environ["TWILIO_ACCOUNT_SID"], os.environ["TWILIO_AUTH_TOKEN"])
    client.verify.base_url = os.environ["SOURCES__TWILIO_VERIFY__BASE_URL"]
    attempts = client.verify.v2.verification_attempts.stream(page_size=1000)
    frame = pd.DataFrame.from_records(_flat(attempt) for attempt in attempts)
    with duckdb.connect(f"{os.environ['WAREHOUSE__DIR']}/verify.duckdb") as connection:
        connection.execute("create schema twilio_verify")
        columns = ", ".join(f"{name} varchar" for name in frame.columns)
        connection.execute(f"create table twilio_verify.attempts ({columns}, primary key (sid))")
        connection.execute("insert or replace into twilio_verify.attempts select * from frame")


def _flat(attempt: Any) -> dict[str, Any]:
    top = ("sid", "account_sid", "service_sid", "verification_sid", "date_created",
           "date_updated", "conversion_status", "channel", "url")  # fmt: skip
    row = {name: getattr(attempt, name) for name in top}
    for name in ("price", "channel_data"):
        row |= {f"{name}__{key}": value for key, value in (getattr(attempt, name) or {}).items()}
    return row


if __name__ == "__main__":
    {"rest_api": rest_api, "official": official}[sys.argv[1]]()
