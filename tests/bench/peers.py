"""Alternatives to verify-sync: run `python -m tests.bench.peers NAME` with our settings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any


def rest_api() -> None:
    """dlt's stock REST source, set up as its documentation shows, merged on sid."""
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
    _pipeline().run(source)


def merge(spans: str) -> None:
    """dlt's stock merge on sid of the attempts that are 3 to 2 and 28 to 27 hours old, if `spans`
    is 3-2,28-27."""
    import dlt
    from dlt.sources.helpers.rest_client import RESTClient
    from dlt.sources.helpers.rest_client.auth import HttpBasicAuth
    from dlt.sources.helpers.rest_client.paginators import JSONLinkPaginator

    now = datetime.now(timezone.utc)
    client = RESTClient(
        os.environ["SOURCES__TWILIO_VERIFY__BASE_URL"],
        auth=HttpBasicAuth(os.environ["TWILIO_ACCOUNT_SID"], os.environ["TWILIO_AUTH_TOKEN"]),
        paginator=JSONLinkPaginator("meta.next_page_url"),
        data_selector="attempts",
    )

    @dlt.resource(primary_key="sid", write_disposition="merge")
    def attempts() -> Iterator[Any]:
        for span in spans.split(","):
            after, before = (now - timedelta(hours=int(hours)) for hours in span.split("-"))
            window = {
                "DateCreatedAfter": f"{after:%FT%TZ}",
                "DateCreatedBefore": f"{before:%FT%TZ}",
            }
            yield from client.paginate("v2/Attempts", params={"PageSize": 1000, **window})

    _pipeline().run(attempts())


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


def _pipeline() -> Any:
    import dlt

    folder = os.environ["WAREHOUSE__DIR"]
    return dlt.pipeline(
        "peer",
        pipelines_dir=f"{folder}/dlt",
        destination=dlt.destinations.duckdb(f"{folder}/verify.duckdb"),
        dataset_name="twilio_verify",
    )


def _flat(attempt: Any) -> dict[str, Any]:
    top = ("sid", "account_sid", "service_sid", "verification_sid", "date_created",
           "date_updated", "conversion_status", "channel", "url")  # fmt: skip
    row = {name: getattr(attempt, name) for name in top}
    for name in ("price", "channel_data"):
        row |= {f"{name}__{key}": value for key, value in (getattr(attempt, name) or {}).items()}
    return row


if __name__ == "__main__":
    {"rest_api": rest_api, "merge": merge, "official": official}[sys.argv[1]](*sys.argv[2:])
