"""The settings of a run: names, defaults, checks. Reading files and environment: config."""

from __future__ import annotations

import os
import re
from dataclasses import asdict, dataclass, field, fields
from datetime import timedelta
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from pipelines.config import API, WAREHOUSE, Config
from pipelines.errors import Misuse, masked
from pipelines.reading.defaults import (
    CONCURRENCY,
    DEFAULT_SCHEDULE,
    SETTLED_AFTER,
    default_concurrency,
)
from pipelines.text import length_of, typed
from pipelines.twilio.base_url import checked_base
from pipelines.twilio.credentials import PARTS, Credentials
from pipelines.twilio.filters import LASTING, NO_FILTERS, Filters
from pipelines.twilio.limits import (
    DEFAULT_BASE_URL,
    MAX_PAGE_SIZE,
    REQUESTS_PER_MINUTE,
    RETENTION,
    TIMEOUT,
)

# `$` is not a variable here. dlt and DuckDB do not quote the others, or take them for a pattern.
_ODD = "$'%=?*[]\\"


@dataclass(frozen=True)
class Pumping:
    """When a day of a number prefix becomes a row of `pumping_suspects`: it has at least so many
    verifications and destinations. Its success rate is below `rate` times the baseline, and at
    least `z_score` standard deviations below it."""

    verifications: int = 20
    destinations: int = 10
    rate: float = 0.5
    z_score: float = 4.0


@dataclass(frozen=True)
class Settings:
    """All settings of a run. `credentials` is None if none are set."""

    directory: Path
    credentials: Credentials | None = field(default=None, repr=False)
    base_url: str = DEFAULT_BASE_URL
    page_size: int = MAX_PAGE_SIZE
    requests_per_minute: int = REQUESTS_PER_MINUTE
    concurrency: int = CONCURRENCY
    timeout: float = TIMEOUT
    give_up_after: timedelta = timedelta(minutes=10)
    filters: Filters = field(default=NO_FILTERS, repr=False)  # a filter may be a phone number
    revisit_after: tuple[timedelta, ...] = DEFAULT_SCHEDULE
    publish_every: timedelta = timedelta()
    verification_fee: Decimal = Decimal("0.05")
    fee_currency: str = "USD"
    timezone: str = "UTC"
    pumping: Pumping = Pumping()
    sql: Path | None = None  # the user's own views and checks

    @property
    def published(self) -> Path:
        """The published file, which people open."""
        return self.directory / "verify.duckdb"

    @property
    def requests_log(self) -> Path:
        """The times of recent requests: the next run needs them for the rate limit."""
        return self.directory / "requests.sqlite"


def load_settings() -> Settings:
    """Reads and checks the configuration. Raises Misuse that names the wrong setting."""
    config = Config(_KNOWN)
    read = config.read
    fee = read(WAREHOUSE, "verification_fee", str, Settings.verification_fee)
    return Settings(
        **_reading(config),
        directory=_directory(config),
        credentials=_credentials(config),
        publish_every=_length(config, WAREHOUSE, "publish_every", Settings.publish_every),
        verification_fee=_amount(fee),
        fee_currency=_currency(read(WAREHOUSE, "fee_currency", str, Settings.fee_currency)),
        timezone=_timezone(read(WAREHOUSE, "timezone", str, Settings.timezone)),
        pumping=_pumping(config),
        sql=_own_sql(config),
    )


def source_settings() -> dict[str, Any]:
    """The settings of `[sources.twilio_verify]`, by name, for `twilio_verify` in any pipeline.

    Raises Misuse that names the wrong setting. Credentials are not among them.
    """
    return _reading(Config({API: _KNOWN[API]}))


def _reading(config: Config) -> dict[str, Any]:
    whole = partial(_whole, config)
    per_minute = whole("requests_per_minute", REQUESTS_PER_MINUTE, 1, 100_000)
    return {
        "base_url": _base_url(config.read(API, "base_url", str, DEFAULT_BASE_URL)),
        "page_size": whole("page_size", MAX_PAGE_SIZE, 1, MAX_PAGE_SIZE),
        "requests_per_minute": per_minute,
        "concurrency": whole("concurrency", default_concurrency(per_minute), 1, 64),
        "timeout": float(whole("timeout", int(TIMEOUT), 1, 3600)),
        "give_up_after": _length(config, API, "give_up_after", Settings.give_up_after),
        "filters": _filters(config),
        "revisit_after": parse_schedule(config.read(API, "revisit_after", list, None)),
    }


def require_credentials(settings: Settings) -> Credentials:
    """The credentials. Raises Misuse that says how to set them."""
    if settings.credentials is None:
        raise Misuse(
            "no credentials: set TWILIO_ACCOUNT_SID and TWILIO_AUTH_TOKEN (or TWILIO_API_KEY and "
            "TWILIO_API_SECRET), or fill in a copy of .dlt/example.secrets.toml as "
            f".dlt/secrets.toml; without an account, try `{typed('demo')}`"
        )
    return settings.credentials


def parse_schedule(ages: list[Any] | None) -> tuple[timedelta, ...]:
    """Ages such as ["15m", "26h", "3d"], ascending. Attempts read at the last age are settled."""
    if ages is None:
        return DEFAULT_SCHEDULE
    schedule = tuple(_age(f"{API}.revisit_after", str(age)) for age in ages)
    if list(schedule) != sorted(set(schedule)) or not schedule:
        raise Misuse(f"{API}.revisit_after: ages must ascend, as in ['15m', '26h', '3d']")
    if not SETTLED_AFTER <= schedule[-1] < RETENTION - timedelta(days=1):
        raise Misuse(
            f"{API}.revisit_after: the last age must be at least 3d, when an attempt is settled, "
            "and less than 29d"
        )
    return schedule


def _age(name: str, text: str) -> timedelta:
    try:
        return length_of(text)
    except ValueError as error:
        raise Misuse(f"{name}: {error}") from None


def _length(config: Config, section: str, name: str, usual: timedelta) -> timedelta:
    text = config.read(section, name, str, None)
    if text is None:
        return usual
    return timedelta() if text == "0" and not usual else _age(f"{section}.{name}", text)


def _base_url(url: str) -> str:
    return str(checked_base(url))


def _path(config: Config, name: str, default: str | None) -> Path | None:
    """A folder, below the project's if relative; ~ is the home directory. None if not set."""
    text = config.read(WAREHOUSE, name, str, default)
    if text is None:
        return None
    try:
        path = config.project / Path(text.strip()).expanduser()  # Windows may leave a CR at the end
    except RuntimeError:
        raise Misuse(f"{WAREHOUSE}: '{text}' names the home directory, and there is none") from None
    return path


def _directory(config: Config) -> Path:
    path = _path(config, "dir", "warehouse")
    assert path is not None
    odd = next((c for c in str(path) if c in _ODD or not c.isprintable()), None)
    if odd:
        raise Misuse(
            f"{WAREHOUSE}.dir: {odd!a} must not be in the folder's path, because dlt or DuckDB may "
            f"read it as something else: {masked(str(path))}"
        )
    if path.exists() and not path.is_dir():
        raise Misuse(f"{WAREHOUSE}.dir: {path} is not a folder")
    return path


def _own_sql(config: Config) -> Path | None:
    folder = _path(config, "sql", None)
    if folder and not any((folder / kind).is_dir() for kind in ("reports", "checks")):
        raise Misuse(f"{WAREHOUSE}.sql: {folder} is not a folder with reports/ or checks/")
    return folder


def _whole(config: Config, name: str, default: int, low: int, high: int) -> int:
    value: int = config.read(API, name, int, default)
    if not low <= value <= high:
        raise Misuse(f"{API}.{name}: {value} is not between {low} and {high}")
    return value


def _amount(text: str | Decimal) -> Decimal:
    try:
        fee = Decimal(text)
    except InvalidOperation:
        fee = Decimal(-1)
    if not fee.is_finite() or not 0 <= fee < 10**6:
        raise Misuse(f"{WAREHOUSE}.verification_fee: '{text}' is not an amount such as 0.05")
    return fee


def _currency(code: str) -> str:
    if not re.fullmatch("[A-Za-z]{3}", code):
        raise Misuse(f"{WAREHOUSE}.fee_currency: '{code}' is not a currency code such as USD")
    return code.upper()


def _timezone(name: str) -> str:
    """A zone that both Python and DuckDB know; DuckDB knows fewer."""
    if name == "UTC":
        return name
    import duckdb

    try:
        ZoneInfo(name)
        duckdb.connect().execute("select timezone(?, now())", [name])
    except (KeyError, ValueError, OSError, duckdb.Error):
        raise Misuse(f"{WAREHOUSE}.timezone: '{name}' is not an IANA zone such as UTC") from None
    return name


def _pumping(config: Config) -> Pumping:
    """Reads these settings. Counts are at least 1, `rate` is 0 to 1, `z_score` 0 to 100."""
    found = {}
    for name, usual in asdict(Pumping()).items():
        number = config.read(WAREHOUSE, f"pumping_{name}", type(usual), usual)
        low, high = (1, 10**6) if isinstance(usual, int) else (0, 1 if name == "rate" else 100)
        if not low <= number <= high:
            raise Misuse(f"{WAREHOUSE}.pumping_{name}: {number} is not from {low} to {high}")
        found[name] = number
    return Pumping(**found)


def _filters(config: Config) -> Filters:
    names = {name: f"{API}.{name}" for name in (*LASTING, "status")}
    given = {name: config.read(API, name, str, None) for name in names}
    return Filters.lasting({name: text for name, text in given.items() if text is not None}, names)


def _credentials(config: Config) -> Credentials | None:
    """From Twilio's own environment variables, else `[sources.twilio_verify]`. None if not set."""
    found, names = {}, {}
    for part in PARTS:
        variable = f"TWILIO_{part.upper()}"
        found[part], names[part] = os.environ.get(variable), variable
        if not found[part]:
            found[part] = config.read(API, part, str, None)
            names[part] = f"{API}.{part}" if found[part] else variable
    return Credentials.of(**found, names=names) if any(found.values()) else None


_KNOWN = {
    API: {
        "base_url", "page_size", "requests_per_minute", "concurrency", "timeout",
        "give_up_after", "revisit_after", "status", *LASTING, *PARTS,
    },
    WAREHOUSE: {
        "dir", "sql", "publish_every", "verification_fee", "fee_currency", "timezone",
        *(f"pumping_{part.name}" for part in fields(Pumping)),
    },
}  # fmt: skip
