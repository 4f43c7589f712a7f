"""Settings, read once from dlt's configuration (.dlt/*.toml, environment) and checked."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

import dlt
from dlt.common.configuration.providers.toml import TomlProviderReadException

from pipelines.client import DEFAULT_BASE_URL, MAX_PAGE_SIZE
from pipelines.credentials import Credentials
from pipelines.errors import Misuse
from pipelines.windows import DEFAULT_SCHEDULE, RETENTION, SETTLED_AFTER

_API, _WAREHOUSE = "sources.twilio_verify", "warehouse"
_AGE = re.compile(r"(\d{1,7})\s*([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """Everything a run can be told. `credentials` is None when there are none."""

    directory: Path
    credentials: Credentials | None = field(default=None, repr=False)
    base_url: str = DEFAULT_BASE_URL
    page_size: int = MAX_PAGE_SIZE
    requests_per_minute: int = 100
    timeout: float = 20.0  # seconds; the API itself gives up after 15
    revisit_after: tuple[timedelta, ...] = DEFAULT_SCHEDULE
    verification_fee: Decimal = Decimal("0.05")
    fee_currency: str = "USD"
    timezone: str = "UTC"

    @property
    def published(self) -> Path:
        """The file people open."""
        return self.directory / "verify.duckdb"


def project_directory() -> Path:
    """Where `.dlt` is looked for and relative paths begin: here, else the source checkout."""
    if "DLT_PROJECT_DIR" in os.environ:
        return Path(os.environ["DLT_PROJECT_DIR"])
    checkout = Path(__file__).resolve().parents[1]
    elsewhere = not Path(".dlt").is_dir() and (checkout / ".dlt").is_dir()
    return checkout if elsewhere else Path.cwd()


def load_settings() -> Settings:
    """Reads and checks the configuration; raises Misuse naming the setting that is wrong."""
    project = project_directory()
    os.environ["DLT_PROJECT_DIR"] = str(project)  # dlt looks for .dlt where we do
    os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"  # Twilio is the only peer, wherever we run
    # dlt's own log may quote a row; whatever fails reaches us as an exception, and is redacted.
    os.environ.setdefault("RUNTIME__LOG_LEVEL", "CRITICAL")
    try:
        return _settings(project)
    except TomlProviderReadException as error:
        raise Misuse(" ".join(str(error).split())) from error


def _settings(project: Path) -> Settings:
    fee = _read(_WAREHOUSE, "verification_fee", str, "0.05")
    return Settings(
        directory=project / _read(_WAREHOUSE, "dir", str, "warehouse"),
        credentials=_credentials(),
        base_url=_read(_API, "base_url", str, DEFAULT_BASE_URL).rstrip("/"),
        page_size=_whole("page_size", MAX_PAGE_SIZE, 1, MAX_PAGE_SIZE),
        requests_per_minute=_whole("requests_per_minute", 100, 1, 100_000),
        timeout=float(_whole("timeout", 20, 1, 3600)),
        revisit_after=parse_schedule(_read(_API, "revisit_after", list, None)),
        verification_fee=_amount(fee),
        fee_currency=_currency(_read(_WAREHOUSE, "fee_currency", str, "USD")),
        timezone=_timezone(_read(_WAREHOUSE, "timezone", str, "UTC")),
    )


def require_credentials(settings: Settings) -> Credentials:
    """The credentials, or Misuse saying how to give them."""
    if settings.credentials is None:
        raise Misuse(
            "no credentials: set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN (or TWILIO_API_KEY and "
            "TWILIO_API_SECRET), or fill in .dlt/secrets.toml after .dlt/example.secrets.toml; "
            "without an account, try `make demo`"
        )
    return settings.credentials


def parse_schedule(ages: list[Any] | None) -> tuple[timedelta, ...]:
    """Ages such as ["15m", "26h", "3d"], ascending; the oldest makes an attempt settled."""
    if ages is None:
        return DEFAULT_SCHEDULE
    schedule = tuple(_age(str(age)) for age in ages)
    if list(schedule) != sorted(set(schedule)) or not schedule:
        raise Misuse(f"{_API}.revisit_after: ages must ascend, as in ['15m', '26h', '3d']")
    if not SETTLED_AFTER <= schedule[-1] < RETENTION - timedelta(days=1):
        raise Misuse(
            f"{_API}.revisit_after: its last age must be at least 3d, after which an attempt "
            "counts as settled, and less than 29d"
        )
    return schedule


def _age(text: str) -> timedelta:
    match = _AGE.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise Misuse(f"{_API}.revisit_after: '{text}' is no age; write '15m', '26h' or '3d'")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _read(section: str, name: str, kind: type[T], default: T | None) -> Any:
    """One setting by its full name only: `COUNTRY=US` in the environment is not ours to read."""
    try:
        value = dlt.config.get(f"{section}.{name}", kind)
    except ValueError:
        raise Misuse(f"{section}.{name}: not a valid {kind.__name__}") from None
    return default if value is None else value


def _whole(name: str, default: int, low: int, high: int) -> int:
    value: int = _read(_API, name, int, default)
    if not low <= value <= high:
        raise Misuse(f"{_API}.{name}: {value} is not between {low} and {high}")
    return value


def _amount(text: str) -> Decimal:
    try:
        fee = Decimal(text)
    except InvalidOperation:
        fee = Decimal(-1)
    if not fee.is_finite() or not 0 <= fee < 10**6:
        raise Misuse(f"{_WAREHOUSE}.verification_fee: '{text}' is not an amount such as 0.05")
    return fee


def _currency(code: str) -> str:
    if not re.fullmatch("[A-Za-z]{3}", code):
        raise Misuse(f"{_WAREHOUSE}.fee_currency: '{code}' is not a currency code such as USD")
    return code.upper()


def _timezone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise Misuse(f"{_WAREHOUSE}.timezone: '{name}' is not an IANA zone such as UTC") from None
    return name


def _credentials() -> Credentials | None:
    """Twilio's own environment variables, else `[sources.twilio_verify]` in secrets.toml."""
    found = {
        name: os.environ.get(f"TWILIO_{name.upper()}") or dlt.secrets.get(f"{_API}.{name}", str)
        for name in ("account_sid", "auth_token", "api_key", "api_secret")
    }
    if not any(found.values()):
        return None
    return Credentials.of(**found)
