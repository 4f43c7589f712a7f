"""A process that has all modules, and forks into those which the tests run.

To import them takes a second or two, longer than most of these runs. Each is a process of its own
all the same, with its own pid, environment and signals.

`python -m tests.nursery` takes a request a line, JSON on standard input: module, argv, environment,
a function to call first, and the paths of what it reads, prints, complains of and ends with. That
last file, the exit code, is there when the process has ended. When the nursery's own input ends, so
do all of its children: whatever becomes of the tests, nothing of theirs goes on.
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
SEED = "TESTS_SEED"  # in the environment: of what is drawn at random, in each of the processes
_running: list[subprocess.Popen[str]] = []
_one_at_a_time = threading.Lock()


def run(
    module: str,
    argv: tuple[str, ...],
    environment: dict[str, str],
    text: str = "",
    prepare: tuple[str, str, Any] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Like subprocess.run of `python -m module` with `text` as its standard input. `prepare` is
    called in it first: a module, the name of a function in that, an argument."""
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
    """Of the nursery, which is started at the first request."""
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
    """Ends it, and what still runs in it."""
    while _running:
        nursery = _running.pop()
        assert nursery.stdin is not None
        nursery.stdin.close()
        nursery.wait()


def main() -> None:
    import tests.crash  # noqa: F401  # with all that it imports

    gc.freeze()  # modules stay: a child need not go through them, nor copy their pages
    children: dict[int, dict[str, Any]] = {}
    # A child that ends wakes the loop, which waits for requests.
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
        gc.unfreeze()  # or what DuckDB is built with takes them for leaks, and says so


def _lines(ended: int) -> Iterator[bytes]:
    """Lines of standard input as they come, and b"" when a child has ended."""
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
    with suppress(FileNotFoundError):  # whoever asked has gone
        new.write_text(str(code))
        new.rename(request["code"])


def _become(request: dict[str, Any]) -> None:
    """Never returns: what it is forked from has other children to end."""
    code: Any = 1
    try:
        _prepare(request)
        for name in (request["module"], f"{request['module']}.__main__"):
            sys.modules.pop(name, None)  # or runpy warns that it is there already
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
    # Whoever runs the tests in the background has them ignore SIGINT, and their children too.
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
