"""Runs a command on a busy machine and ends with its exit code.

`python -m tests.busy COMMAND…`: meanwhile four processes loop to use up the cores, and one writes
and reads a large file to use up the disk cache.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

COUNTING = 4
MEGABYTES = 1024  # size of the file
_COUNT = "while True: pass"
_FILL = """
import os, sys
block = os.urandom(2**20)
while True:
    with open(sys.argv[1], "wb") as file:
        for _ in range(int(sys.argv[2])):
            file.write(block)
    with open(sys.argv[1], "rb") as file:
        while file.read(2**20):
            pass
"""


def main(*command: str) -> int:
    with ExitStack() as others, tempfile.NamedTemporaryFile() as file:
        for _ in range(COUNTING):
            others.enter_context(_running(_COUNT))
        others.enter_context(_running(_FILL, file.name, str(MEGABYTES)))
        return subprocess.run(command, check=False).returncode


@contextmanager
def _running(program: str, *argv: str) -> Iterator[None]:
    """Runs `program` in a process during the block. It also ends if this process dies."""
    ending = (
        "import os, sys, threading\n"
        "threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", ending + program, *argv], stdin=subprocess.PIPE
    )
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        os._exit(130)
