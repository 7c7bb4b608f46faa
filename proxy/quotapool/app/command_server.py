"""Tells commands the settings in force, over the socket of `command_socket.py`. Never waits for a caller for long."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import structlog

from quotapool import __version__
from quotapool.app.command_socket import (
    FILE,
    STARTING,
    STOPPING,
    Head,
    NotAllowed,
    Silent,
    ask,
    given_in,
    listening,
    may_ask,
)
from quotapool.settings import Settings, to_wire, waiting_for_restart
from quotapool.store.address import parse

_log = structlog.get_logger()
_AT_ONCE: Final = 8  # callers; others wait in the kernel's queue
_CALLER_S: Final = 5.0  # in which a caller has to take its answer
_LOOK_S: Final = 2.0  # for another proxy on the same state_dir
_WATCH_S: Final = 5.0
_TOLD_S: Final = 10.0  # for which an answer is kept for the next caller


@dataclass(frozen=True, slots=True)
class _Opened:
    """A socket, which file it is, and who accepts its callers."""

    socket: socket.socket
    file: tuple[int, int] | None
    accepting: asyncio.Task[None]


class CommandServer:
    """That of one proxy. `open`, `ready` once there is something to tell, `stopping`, `close`."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._file = state_dir / FILE
        self._opened: _Opened | None = None
        self._problem = ""  # that was logged last
        self._phase = STARTING
        self._settings_now: Callable[[], Settings] | None = None
        self._started_with: Settings | None = None
        self._store_url = ""
        self._told: tuple[Settings, bytes] | None = None  # the last that were told, and as an answer, for a moment
        self._environment = given_in(os.environ)
        self._telling = asyncio.Lock()
        self._free = asyncio.Semaphore(_AT_ONCE)
        self._watching: asyncio.Task[None] | None = None
        self._callers: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Answer from now on. A proxy serves without it, so what is wrong is only logged, and tried again."""
        await self._open()
        self._watching = asyncio.create_task(self._watch())

    def ready(self, settings_now: Callable[[], Settings], started_with: Settings, store_url: str) -> None:
        """`settings_now`: the configuration of the moment, without the store's keys; of `started_with` what needs a
        restart is in force."""
        self._settings_now, self._started_with, self._store_url = settings_now, started_with, store_url
        self._phase = ""

    def stopping(self) -> None:
        """There is nothing to tell any more; commands wait for the end."""
        self._phase = STOPPING

    async def close(self) -> None:
        tasks = {*self._callers, *([self._watching] if self._watching else [])}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._close()

    async def _open(self) -> None:
        try:
            other = await asyncio.to_thread(_other, self._state_dir)
            if other is None:
                sock = listening(self._state_dir)
                self._opened = _Opened(sock, _identity(self._file), asyncio.create_task(self._accept(sock)))
        except OSError as error:
            self._log_once(f"commands cannot find this proxy: {self._file}: {error.strerror or error}")
        else:
            if other is not None:
                self._log_once(f"another proxy runs on {self._state_dir}, so commands find that one: process {other}")

    async def _watch(self) -> None:
        """Have the socket once another proxy has ended, and again if somebody removed it."""
        while True:
            await asyncio.sleep(_WATCH_S)
            if self._opened is None or _identity(self._file) != self._opened.file:
                await self._close()
                await self._open()

    async def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is None:
            return
        opened.accepting.cancel()
        if _identity(self._file) == opened.file:  # else it is another proxy's
            with contextlib.suppress(OSError):
                self._file.unlink()
        await asyncio.gather(opened.accepting, return_exceptions=True)
        opened.socket.close()

    def _log_once(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            _log.warning(problem)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._free.acquire()
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError:  # no more file descriptors, for now
                self._free.release()
                await asyncio.sleep(1.0)
                continue
            caller = asyncio.create_task(self._answer(connection))
            self._callers.add(caller)
            caller.add_done_callback(self._callers.discard)

    async def _answer(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.setblocking(False)
                if may_ask(connection):
                    text = await self._text()
                    async with asyncio.timeout(_CALLER_S):
                        await asyncio.get_running_loop().sock_sendall(connection, text)
            except (OSError, TimeoutError):
                pass  # it has gone, or does not read
            finally:
                self._free.release()

    async def _text(self) -> bytes:
        if self._phase or self._settings_now is None or self._started_with is None:
            return _line(Head(os.getpid(), __version__, self._phase, str(self._state_dir)))
        async with self._telling:  # in a thread: a large pool has megabytes of keys
            settings = self._settings_now()
            if self._told is None or self._told[0] is not settings:
                self._told = settings, await asyncio.to_thread(self._all_of, settings, self._started_with)
                asyncio.get_running_loop().call_later(_TOLD_S, self._forget)
            return self._told[1]

    def _forget(self) -> None:
        self._told = None

    def _all_of(self, settings: Settings, started: Settings) -> bytes:
        origin = settings.origin
        waiting = waiting_for_restart(started, settings)
        in_force = settings.model_copy(update={name: getattr(started, name) for name in waiting})
        wire = to_wire(in_force)
        head = Head(
            pid=os.getpid(),
            release=__version__,
            phase="",
            state_dir=str(self._state_dir),
            listen=str(started.listen),
            admin_listen=str(started.admin_listen),
            pool=started.pool,
            store=parse(started.redis.get_secret_value()).describe() if started.redis else "",
            embedded_url="" if started.redis else self._store_url,
            environment=self._environment,
            places=dict(origin.places),
            warnings=origin.warnings,
            loaded_at=origin.loaded_at,
            settings_bytes=len(wire),
        )
        return _line(head) + wire


def _line(head: Head) -> bytes:
    return msgspec.json.encode(head) + b"\n"


def _other(state_dir: Path) -> int | None:
    """The process id of another proxy on this state_dir; 0: unknown."""
    try:
        answer = ask(state_dir, with_settings=False, patience_s=_LOOK_S)
    except NotAllowed:
        return None  # it cannot be replaced either, which the caller will see
    except Silent as silent:
        return silent.pid
    return answer.head.pid if answer is not None else None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
