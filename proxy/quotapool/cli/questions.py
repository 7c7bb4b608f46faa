"""Questions of commands to whoever sits at the terminal."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Iterator


def agreed(question: str) -> bool:
    """Whether the answer is y or yes; all else is a no, and so are Ctrl-C and Ctrl-D."""
    try:
        answer = typed_line(f"{question} [y/N]: ")
    except KeyboardInterrupt:
        return False
    return answer.strip().lower() in {"y", "yes"}


def answer_of(question: str, *, default: bool) -> bool:
    """Whether the answer is yes; an empty line is the default, and what is neither yes nor no is asked again. Raises
    KeyboardInterrupt, also for Ctrl-D."""
    answers = {"": default, "y": True, "yes": True, "n": False, "no": False}
    while line := typed_line(f"{question} [{'Y/n' if default else 'y/N'}]: "):
        answer = answers.get(line.strip().lower())
        if answer is not None:
            return answer
        sys.stderr.write("Please answer y or n.\n")
    raise KeyboardInterrupt


def typed_line(prompt: str) -> str:
    """What is typed behind `prompt`, with the line's end; "": Ctrl-D. Raises KeyboardInterrupt. After both of these
    what follows is on a new line."""
    line = ""
    try:
        with _interruptible() as interrupted:
            sys.stderr.write(prompt)
            sys.stderr.flush()
            select.select([sys.stdin, interrupted], [], [])
            line = sys.stdin.readline()
    finally:
        if not line:
            sys.stderr.write("\n")
    return line


@contextlib.contextmanager
def _interruptible() -> Iterator[int]:
    """Ctrl-C raises KeyboardInterrupt, also in a task, of which asyncio's own handler would only cancel the next step.
    Yields what becomes readable with it: one that comes right before a read would not end that."""
    readable, written = os.pipe()
    os.set_blocking(written, False)
    wakeup = signal.set_wakeup_fd(written)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield readable
    finally:
        signal.signal(signal.SIGINT, handler)
        signal.set_wakeup_fd(wakeup)
        os.close(readable)
        os.close(written)
