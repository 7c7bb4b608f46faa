"""A command at a terminal of its own: what a person types, and what the screen shows."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import time
from pathlib import Path
from typing import Self

_PATIENCE_S = 30.0


class Terminal:
    """`command` with a pseudo-terminal as its standard input, output and error. `shown`: all that was on the screen."""

    def __init__(self, command: list[str], directory: Path, env: dict[str, str]) -> None:
        self.shown = ""
        self._seen = 0  # what `wait_for` has found
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:  # the child: nothing but exec
            try:
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
