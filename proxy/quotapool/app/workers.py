"""The crew: worker processes, one a slot, started, watched, replaced within a second, drained at the end."""

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

from quotapool.app.worker_pipe import Channel, Configure, Drain, Message, Ready
from quotapool.observe import shared_values

_log = structlog.get_logger()
_LONGEST_PAUSE_S: Final = 10.0
_STEADY_S: Final = 5.0
# Secrets come over the pipe, so a worker needs nothing of the environment but this.
_INHERITED: Final = (
    *("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "NO_COLOR", "TERM"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH"),
)


class Workers:
    """`count` workers on one listening socket. `on_restart` is told of each one that died and was replaced."""

    def __init__(
        self,
        count: int,
        listener: socket.socket,
        metrics_dir: Path,
        configure: Configure,
        on_restart: Callable[[], None],
    ) -> None:
        self._members = [_Member(str(slot), listener, metrics_dir, on_restart) for slot in range(count)]
        self._configure = configure

    @property
    def ready(self) -> bool:
        return all(member.ready.is_set() for member in self._members)

    @property
    def alive(self) -> int:
        return sum(member.is_alive for member in self._members)

    @property
    def pids(self) -> list[int]:
        return [member.process.pid for member in self._members if member.process is not None]

    async def start(self) -> None:
        """Start all and wait until each accepts connections or has failed for the first time."""
        for member in self._members:
            member.begin(self._configure)
        await asyncio.gather(*(member.first_try.wait() for member in self._members))

    async def reload(self, configure: Configure) -> None:
        self._configure = configure
        await asyncio.gather(*(member.reload(configure) for member in self._members))

    async def tell(self, message: Message) -> None:
        """Tell all workers, and each one that is born later; the last message of each kind stands."""
        await asyncio.gather(*(member.tell(message) for member in self._members))

    async def drain(self, seconds: float) -> None:
        """Let all finish; whoever has not after `seconds` and a little is killed."""
        await asyncio.gather(*(member.drain(seconds) for member in self._members))


class _Member:
    def __init__(self, slot: str, listener: socket.socket, metrics_dir: Path, on_restart: Callable[[], None]) -> None:
        self.slot = slot
        self.process: asyncio.subprocess.Process | None = None
        self.ready = asyncio.Event()
        self.first_try = asyncio.Event()
        self._listener = listener
        self._metrics_dir = metrics_dir
        self._on_restart = on_restart
        self._configure: Configure | None = None
        self._standing: dict[type, Message] = {}  # what a newborn worker is told after its configuration
        self._introduced = False  # has its configuration, which must come first
        self._channel: Channel | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def begin(self, configure: Configure) -> None:
        self._configure = configure
        self._task = asyncio.create_task(self._keep())

    async def _keep(self) -> None:
        """Run the worker; replace it when it dies. At once the first time, then ever more slowly."""
        deaths = 0
        while not self._stopping:
            born = time.monotonic()
            status = await self._live()
            if self._stopping:
                return
            deaths = 1 if time.monotonic() - born > _STEADY_S else deaths + 1
            shared_values.forget_gauges(self._metrics_dir, self.slot)
            self._on_restart()
            _log.error("a worker died and is replaced", slot=self.slot, exit_status=status)
            if deaths > 1:
                await asyncio.sleep(min(0.1 * 2**deaths, _LONGEST_PAUSE_S))

    async def _live(self) -> int:
        ours, theirs = socket.socketpair()
        try:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "quotapool.app.worker",
                self.slot,
                str(theirs.fileno()),
                str(self._listener.fileno()),
                pass_fds=(theirs.fileno(), self._listener.fileno()),
                env={name: value for name in _INHERITED if (value := os.environ.get(name)) is not None},
            )
        finally:
            theirs.close()
        ours.setblocking(False)
        self._introduced = False
        self._channel = await Channel.over(ours)
        hearing = asyncio.create_task(self._hear(self._channel))
        status = await self.process.wait()
        self.ready.clear()
        self.first_try.set()
        hearing.cancel()
        self._channel.close()
        return status

    async def _hear(self, channel: Channel) -> None:
        if self._configure is None:
            return
        with suppress(ConnectionError):
            await channel.send(self._configure)
            self._introduced = True
            for kind in list(self._standing):
                await channel.send(self._standing[kind])
        while isinstance(await channel.receive(), Ready):
            self.ready.set()
            self.first_try.set()

    async def reload(self, configure: Configure) -> None:
        self._configure = configure
        if self._channel is not None and self.is_alive:
            with suppress(ConnectionError):
                await self._channel.send(configure)

    async def tell(self, message: Message) -> None:
        self._standing[type(message)] = message
        if self._channel is not None and self._introduced and self.is_alive:
            with suppress(ConnectionError):
                await self._channel.send(message)

    async def drain(self, seconds: float) -> None:
        self._stopping = True
        if self.process is not None and self.process.returncode is None:
            if self._channel is not None:
                with suppress(ConnectionError):
                    await self._channel.send(Drain(seconds))
            try:
                await asyncio.wait_for(self.process.wait(), seconds + 3.0)
            except TimeoutError:
                _log.warning("a worker did not end in time and is killed", slot=self.slot)
                self.process.kill()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
