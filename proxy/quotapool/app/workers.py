"""Worker processes, one for each slot: started, watched, replaced within a second, drained at the end.

A worker that has not sent a heartbeat for some seconds hangs: it does not count as alive, and if that goes on, it is
killed and replaced.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from quotapool.app.worker_pipe import HEARTBEAT_S, Channel, Configure, Drain, InQueues, Message, Ready
from quotapool.domain.waiting import Waiting, added_up
from quotapool.observe import shared_values
from quotapool.observe.metrics import EXITED, HUNG

_log = structlog.get_logger()
_LONGEST_PAUSE_S: Final = 10.0
_STEADY_S: Final = 5.0
_SILENT_S: Final = 3.0  # without a heartbeat, after which a worker counts as hanging
_HUNG_S: Final = 20.0  # and after which it is killed: taking a very large configuration may block it for seconds
_NOT_STARTED_S: Final = 60.0  # the same, until it was ready for the first time
# Secrets come over the pipe, so a worker needs nothing else from the environment.
_INHERITED: Final = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "NO_COLOR", "TERM"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
)
# glibc (mallopt(3)) would raise this by itself with the first large body that is freed, and from then on keep large
# bodies among the small objects, between which their room cannot be given back.
_ALLOCATOR: Final = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "1048576"}


class Workers:
    """`count` workers on one listening socket. `on_restart` is called for each one that is replaced, with why: it hung
    (`HUNG`), or exited, by itself or by a signal that was not ours (`EXITED`)."""

    def __init__(
        self,
        count: int,
        listener: socket.socket,
        metrics_dir: Path,
        configure: Configure,
        on_restart: Callable[[str], object],
    ) -> None:
        self.listener = listener
        self.metrics_dir = metrics_dir
        self.configure = configure
        self.on_restart = on_restart
        self._slots = [_Slot(str(name), self) for name in range(count)]

    @property
    def count(self) -> int:
        """How many there should be."""
        return len(self._slots)

    @property
    def alive(self) -> int:
        """How many serve: are ready, and send heartbeats."""
        return sum(slot.is_serving for slot in self._slots)

    @property
    def pids(self) -> list[int]:
        """Of those that run, whether they serve already or not."""
        return [slot.pid for slot in self._slots if slot.is_alive]

    @property
    def all_hang(self) -> bool:
        """Whether each worker was ready and hangs now."""
        return all(slot.hangs for slot in self._slots)

    @property
    def waiting(self) -> list[Waiting]:
        """What requests of all workers wait for, as it was reported last."""
        return added_up(row for slot in self._slots for row in slot.waiting)

    async def start(self) -> None:
        """Start all and wait until each accepts connections or has failed for the first time."""
        for slot in self._slots:
            slot.start()
        await asyncio.gather(*(slot.tried.wait() for slot in self._slots))

    async def reload(self, configure: Configure) -> None:
        self.configure = configure
        await asyncio.gather(*(slot.reload() for slot in self._slots))

    async def broadcast(self, message: Message) -> None:
        """Send to all workers, and to each one that is started later; the last message of each kind counts."""
        await asyncio.gather(*(slot.send(message) for slot in self._slots))

    async def drain(self, seconds: float) -> None:
        """Let all finish; a worker that has not exited a little after `seconds` is killed."""
        await asyncio.gather(*(slot.drain(seconds) for slot in self._slots))


class _Slot:
    """Keeps one worker process running."""

    def __init__(self, name: str, workers: Workers) -> None:
        self.name = name
        self.tried = asyncio.Event()  # it became ready, or exited, for the first time
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._workers = workers
        self._latest: dict[type, Message] = {}  # what a new worker is sent after its configuration
        self._configured = False  # the configuration was sent, which must be the first message
        self._ready = False  # it accepts connections
        self._silent_s = 0.0  # since its last heartbeat
        self._killed = False  # because it hung
        self.waiting: list[Waiting] = []  # in its queues
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    @property
    def is_serving(self) -> bool:
        return self.is_alive and self._ready and self._silent_s < _SILENT_S

    @property
    def hangs(self) -> bool:
        return self.is_alive and self._ready and self._silent_s >= _SILENT_S

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep_running())

    async def _keep_running(self) -> None:
        """Run the worker; replace it when it exits. At once the first time, then more and more slowly."""
        exits = 0
        while not self._stopping:
            started = time.monotonic()
            status = await self._run_once()
            if self._stopping:
                return
            exits = 1 if time.monotonic() - started > _STEADY_S else exits + 1
            shared_values.forget_gauges(self._workers.metrics_dir, self.name)
            self._workers.on_restart(HUNG if self._killed else EXITED)
            _log.error("a worker exited and is replaced", slot=self.name, exit_status=status)
            if exits > 1:
                await asyncio.sleep(min(0.1 * 2**exits, _LONGEST_PAUSE_S))

    async def _run_once(self) -> int:
        """One process from its start to its end; its exit status."""
        ours, theirs = socket.socketpair()
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "quotapool.app.worker_process",
                self.name,
                str(theirs.fileno()),
                str(self._workers.listener.fileno()),
                pass_fds=(theirs.fileno(), self._workers.listener.fileno()),
                env=_ALLOCATOR | {name: value for name in _INHERITED if (value := os.environ.get(name)) is not None},
            )
        finally:
            theirs.close()
        ours.setblocking(False)
        self._configured = self._ready = self._killed = False
        channel = self._channel = await Channel.over(ours)
        tasks = asyncio.create_task(self._talk(channel)), asyncio.create_task(self._watch(process))
        status = await process.wait()
        self.waiting = []
        self.tried.set()
        for task in tasks:
            task.cancel()
        channel.close()
        return status

    async def _watch(self, process: asyncio.subprocess.Process) -> None:
        """Kill a worker that hangs. The time is counted in turns of our own, of which there is one and no more after
        this process itself was stopped for long."""
        self._silent_s = 0.0
        while self._silent_s < (_HUNG_S if self._ready else _NOT_STARTED_S):
            await asyncio.sleep(HEARTBEAT_S)
            self._silent_s += HEARTBEAT_S
        _log.error("a worker hangs and is killed", slot=self.name, silent_s=self._silent_s)
        self._killed = True
        process.kill()

    async def _talk(self, channel: Channel) -> None:
        with suppress(ConnectionError):
            await channel.send(self._workers.configure)
            self._configured = True
            for kind in list(self._latest):
                await channel.send(self._latest[kind])
        while (message := await channel.receive()) is not None:
            self._silent_s = 0.0
            if isinstance(message, Ready):
                self._ready = True
                self.tried.set()
            elif isinstance(message, InQueues):
                self.waiting = message.rows

    async def reload(self) -> None:
        await self._send_if_alive(self._workers.configure)

    async def send(self, message: Message) -> None:
        self._latest[type(message)] = message
        if self._configured:
            await self._send_if_alive(message)

    async def _send_if_alive(self, message: Message) -> None:
        if self._channel is not None and self.is_alive:
            with suppress(ConnectionError):
                await self._channel.send(message)

    async def drain(self, seconds: float) -> None:
        self._stopping = True
        process = self._process
        if process is not None and process.returncode is None:
            if self._ready:
                await self._send_if_alive(Drain(seconds))
                try:
                    await asyncio.wait_for(process.wait(), seconds + 3.0)
                except TimeoutError:
                    _log.warning("a worker did not exit in time and is killed", slot=self.name)
            with suppress(ProcessLookupError):
                process.kill()  # or is not ready, and serves nobody
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
