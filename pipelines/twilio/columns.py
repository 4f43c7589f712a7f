"""The keys of an attempt in the API's JSON, and their Arrow columns. Parsing: decode.

Each key is a column of the raw table. If you add a key to `TOP` or `NESTED`, the next run adds the
column to older warehouses and fills it from `extra`, where the key was kept so far.
"""

from __future__ import annotations

import pyarrow as pa

# Keys of an attempt in the API's JSON: at the top level, and in nested objects.
TOP = (
    "sid", "account_sid", "service_sid", "verification_sid", "date_created", "date_updated",
    "conversion_status", "channel", "url",
)  # fmt: skip
NESTED = {
    "price": ("value", "currency"),
    "channel_data": (
        "verification_sid", "to", "status", "message_status", "error_code", "country",
        "code_length", "locale", "mcc", "mnc", "carrier",
    ),
}  # fmt: skip
INSTANTS = ("date_created", "date_updated")
NUMBERS = ("code_length",)  # numbers in JSON; text in the table, like all others
TIMESTAMP = pa.timestamp("us", tz="UTC")

ATTEMPTS = pa.schema(
    [pa.field(n, TIMESTAMP if n in INSTANTS else pa.string()) for n in TOP]
    + [pa.field(f"{n}__{key}", pa.string()) for n, keys in NESTED.items() for key in keys]
    + [pa.field("extra", pa.string()), pa.field("read_at", TIMESTAMP, nullable=False)]
)
REJECTED = pa.schema([("reason", pa.string()), ("read_at", TIMESTAMP), ("attempt", pa.string())])
