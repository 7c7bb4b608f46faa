"""Asks for secrets at a terminal without echo: one, or several, one or more a line, finished by an empty line."""

from __future__ import annotations

import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from quotapool.cli.new_files import ended_by_signals
from quotapool.cli.questions import typed_line
from quotapool.settings.key_lines import secrets_in

# A terminal cuts longer lines, and says nothing (N_TTY_BUF_SIZE, with the line's end).
_LONGEST_LINE: Final = 4095


def ask_for_secrets(prompt: str, take: Callable[[str], str]) -> None:
    """Call `take` with each secret; what it returns is shown. Ends with an empty line or Ctrl-D.

    Lines that are pasted together are all read: unlike getpass, nothing that was typed ahead is dropped.
    """
    with _without_echo(sys.stdin.fileno()):
        while True:
            line = _unseen_line(prompt)
            if len(line) >= _LONGEST_LINE:
                _say(
                    "  that line is too long for a terminal, which cuts it: give fewer keys a line, or use --keys FILE"
                )
                continue
            if not line.strip():
                return
            try:
                found = secrets_in(line)
            except ValueError as error:
                _say(f"  not taken: {error}")
                continue
            for secret in found:
                _say(f"  {take(secret)}")


def ask_for_secret(prompt: str) -> str:
    """One line; "": Ctrl-D. Raises KeyboardInterrupt."""
    with _without_echo(sys.stdin.fileno()):
        return _unseen_line(prompt)


def _unseen_line(prompt: str) -> str:
    """As `typed_line`; the line's end was not shown either."""
    if line := typed_line(prompt):
        _say("")
    return line


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def _without_echo(terminal: int) -> Iterator[None]:
    """The terminal shows what is typed again afterwards, also if the process is told to end meanwhile."""
    before = termios.tcgetattr(terminal)
    silent = termios.tcgetattr(terminal)
    silent[3] &= ~termios.ECHO
    with ended_by_signals():
        try:
            termios.tcsetattr(terminal, termios.TCSADRAIN, silent)
            yield
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
