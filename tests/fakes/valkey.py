"""A real Valkey for tests: the embedded store's own binary, without persistence, on a Unix socket.

process, url = start_valkey(tmp_path)
...
stop_valkey(process)
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from quotapool.store.valkey_process import server_pid, valkey_binary


def start_valkey(tmp_path: Path, *arguments: str) -> tuple[subprocess.Popen[bytes], str]:
    """(process, `unix://` URL) of an empty server that answers; further `arguments` go to valkey-server.

    Ready in about 20 ms. Raises RuntimeError with the server's log when it does not come up within 5 s.
    """
    place = tmp_path / "valkey.sock"
    if len(os.fsencode(place)) > 99:  # a socket's path has room for 107 bytes
        place = Path(tempfile.mkdtemp(prefix="quotapool-test-", dir="/tmp"), "valkey.sock")
    log = tmp_path / "valkey.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                *(str(valkey_binary()), "--port", "0", "--unixsocket", str(place), "--unixsocketperm", "600"),
                *("--dir", str(tmp_path), "--save", "", "--appendonly", "no", *arguments),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    deadline = time.monotonic() + 5
    while server_pid(place) != process.pid:
        if process.poll() is not None or time.monotonic() > deadline:
            stop_valkey(process)
            raise RuntimeError(f"valkey-server did not come up: {log.read_text()}")
        time.sleep(0.002)
    return process, f"unix://{place}"


def stop_valkey(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(20)


@contextlib.contextmanager
def running_valkey(tmp_path: Path, *arguments: str) -> Iterator[str]:
    """The URL of a server that lives as long as the block."""
    process, url = start_valkey(tmp_path, *arguments)
    try:
        yield url
    finally:
        stop_valkey(process)


def forget_all(url: str) -> None:
    """Make a server as it was when it started: without data, scripts and connections."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(url.removeprefix("unix://"))
        connection.sendall(b"CLIENT KILL TYPE NORMAL\r\nFLUSHALL\r\nSCRIPT FLUSH\r\n")  # kills all but this one
        with connection.makefile("rb") as lines:
            replies = [lines.readline() for _ in range(3)]
    if replies[0][:1] != b":" or replies[1:] != [b"+OK\r\n"] * 2:
        raise RuntimeError(f"valkey-server cannot be emptied: {replies}")


_GIVEN: set[int] = set()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listened on a moment ago, low enough for a cluster bus above it.

    Never the same one twice, nor one that another process of the same test run may be given: between here and the
    program that is to listen there, seconds can pass.
    """
    lane = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    lanes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
        if port < 55_000 and port // 2 % lanes == lane and port not in _GIVEN:  # Linux gives even ones
            _GIVEN.add(port)
            return port
