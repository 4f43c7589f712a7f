"""`sandbox`: the stand-in API as a command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests import nursery
from tests.worlds import REPOSITORY, Capture, World, refused


def test_the_sandbox_names_its_faults(capsys: Capture) -> None:
    code, line = refused(capsys, "sandbox", "--fail", "429,earthquake")
    assert (code, "earthquake" in line, "broken_json" in line) == (2, True, True)


def test_the_sandbox_command_serves_what_it_says(tmp_path: Path) -> None:
    """As a user would: start it, set the variables that it prints, sync in another process."""
    command = [sys.executable, "-m", "pipelines", "sandbox", "--port=0", "--attempts=500"]
    with subprocess.Popen(
        [*command, "--no-inclusive", "--no-error=mixed", "--requests=0"],
        cwd=REPOSITORY, stdout=subprocess.PIPE, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        printed = [server.stdout.readline() for _ in range(6)]
        exports = dict(
            word.split("=", 1)
            for line in printed
            if line.strip().startswith("export")
            for word in line.split()[1:]
        )
        try:
            environment = {**os.environ, **exports, "WAREHOUSE__DIR": str(tmp_path / "w")}
            told = nursery.run("pipelines", ("sync",), environment)
        finally:
            server.terminate()
    assert told.stdout.startswith("read 4") or told.stdout.startswith("read 5")
    assert set(exports) == {
        "WAREHOUSE__DIR", "SOURCES__TWILIO_VERIFY__BASE_URL", "TWILIO_ACCOUNT_SID",
        "TWILIO_AUTH_TOKEN",
    }  # fmt: skip


def test_the_port_of_another_program_is_one_line(configured: World, capsys: Capture) -> None:
    port = configured.sandbox.url.rpartition(":")[2]
    code, line = refused(capsys, "sandbox", "--port", port)
    assert (code, port in line) == (1, True)
