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
    with _interruptible() as interrupted:
        try:
            sys.stderr.write(f"{question} [y/N]: ")
            sys.stderr.flush()
            select.select([sys.stdin, interrupted], [], [])
            answer = sys.stdin.readline()
        except KeyboardInterrupt:
            answer = ""
    if not answer:
        sys.stderr.write("\n")
    return answer.strip().lower() in {"y", "yes"}


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
