"""The console script: runs one command, exits with 0 (done), 1 (failed) or 2 (wrong usage)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone

from pipelines.commands import parser
from pipelines.commands._output import log_to_stderr, report
from pipelines.errors import Failure, first_line, masked
from pipelines.interrupt import INTERRUPTED, heed_signals, ignore_signals, was_interrupted


def main(argv: Sequence[str] | None = None, now: datetime | None = None) -> int:
    """Runs one command at `now` (aware; default: the clock, read once); returns the exit code."""
    try:
        arguments = parser().parse_args(argv)
        log_to_stderr(arguments)
    except KeyboardInterrupt:  # while the commands are imported
        print(f"verify-sync: {INTERRUPTED}", file=sys.stderr)
        return 1
    try:
        from pipelines.settings import load_settings  # here: slow to import

        arguments.run(arguments, load_settings(), now or datetime.now(timezone.utc))
        sys.stdout.flush()  # fails here if the output cannot be written
    except KeyboardInterrupt:
        return report(arguments, 1, arguments.interrupted)
    except Failure as failure:
        if was_interrupted():  # DuckDB turns a signal into an error of its own
            return report(arguments, 1, arguments.interrupted)
        return report(arguments, failure.exit_code, str(failure))
    except BrokenPipeError:  # the reader has ended: `verify-sync sql … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if was_interrupted():
            return report(arguments, 1, arguments.interrupted)
        message = masked(first_line(error))
        hint = "" if arguments.debug else " (--debug shows where)"
        return report(arguments, 1, f"{type(error).__name__}: {message}{hint}")
    return 0


def entry(argv: Sequence[str] | None = None, now: datetime | None = None) -> None:
    """The console script: runs `main`, which a signal ends cleanly, and exits the process."""
    code = None
    try:
        os.umask(0o077)  # what a run writes holds phone numbers: for its owner only
        _open_streams()
        _forget_variables()
        heed_signals()
        code = main(argv, now)
        ignore_signals()
    except KeyboardInterrupt:  # just before or after the work
        ignore_signals()
        if code is None:
            print(f"verify-sync: {INTERRUPTED}", file=sys.stderr)
    with suppress(OSError):
        sys.stdout.flush()
    # All files are closed. Skip interpreter shutdown: it takes 0.3 s, and longer after a failed run
    # if a reader thread still waits for its next try.
    os._exit(1 if code is None else code)


def _open_streams() -> None:
    """Opens what the caller has closed (`2>&-`): otherwise the next file that is opened gets its
    number. Lets no character fail: a stream escapes what its encoding lacks."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            mode = os.O_RDONLY if number == 0 else os.O_WRONLY
            os.dup2(os.open(os.devnull, mode), number)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w"))
        elif number and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _forget_variables() -> None:
    """Removes dlt's own variables, except the folder. dlt reads them when it is imported, but they
    are meant for other pipelines."""
    for name in [name for name in os.environ if name.startswith("DLT_")]:
        if name != "DLT_PROJECT_DIR":
            del os.environ[name]


if __name__ == "__main__":
    entry()
