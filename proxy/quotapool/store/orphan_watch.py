"""A process beside the embedded server that ends it once nobody owns it, which the server cannot do by itself.

Started as `python -I -S orphan_watch.py SERVER_PID RECORD IDENTITY PATIENCE_S`, with a pipe from the owner as standard
input: it sleeps until the server or its owner has ended. A server without an owner may be adopted: the adopting process
replaces the record, valkey.json, and has a watch of its own. If nobody does, or the state directory is gone, the server
gets SIGTERM, so that it completes its file first. It loads little of the standard library, since it stays.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time

_LOOK_S = 2.0


def identity(file: str) -> str:
    """What is another one after the file was replaced; "" if it is gone."""
    try:
        found = os.stat(file)  # noqa: PTH116 - pathlib would double the memory of this process
    except OSError:
        return ""
    return f"{found.st_ino}-{found.st_mtime_ns}"


def watch(server: int, record: str, before: str, patience_s: float) -> None:
    """Until `server`, a process id, has ended, was ended here, or was adopted."""
    try:
        descriptor = os.pidfd_open(server)
    except (AttributeError, OSError):  # not Linux, or it has ended
        return
    ends = select.poll()
    ends.register(descriptor, select.POLLIN)
    ends.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    if any(fd == descriptor for fd, _ in ends.poll()):
        return
    ends.unregister(sys.stdin.fileno())
    deadline = time.monotonic() + patience_s
    while (now := identity(record)) == before and time.monotonic() < deadline:
        if ends.poll(_LOOK_S * 1000):
            return
    if now in {"", before}:
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)


if __name__ == "__main__":
    watch(int(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
