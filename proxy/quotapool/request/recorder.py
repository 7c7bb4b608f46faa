"""The client's side of a request whose answer is recorded: for the client as ever, and for those who read along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Final

from quotapool.cache.recording import End, Recording
from quotapool.openai.head import Head, Header
from quotapool.openai.replay import Replay
from quotapool.request.relay import Downstream

HEADER: Final = b"x-quotapool-cache"
_SHARED: Final = frozenset({b"retry-after", b"retry-after-ms", b"x-should-retry"})  # of an error


class Recorder:
    """Goes between an attempt and `down`. `recording` None: only the header `result` is added.

    `replay` makes what the client asked for of what upstream sends; None: they are the same. While others read along,
    nobody waits for this client, unless the answer is long, and when it leaves the rest is recorded for them.
    """

    def __init__(self, down: Downstream, result: str, recording: Recording | None, replay: Replay | None) -> None:
        self._down = down
        self.result = result
        self._recording = recording
        self._replay = replay
        self._ending: asyncio.Task[None] | None = None
        self.is_whole = False
        self.encoded = False  # although it was asked for plain bytes
        self.left = False  # its client is gone
        self.method: str = down.method
        self.target: str = down.target
        self.headers: Head = down.headers
        self.started = False
        self.read = down.read
        self.stream: Callable[[], AsyncIterator[bytes]] = down.stream

    @property
    def address(self) -> str:
        return self._down.address

    def _is_shared(self) -> bool:
        return self._recording is not None and len(self._recording.readers) > 0

    def reply(
        self, status: int, reason: str, headers: Sequence[Header], length: int | None, body: bytes
    ) -> Awaitable[None] | None:
        self._begin(status, headers)
        if self._recording is not None:
            self._recording.add(body)
        self.is_whole = True
        if self.left:
            return None
        full = self._down.reply(status, reason, [*headers, (HEADER, self.result.encode())], length, body)
        return None if full is None else self._taken(full)

    async def start(self, status: int, reason: str, headers: Sequence[Header], length: int | None) -> None:
        self._begin(status, headers)
        if not self.left:
            await self._down.start(status, reason, [*headers, (HEADER, self.result.encode())], length)

    def _begin(self, status: int, headers: Sequence[Header]) -> None:
        self.started = True
        if self._recording is None:
            return
        content_type = ""
        for name, value in headers:
            lower = name.lower()
            if lower == b"content-type":
                content_type = value.decode("latin-1")
            elif lower == b"content-encoding":
                self.encoded = True
            elif lower in _SHARED and status >= 400:
                self._recording.headers.append((name, value))
        self._recording.begin(status, content_type)

    async def write(self, data: bytes) -> None:
        if (full := self.put(data)) is not None:
            await full

    def put(self, data: bytes) -> Awaitable[None] | None:
        if not data:
            return None
        others = self._recording.add(data) if self._recording is not None else None
        full = None
        if not self.left:
            try:
                full = self._down.put(data if self._replay is None else self._replay.feed(data))
            except ConnectionResetError:
                self.left = True
        if self.left and not self._is_shared():
            raise ConnectionResetError("nobody is left to read this")
        if others is not None:
            return others if full is None else _both(others, full)
        return None if full is None or self._is_shared() else self._taken(full)

    async def _taken(self, full: Awaitable[None]) -> None:
        """Wait until its client has taken enough, or others read along, who must not be held up by it."""
        recording = self._recording
        if recording is None:
            await full
            return
        taking = asyncio.ensure_future(full)
        while not taking.done() and not recording.readers:
            change = asyncio.ensure_future(recording.readers_move())
            try:
                await asyncio.wait({taking, change}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                change.cancel()

    async def finish(self) -> None:
        self.is_whole = True
        if self.left:
            return
        if self._recording is None:
            await self._finish()
        else:
            self._ending = asyncio.get_running_loop().create_task(self._finish())
            await self._taken(self._ending)

    async def _finish(self) -> None:
        if self._replay is not None and (rest := self._replay.finish()):
            await self._down.write(rest)
        await self._down.finish()

    async def finished(self) -> None:
        """Wait until its own client has all of it."""
        if self._ending is not None:
            await self._ending

    def cut(self) -> None:
        if self._recording is not None:
            self._recording.end(End.CUT)
        if not self.left:
            self._down.cut()


async def _both(one: Awaitable[None], other: Awaitable[None]) -> None:
    await one
    await other
