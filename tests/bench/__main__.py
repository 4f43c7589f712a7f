"""`make bench`: verify-sync compared with alternatives, at the API's limit, and as it grows.

Each contender runs in its own process. CPU seconds and peak memory are the kernel's figures for
that process alone; the sandbox runs in this one. Each part prints its result and stores it in
results.txt beside this file. The README quotes it.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from tests import quarter
from tests.bench import first, growth, trust

RESULTS = Path(__file__).with_name("results.txt")
_SECTION = re.compile(r"^\[(\w+)\]\n(.*?)(?=^\[|\Z)", re.MULTILINE | re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts: dict[str, Callable[[], Iterable[str]]] = {
        "compare": lambda: first.compare(given.attempts or [100_000, 1_000_000]),
        "latency": first.latency,
        "limit": lambda: first.limit(given.requests),
        "memory": first.memory,
        "resume": first.resume,
        "serve": first.serve,
        "steady": lambda: growth.steady(given.rows or [100_000, 1_000_000, 10**7, 4 * 10**7]),
        "views": growth.views,
        "merging": lambda: growth.merging(given.times),
        "soak": trust.soak,
        "kills": trust.kills,
        "quarter": lambda: trust.a_quarter(given.days, given.syncs or [*quarter.SCHEDULES]),
    }
    parser.add_argument("--only", action="append", choices=[*parts])
    parser.add_argument("--attempts", action="append", type=int, help="account size in `compare`")
    parser.add_argument("--requests", type=int, default=300, help="rate limit a minute in `limit`")
    parser.add_argument("--rows", action="append", type=int, help="warehouse size in `steady`")
    parser.add_argument("--times", type=int, default=1_000, help="number of syncs in `merging`")
    parser.add_argument("--days", type=int, default=quarter.DAYS, help="length of `quarter`")
    parser.add_argument("--syncs", action="append", choices=[*quarter.SCHEDULES])
    given = parser.parse_args()
    os.environ["RUNTIME__LOG_LEVEL"] = "CRITICAL"
    print(f"{os.cpu_count()} cores")
    for name in given.only or parts:
        print(f"\n[{name}]")
        lines = []
        for line in parts[name]():
            print(line, flush=True)
            lines.append(line)
        keep(f"{name}_{given.requests}" if name == "limit" else name, lines)


def keep(name: str, lines: Iterable[str]) -> None:
    """Replaces the lines of a part's last run in results.txt."""
    text = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    sections = {found: body.strip("\n") for found, body in _SECTION.findall(text)}
    sections[name] = "\n".join(lines)
    whole = "\n\n".join(f"[{found}]\n{body}" for found, body in sections.items())
    RESULTS.write_text(f"{whole}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
