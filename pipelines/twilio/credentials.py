"""Account SID and key, checked to be complete. Reading the configuration: settings."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipelines.errors import Misuse, keep_secret

PARTS = ("account_sid", "auth_token", "api_key", "api_secret")
_SID = {"account_sid": "AC[0-9a-fA-F]{32}", "api_key": "SK[0-9a-fA-F]{32}"}
_VARIABLES = {part: f"TWILIO_{part.upper()}" for part in PARTS}


@dataclass(frozen=True)
class Credentials:
    """HTTP basic auth: account SID + auth token, or API key + secret. Errors quote `names`."""

    account_sid: str
    username: str = field(repr=False)
    password: str = field(repr=False)
    names: str

    @classmethod
    def of(
        cls,
        account_sid: str | None = None,
        auth_token: str | None = None,
        api_key: str | None = None,
        api_secret: str | None = None,
        names: Mapping[str, str] = _VARIABLES,
    ) -> Credentials:
        """Checks that the parts make one complete pair; raises Misuse saying what is missing.

        `names` maps each part to the name of its setting, for errors.
        """
        for part, value in (("account_sid", account_sid), ("api_key", api_key)):
            if value and not re.fullmatch(_SID[part], value):
                raise Misuse(f"{names[part]} is not {_SID[part][:2]} followed by 32 hex digits")
        for part, value in (("auth_token", auth_token), ("api_secret", api_secret)):
            if value and not (value.isascii() and value.isprintable()):
                raise Misuse(f"{names[part]} has invalid characters: copy it again")
        if not account_sid:
            raise Misuse(
                "TWILIO_ACCOUNT_SID is not set; set it to the account whose attempts you want"
            )
        for secret in (auth_token, api_secret):
            keep_secret(secret or "")
        if api_key and api_secret:
            used = f"{names['api_key']} and {names['api_secret']}"
            return cls(account_sid, api_key, api_secret, used)
        if auth_token:
            used = f"{names['account_sid']} and {names['auth_token']}"
            return cls(account_sid, account_sid, auth_token, used)
        missing = "TWILIO_API_SECRET" if api_key else "TWILIO_AUTH_TOKEN"
        raise Misuse(f"{missing} is not set (or give TWILIO_API_KEY and TWILIO_API_SECRET)")


def other_account(found: Iterable[str | None], account_sid: str) -> str | None:
    """The first account SID in `found` that is not `account_sid`; None if there is none."""
    sids = (sid for sid in found if sid and re.fullmatch(_SID["account_sid"], sid, re.IGNORECASE))
    return next((sid for sid in sids if sid.lower() != account_sid.lower()), None)
