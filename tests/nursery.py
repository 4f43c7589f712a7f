"""A process that has all modules, and forks into those which the tests run.

To import them takes a second, longer than most of these runs. Each is a process of its own all the
same, with its own pid, environment and signals.

`python -m tests.nursery` takes a request a line, JSON on standard input: module, argv, environment
and the paths for out, error and code. The code is there when the process has ended.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
_PATIENCE = 120.0  # seconds
_running: list[subprocess.Popen[str]] = []


def run(
    module: str, argv: tuple[str, ...], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Like subprocess.run of `python -m module`."""
    if not _running:
        command = [sys.executable, "-m", "tests.nursery"]
        _running.append(subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, text=True))
    with tempfile.TemporaryDirectory() as folder:
        paths = {name: f"{folder}/{name}" for name in ("out", "error", "code")}
        request = {"module": module, "argv": argv, "environment": environment}
        requests = _running[0].stdin
        assert requests is not None
        requests.write(json.dumps({**request, **paths}) + "\n")
        requests.flush()
        until = time.monotonic() + _PATIENCE
        while not os.path.exists(paths["code"]):
            if time.monotonic() > until:
                raise subprocess.TimeoutExpired(argv, _PATIENCE)
            time.sleep(0.005)
        out, error, code = (Path(path).read_text(encoding="utf-8") for path in paths.values())
    return subprocess.CompletedProcess(argv, int(code), out, error)


def main() -> None:
    import tests.crash  # noqa: F401  # with all that it imports

    for line in sys.stdin:
        request = json.loads(line)
        if not os.fork():
            _watch(request)
        while _reap():
            pass


def _reap() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] > 0
    except ChildProcessError:
        return False


def _watch(request: dict[str, Any]) -> None:
    """In between, so that several can run at a time."""
    pid = os.fork()
    if not pid:
        _become(request)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    new = Path(request["code"] + ".new")
    new.write_text(str(code))
    new.rename(request["code"])
    os._exit(0)


def _become(request: dict[str, Any]) -> None:
    # Whoever runs the tests in the background has them ignore SIGINT, and their children too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, name in ((1, "out"), (2, "error")):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [request["module"], *request["argv"]]
    code: Any = 0
    try:
        runpy.run_module(request["module"], run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else bool(code))


if __name__ == "__main__":
    main()
