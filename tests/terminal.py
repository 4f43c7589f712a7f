"""A terminal for tests: a test types keys and reads the screen."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import pexpect
import pyte


class Terminal:
    """`verify-sync` with `argv` on a screen of `rows` x `columns`. 0 x 0: the size is unknown."""

    def __init__(self, *argv: str, rows: int = 24, columns: int = 80, **environment: str) -> None:
        self._screen = pyte.HistoryScreen(columns or 80, rows or 24, history=10_000)
        self._stream = pyte.Stream(self._screen)
        self.process = pexpect.spawn(
            sys.executable, ["-m", "pipelines", *argv],
            env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "", **environment},
            dimensions=(rows, columns), encoding="utf-8", codec_errors="replace",
            timeout=None,
        )  # fmt: skip
        # A program queries its terminal: the screen sends the replies to the process.
        self._screen.write_process_input = self.process.send

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.process.close(force=True)

    def type(self, text: str) -> None:
        self.process.send(text)

    def shows(self, *texts: str) -> str:
        """Waits until each of `texts` is on the screen; returns the screen."""
        return self.waits(lambda screen: all(text in screen for text in texts))

    def waits(self, is_there: Callable[[str], bool]) -> str:
        while not is_there(self.screen):
            self._stream.feed(self.process.read_nonblocking(65536, None))
        return self.screen

    def ends(self) -> int | None:
        """Waits for the process to end; returns its exit code. `screen` then has all its output."""
        with suppress(pexpect.EOF):
            while True:
                self._stream.feed(self.process.read_nonblocking(65536, None))
        self.process.wait()
        return self.process.exitstatus

    @property
    def screen(self) -> str:
        """The text on the screen and above it. A wrapped line above it counts as two."""
        above = ("".join(line[at].data for at in sorted(line)) for line in self._screen.history.top)
        lines = [*above, *self._screen.display]
        return "\n".join(line.rstrip() for line in lines).rstrip()
