"""A command at a terminal of its own: what a person types, and what the screen shows."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from rich.cells import cell_len

_PATIENCE_S = 30.0
_WHOLE = "\x1b[2J"
_PART = re.compile(r"\x1b\[(?P<of>[?0-9;]*)(?P<what>[A-Za-z])|(?P<text>[^\x1b])", re.DOTALL)


class Terminal:
    """`command` with a pseudo-terminal as its standard input, output and error. `shown`: all that was written to it;
    `size`: columns and lines."""

    def __init__(
        self, command: list[str], directory: Path, env: dict[str, str], size: tuple[int, int] | None = None
    ) -> None:
        self.shown = ""
        self.size = size or (80, 24)
        self._seen = 0  # what `wait_for` has found
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:  # the child: nothing but exec
            try:
                if size is not None:
                    _set_size(0, size)
                os.chdir(directory)
                os.execvpe(command[0], command, env)
            finally:
                os._exit(127)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._terminal)
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)

    def wait_for(self, text: str) -> None:
        """Until the screen shows `text`, after what was waited for before."""
        deadline = time.monotonic() + _PATIENCE_S
        while text not in self.shown[self._seen :]:
            assert time.monotonic() < deadline, f"{text!r} was not shown, but: {self.shown}"
            if not self._read():
                raise AssertionError(f"it ended without {text!r}: {self.shown}")
        self._seen = self.shown.index(text, self._seen) + len(text)

    def wait_until(self, holds: Callable[[list[str]], Any]) -> list[str]:
        """Until the lines of the screen are such; these lines."""
        deadline = time.monotonic() + _PATIENCE_S
        while not holds(lines := self.screen()):
            assert time.monotonic() < deadline, "the screen stayed:\n" + "\n".join(lines)
            if not self._read():
                raise AssertionError(f"it ended: {self.shown}")
        return lines

    def screen(self) -> list[str]:
        """The lines of the screen now, for a program that draws all of it."""
        return lines_of(self.shown.rpartition(_WHOLE)[2], self.size)

    def resize(self, columns: int, lines: int) -> None:
        self.size = columns, lines
        _set_size(self._terminal, self.size)

    def mode(self) -> list[Any]:
        """How the terminal treats what is typed: whether it echoes it, waits for whole lines …"""
        return termios.tcgetattr(self._terminal)

    def type(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def end(self) -> int:
        """Its exit code, once it has ended."""
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self) -> bool:
        """False: it has ended."""
        if not select.select([self._terminal], [], [], 0.2)[0]:
            return True
        try:
            data = os.read(self._terminal, 65_536)
        except OSError:  # Linux: nobody has the other side any more
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)


def lines_of(written: str, size: tuple[int, int]) -> list[str]:
    """What an empty screen shows after this. It knows cursor positions, erasing to the end of a line, and that text
    beyond the last column stays in it; colours and modes show nothing."""
    columns, lines = size
    cells = [[" "] * columns for _ in range(lines)]
    row = column = 0
    for part in _PART.finditer(written):
        if (text := part["text"]) is None:
            if part["what"] == "H":
                wanted = [int(number or 1) - 1 for number in (part["of"] + ";").split(";")[:2]]
                row, column = min(wanted[0], lines - 1), min(wanted[1], columns - 1)
            elif part["what"] == "K":
                cells[row][column:] = [" "] * (columns - column)
            else:
                assert part["what"] in "mhl", f"unknown to this terminal: {part[0]!r}"
        elif text == "\r":
            column = 0
        elif text == "\n":
            row = min(row + 1, lines - 1)
        else:
            column = min(column, columns - 1)
            cells[row][column] = text
            column += cell_len(text)
    return ["".join(line).rstrip() for line in cells]


def _set_size(terminal: int, size: tuple[int, int]) -> None:
    columns, lines = size
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
