"""A process that imports all modules once and forks a child for each process that a test runs.

Importing takes one or two seconds, longer than most of these runs. Each child is still a process of
its own, with its own pid, environment and signals.

`python -m tests.nursery` reads one JSON request per line from standard input: module, argv,
environment, a function to call first, and the paths of four files for standard input, output,
errors and exit code. The exit code's file appears when the child has ended. When the nursery's own
input closes, it kills all children, so that nothing outlives the tests.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import runpy
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
SEED = "TESTS_SEED"  # environment variable: the random seed of each process
_running: list[subprocess.Popen[str]] = []
_one_at_a_time = threading.Lock()


def run(
    module: str,
    argv: tuple[str, ...],
    environment: dict[str, str],
    text: str = "",
    prepare: tuple[str, str, Any] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m module` in a forked child, like subprocess.run, with `text` as its standard
    input. The child first calls `prepare`: a module, the name of a function in it, an argument."""
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: f"{folder}/{name}" for name in ("out", "error", "code")}
        Path(folder, "in").write_text(text, encoding="utf-8")
        request = {"module": module, "argv": argv, "environment": environment, **paths}
        request |= {"in": f"{folder}/in", "prepare": prepare}
        nursery = _ask(json.dumps(request))
        while not os.path.exists(paths["code"]):
            assert nursery.poll() is None, "the nursery has ended"
            time.sleep(0.005)
        out, error, code = (Path(path).read_text(encoding="utf-8") for path in paths.values())
    return subprocess.CompletedProcess(argv, int(code), out, error)


def _ask(request: str) -> subprocess.Popen[str]:
    """Sends a request to the nursery. The first request starts it."""
    with _one_at_a_time:
        if not _running:
            command = [sys.executable, "-m", "tests.nursery"]
            start = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, text=True)
            _running.append(start)
        (nursery,) = _running
        assert nursery.stdin is not None
        nursery.stdin.write(request + "\n")
        nursery.stdin.flush()
    return nursery


def close() -> None:
    """Ends the nursery and every child that still runs."""
    while _running:
        nursery = _running.pop()
        assert nursery.stdin is not None
        nursery.stdin.close()
        nursery.wait()


def main() -> None:
    import tests.crash  # noqa: F401  # imports all that a child needs

    gc.freeze()  # children then neither scan the modules nor copy their memory pages
    children: dict[int, dict[str, Any]] = {}
    # The end of a child wakes the loop, which waits for requests.
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        for line in _lines(ended):
            for pid, code in _reaped(children):
                _write_code(children.pop(pid), code)
            if line:
                request = json.loads(line)
                pid = os.fork()
                if not pid:
                    _become(request)
                children[pid] = request
    except KeyboardInterrupt:
        pass
    finally:
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        gc.unfreeze()  # else a library inside DuckDB prints that the modules leak


def _lines(ended: int) -> Iterator[bytes]:
    """Yields each line of standard input, and b"" when a child has ended."""
    rest = b""
    while True:
        ready, _, _ = select.select([0, ended], [], [])
        if ended in ready:
            os.read(ended, 4096)
            yield b""
        if 0 in ready:
            more = os.read(0, 2**16)
            if not more:
                return
            *lines, rest = (rest + more).split(b"\n")
            yield from lines


def _reaped(children: dict[int, Any]) -> Iterator[tuple[int, int]]:
    for pid in list(children):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            yield pid, os.waitstatus_to_exitcode(status)


def _write_code(request: dict[str, Any], code: int) -> None:
    new = Path(request["code"] + ".new")
    with suppress(FileNotFoundError):  # the test that asked has ended
        new.write_text(str(code))
        new.rename(request["code"])


def _become(request: dict[str, Any]) -> None:
    """Runs the request in the forked child. Never returns: the cleanup is the parent's."""
    code: Any = 1
    try:
        _prepare(request)
        for name in (request["module"], f"{request['module']}.__main__"):
            sys.modules.pop(name, None)  # else runpy warns that it is already imported
        runpy.run_module(request["module"], run_name="__main__")
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _prepare(request: dict[str, Any]) -> None:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A shell starts a background job with SIGINT ignored, and its children inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["environment"])
    random.seed(os.environ.get(SEED))
    for number, name in ((0, "in"), (1, "out"), (2, "error")):
        file = os.open(request[name], os.O_RDONLY if name == "in" else os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    if request["prepare"]:
        place, function, argument = request["prepare"]
        getattr(importlib.import_module(place), function)(argument)
    sys.argv = [request["module"], *request["argv"]]


if __name__ == "__main__":
    main()
