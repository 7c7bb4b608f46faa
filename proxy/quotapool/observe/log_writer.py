"""Writes log lines in batches, off the request path, without ever making the event loop wait for a slow reader."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import errno
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

FLUSH_AFTER_S: Final = 0.1
FLUSH_AT: Final = 64 << 10  # bytes
QUEUE_LIMIT: Final = 8 << 20  # bytes that may wait for a slow reader
_RETRY_S: Final = 0.01
_PIECE: Final = 2 * FLUSH_AT  # so that a batch whose last line made it too long still goes in one write
_PIPE_PIECE: Final = select.PIPE_BUF  # a pipe takes this much at once or nothing: workers' lines are never mixed


def _plain_notice(dropped: int) -> bytes:
    return b"%d log lines dropped: their reader is too slow\n" % dropped


class LogWriter:
    """Collects complete lines and writes them to `fd` after 100 ms, at 64 KiB, on `flush()` and at exit.

    If the reader is too slow, the oldest lines beyond 8 MiB are dropped, and a line made by `notice` says how many. If
    the reader is gone, all are dropped. Without a running event loop, lines are written at once.
    Several workers may share one pipe: no line of up to 4 KiB is split.
    """

    def __init__(self, fd: int, *, notice: Callable[[int], bytes] = _plain_notice) -> None:
        self._fd, self._is_pipe = _own_description(fd)
        self._ready = select.poll()
        self._ready.register(self._fd, select.POLLOUT)
        self._notice = notice
        self._lines: deque[bytes] = deque()
        self._rest = b""  # taken from the queue, not yet taken by the reader
        self._size = 0  # bytes of both
        self._dropped = 0
        self._gone = False
        self._pushing = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # Re-entrant: the garbage collector may log from a finalizer at any point here.
        self._lock = threading.RLock()
        atexit.register(self.flush)

    def write(self, line: bytes, *, urgent: bool = False) -> None:
        """Queue `line`, which ends in a newline. An `urgent` one does not wait for the next batch."""
        with self._lock:
            before = self._size
            self._lines.append(line)
            self._size = before + len(line)
            if self._size > QUEUE_LIMIT:
                self._drop_oldest()
            if self._timer is None or self._loop is None or self._loop.is_closed():
                urgent = not self._arm(FLUSH_AFTER_S) or urgent
            if urgent or before < FLUSH_AT <= self._size:
                self._push()

    def flush(self, timeout_s: float = 2.0) -> None:
        """Write everything now, waiting at most `timeout_s` for the reader. For exit and SIGTERM."""
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while not self._push():
                left = deadline - time.monotonic()
                if left <= 0 or not self._ready.poll(left * 1000):
                    return

    def close(self) -> None:
        self.flush()
        atexit.unregister(self.flush)
        if self._timer is not None:
            self._timer.cancel()
        os.close(self._fd)

    def _arm(self, delay_s: float) -> bool:
        """Set the timer for `delay_s`. False outside an event loop, and in another thread than its own."""
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            return False
        self._timer = self._loop.call_later(delay_s, self._on_timer)
        return True

    def _on_timer(self) -> None:
        with self._lock:
            self._timer = None
            if not self._push():
                self._arm(_RETRY_S)

    def _push(self) -> bool:
        """Write what the reader takes without blocking. True when nothing is left."""
        if self._pushing:
            return False
        self._pushing = True
        try:
            while piece := self._rest or self._next_piece():
                self._rest = piece
                written = self._write_now(piece)
                self._rest = piece[written:]
                self._size -= written
                if self._rest:
                    return False
            return True
        finally:
            self._pushing = False

    def _next_piece(self) -> bytes:
        """As many complete lines as one write may take, removed from the queue."""
        if self._dropped:
            notice = self._notice(self._dropped)
            self._dropped = 0
            self._lines.appendleft(notice)
            self._size += len(notice)
        limit = _PIPE_PIECE if self._is_pipe else _PIECE
        fresh: deque[bytes] = deque()
        if self._size <= limit:
            # All of them. Joining creates objects, so it may log: into the fresh queue, not into the one being joined.
            lines, self._lines = self._lines, fresh
            return b"".join(lines)
        lines = self._lines
        piece: list[bytes] = []
        size = 0
        while lines and (not piece or size + len(lines[0]) <= limit):
            size += len(lines[0])
            piece.append(lines.popleft())
        return b"".join(piece)

    def _write_now(self, piece: bytes) -> int:
        """How many bytes are done with; 0 while the reader takes none."""
        if self._gone:
            return len(piece)
        try:
            return os.write(self._fd, piece) if self._ready.poll(0) else 0
        except BlockingIOError:
            return 0
        except OSError as error:
            # The reader is gone forever, or the disk is full for now: logs must not stop the proxy.
            self._gone = error.errno in {errno.EPIPE, errno.EBADF, errno.EIO}
            return len(piece)

    def _drop_oldest(self) -> None:
        while self._size > QUEUE_LIMIT and self._lines:
            self._size -= len(self._lines.popleft())
            self._dropped += 1


def _own_description(fd: int) -> tuple[int, bool]:
    """(a descriptor of our own for the file behind `fd`, whether that is a pipe).

    A pipe or terminal is opened again if the system allows it, since O_NONBLOCK on the shared description would affect
    every process that has it. If not, calling `poll` before each write prevents nearly all waits.
    """
    mode = os.fstat(fd).st_mode
    is_pipe = stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_APPEND | os.O_NOCTTY | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            return os.open(f"/proc/self/fd/{fd}", flags), is_pipe
    return os.dup(fd), is_pipe
