"""The embedded store: one Valkey for one state directory, from the supervisor's start to its stop.

    state_dir/embedded.lock     locked (flock) by the process that runs the server; contains its process id and role
    state_dir/valkey.json       the server's process id, socket and role, for `attach_url` and adoption
    state_dir/valkey.log        Valkey's log; state_dir/valkey/ is its data
    <runtime dir>/valkey.sock   see runtime_dir.py

The server survives a supervisor that was killed; the next supervisor adopts it, so two servers never write to one
append-only file. A server that nobody adopts within minutes, or whose state directory is gone, ends by itself
(orphan_watch.py). A server that exits is started again at once from that file.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from collections.abc import AsyncIterator
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec
from structlog.typing import FilteringBoundLogger as Log

from quotapool.store import runtime_dir
from quotapool.store.valkey_process import (
    EmbeddedFailed,
    OrphanWatch,
    ServerProcess,
    is_alive,
    is_server_of,
    server_pid,
)

_READY_S: Final = 30.0  # a large append-only file takes seconds to load
_STOP_S: Final = 5.0
_KILLED_S: Final = 5.0
_ORPHAN_READY_S: Final = 2.0  # how long an orphan may not answer before it is replaced
_ORPHAN_LIVES_S: Final = 300.0
_COMMAND_S: Final = 5.0  # how long to wait for another CLI command's short-lived server
_STEADY_S: Final = 10.0  # after a server that ran this long, failures are counted from one again
_LONGEST_PAUSE_S: Final = 5.0
_MANY_FAILURES: Final = 3


class StateDirBusy(Exception):
    """Another process runs the embedded store of this state directory. `pid` is 0 if it is unknown."""

    def __init__(self, state_dir: Path, pid: int) -> None:
        who = f"process {pid}" if pid and is_alive(pid) else "a worker of a supervisor that is gone"
        super().__init__(f"{state_dir} is in use by {who}. Stop it, or choose another state_dir.")
        self.pid = pid


class Role(StrEnum):
    SERVE = "serve"
    COMMAND = "command"


class EmbeddedValkey:
    """The Valkey of one state directory. `start`, then `watch` in a task of its own, then `stop`.

    `failures` counts exits in a row, for metrics; it starts again at 1 after a server that ran for a while.
    """

    def __init__(self, state_dir: Path, *, log: Log, role: Role = Role.SERVE) -> None:
        self.failures = 0
        self._state_dir = state_dir
        self._data_dir = state_dir / "valkey"
        self._log_file = state_dir / "valkey.log"
        self._log = log
        self._role = role
        self._lock: int | None = None
        self._server: ServerProcess | None = None
        self._watch: OrphanWatch | None = None
        self._socket = Path()
        self._started_at = 0.0
        self._stopping = False

    async def start(self) -> str:
        """Adopt the running server or start one; its `unix://` URL.

        Raises StateDirBusy, EmbeddedFailed, RuntimeDirUnsafe, and OSError where `state_dir` is not writable.
        """
        self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._data_dir.mkdir(mode=0o700, exist_ok=True)
        self._lock = await _locked(self._state_dir, self._role)
        self._stopping = False
        try:
            self._server = await self._adopt()
            if self._server is None:
                self._socket = runtime_dir.socket_path(self._state_dir)
                await self._launch()
            else:
                self._record(self._server)
        except BaseException:
            await self.stop()
            raise
        return f"unix://{self._socket}"

    async def watch(self) -> None:
        """Start the server again whenever it exits. Returns after `stop`; otherwise runs until cancelled."""
        while not self._stopping and self._server is not None:
            server = self._server
            await server.exited()
            if self._stopping:
                return
            self._count_failure(server)
            if self.failures > 1:  # the first restart is immediate
                await asyncio.sleep(min(0.1 * 2**self.failures, _LONGEST_PAUSE_S))
            if self._stopping:
                return
            try:
                pid = await self._launch()
            except (EmbeddedFailed, OSError) as error:
                if not self._stopping:
                    self._log.error("embedded_store_not_restarted", error=str(error), failures=self.failures)
            else:
                self._log.warning("embedded_store_restarted", pid=pid)

    async def stop(self) -> None:
        """Stop the server (SIGTERM: it completes its file first), then release socket and state directory."""
        self._stopping = True
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_STOP_S):
                    await server.exited()
            except TimeoutError:
                self._log.warning("embedded_store_killed", pid=server.pid)
                server.send_signal(signal.SIGKILL)
                await self._wait_for_exit(server)
            (self._state_dir / "valkey.json").unlink(missing_ok=True)
            self._socket.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self._socket.parent.rmdir()
        if self._watch is not None:
            self._watch.stop()
            self._watch = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    async def _wait_for_exit(self, server: ServerProcess) -> None:
        """A killed server exits when the system call it is in returns: with a disk that hangs, nobody knows when."""
        try:
            async with asyncio.timeout(_KILLED_S):
                await server.exited()
        except TimeoutError:
            self._log.error("embedded_store_left_behind", pid=server.pid, waits_for="its disk")

    async def _launch(self) -> int:
        """Start a server and wait until it answers; its process id. Raises EmbeddedFailed, quoting its log."""
        self._socket.parent.mkdir(mode=0o700, exist_ok=True)  # cleaners of /tmp take old directories
        runtime_dir.make_private(self._socket.parent)
        self._socket.unlink(missing_ok=True)
        server = self._server = ServerProcess.spawn(self._socket, self._data_dir, self._log_file)
        self._started_at = time.monotonic()
        self._record(server)  # before it is ready: the next supervisor must be able to find it
        if not await _is_ready(server, self._socket, _READY_S):
            status = server.exit_status()
            what = "did not answer in time" if status is None else f"ended with status {status}"
            raise EmbeddedFailed(f"the embedded Valkey {what}. {self._log_file} ends with: {self._end_of_log()}")
        return server.pid

    async def _adopt(self) -> ServerProcess | None:
        """The server that a killed supervisor left behind, if it answers; one that hangs is killed."""
        recorded = _recorded(self._state_dir)
        socket = Path(recorded.socket) if recorded else runtime_dir.socket_path(self._state_dir)
        if not runtime_dir.is_private(socket.parent):
            return None
        if recorded and is_server_of(recorded.pid, recorded.socket):
            orphan = ServerProcess(recorded.pid)
            if not await _is_ready(orphan, socket, _ORPHAN_READY_S):
                self._log.warning("embedded_store_orphan_hangs", pid=orphan.pid)
                orphan.send_signal(signal.SIGKILL)
                await orphan.exited()
                return None
            pid: int | None = orphan.pid
        else:
            pid = await asyncio.to_thread(server_pid, socket)
        if pid is None:
            return None
        self._socket = socket
        self._started_at = time.monotonic()
        self._log.info("embedded_store_adopted", pid=pid)
        return ServerProcess(pid)

    def _count_failure(self, server: ServerProcess) -> None:
        lived_s = time.monotonic() - self._started_at
        self.failures = 1 if lived_s > _STEADY_S else self.failures + 1
        fields = {"pid": server.pid, "status": server.exit_status(), "lived_s": round(lived_s, 1)}
        self._log.warning("embedded_store_died", **fields)
        if self.failures >= _MANY_FAILURES:
            self._log.error("embedded_store_keeps_dying", failures=self.failures, last_words=self._end_of_log())

    def _end_of_log(self) -> str:
        with contextlib.suppress(OSError):
            lines = self._log_file.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return " | ".join(lines[-3:])
        return ""

    def _record(self, server: ServerProcess) -> None:
        recorded = _Recorded(server.pid, str(self._socket), self._role.value)
        draft = self._state_dir / "valkey.json.new"
        draft.write_bytes(msgspec.json.encode(recorded))
        draft.chmod(0o600)
        draft.replace(self._state_dir / "valkey.json")
        if self._watch is not None:  # of the server before
            self._watch.stop()
        self._watch = OrphanWatch(server.pid, self._state_dir / "valkey.json", _ORPHAN_LIVES_S)


def attach_url(state_dir: Path) -> str | None:
    """URL of the server that runs for `state_dir` and answers; None if there is none. For CLI commands. Blocks.

    Another command's short-lived server is ignored: it may stop at any moment (see `temporary`).
    """
    recorded = _recorded(state_dir)
    if recorded is None or recorded.role != Role.SERVE:
        return None
    if not runtime_dir.is_private(Path(recorded.socket).parent):
        return None
    return f"unix://{recorded.socket}" if server_pid(recorded.socket) == recorded.pid else None


def serving_process(state_dir: Path) -> int | None:
    """The process id of the proxy that holds the lock of `state_dir`, as far as can be known without taking it: that
    could make a start fail at this moment."""
    try:
        holder, _, role = (state_dir / "embedded.lock").read_text(encoding="ascii", errors="replace").partition(" ")
    except OSError:
        return None
    if role != Role.SERVE or not holder.isdigit() or not is_alive(int(holder)):
        return None
    try:
        is_proxy = b"serve" in Path(f"/proc/{holder}/cmdline").read_bytes().split(b"\0")
    except OSError:
        is_proxy = True  # no such file on this system
    return int(holder) if is_proxy else None  # else it is another process with the number of one that has ended


@contextlib.asynccontextmanager
async def temporary(state_dir: Path, *, log: Log) -> AsyncIterator[str]:
    """URL of a server that runs for one CLI command, if `attach_url` found none. Raises as `start`."""
    server = EmbeddedValkey(state_dir, log=log, role=Role.COMMAND)
    url = await server.start()
    try:
        yield url
    finally:
        await server.stop()


async def _is_ready(server: ServerProcess, socket: Path, timeout_s: float) -> bool:
    """Whether `server` answers on its socket before it exits or `timeout_s` is over."""
    deadline = time.monotonic() + timeout_s
    while server.is_alive() and time.monotonic() < deadline:
        if await asyncio.to_thread(server_pid, socket, min(1.0, timeout_s)) == server.pid:
            return True
        await asyncio.sleep(0.005)
    return False


async def _locked(state_dir: Path, role: Role) -> int:
    """The descriptor that holds the lock; waits while a CLI command has it. Raises StateDirBusy.

    The file is not removed with the lock: two processes could then lock two files.
    """
    descriptor = os.open(state_dir / "embedded.lock", os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _COMMAND_S
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder, _, holder_role = os.pread(descriptor, 64, 0).decode(errors="replace").partition(" ")
                if holder_role == Role.SERVE or time.monotonic() > deadline:
                    raise StateDirBusy(state_dir, int(holder) if holder.isdigit() else 0) from None
            await asyncio.sleep(0.02)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()} {role}".encode(), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class _Recorded(msgspec.Struct, frozen=True):
    """The content of valkey.json."""

    pid: int
    socket: str
    role: str


def _recorded(state_dir: Path) -> _Recorded | None:
    with contextlib.suppress(OSError, ValueError):
        return msgspec.json.decode((state_dir / "valkey.json").read_bytes(), type=_Recorded)
    return None
