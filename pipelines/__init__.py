"""verify-sync: a complete, settled copy of Twilio Verify's attempts in DuckDB."""

from __future__ import annotations


def release() -> str:
    """The installed version, or `unknown` in a checkout that was not set up."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("verify-sync")
    except PackageNotFoundError:
        return "unknown"
