"""An upstream answer as it comes in: filled by its connection, emptied by what relays it, bounded in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, Protocol

from quotapool.openai.head import NO_LINES, Head
from quotapool.upstream.interface import Sink, UpstreamFailure

_MOST_BUFFERED: Final = 2**16  # bytes of a body that nobody has taken; then upstream has to wait


class AnswerConnection(Protocol):
    """The connection, as an answer needs it."""

    loop: asyncio.AbstractEventLoop

    def expect_by(self, deadline: float | None) -> None:
        """Fail with `timeout` if nothing comes until then (in the loop's time)."""
        ...

    def resume(self, answer: StreamedAnswer) -> None:
        """Read again: there is room."""
        ...

    def give_up(self, answer: StreamedAnswer) -> None:
        """Drop the connection: nobody wants the rest."""
        ...


class StreamedAnswer:
    """An `interface.Answer`. `begun`: status, reason and headers are here."""

    __slots__ = (
        "_between_s",
        "_complete",
        "_connection",
        "_failure",
        "_full",
        "_pieces",
        "_refused",
        "_sink",
        "_size",
        "_waiter",
        "begun",
        "headers",
        "reason",
        "status",
    )

    def __init__(self, connection: AnswerConnection, between_s: float | None) -> None:
        self._connection = connection
        self._between_s = between_s
        self._pieces: list[bytes] = []
        self._size = 0
        self._waiter: asyncio.Future[None] | None = None
        self._failure: UpstreamFailure | None = None
        self._complete = False
        self._sink: Sink | None = None  # takes what comes in, at once
        self._full: Awaitable[None] | None = None  # until the sink has room again
        self._refused: Exception | None = None  # what the sink raised
        self.begun = False
        self.status = 0
        self.reason = ""
        self.headers: Head = NO_LINES

    async def head(self, deadline: float | None) -> None:
        """Until status and headers are here. `deadline`: in the loop's time. Raises UpstreamFailure."""
        while not self.begun:
            if self._failure is not None:
                raise self._failure
            await self._wait(deadline)

    def whole(self) -> bytes | None:
        if not self._complete or self._failure is not None:
            return None
        return self._take() if self._pieces else b""

    async def chunk(self) -> bytes:
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._complete:
                return b""
            await self._wait_for_bytes()
        return self._take()

    def _take(self) -> bytes:
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._size > _MOST_BUFFERED:
            self._connection.resume(self)
        self._size = 0
        return data

    async def pour(self, sink: Sink) -> None:
        """The sink is called by the connection itself: a piece costs no turn of the loop and wakes no task."""
        self._sink = sink
        try:
            while True:
                if self._pieces:
                    self._full = sink(self._take())
                if self._full is not None:
                    await self._full
                    self._full = None
                elif self._refused is not None:
                    raise self._refused
                elif not self._pieces:
                    if self._failure is not None:
                        raise self._failure
                    if self._complete:
                        return
                    await self._wait_for_bytes()
        finally:
            self._sink = None

    def close(self) -> None:
        if not self._complete:
            self._connection.give_up(self)

    async def _wait_for_bytes(self) -> None:
        between = self._between_s
        await self._wait(None if between is None else self._connection.loop.time() + between)

    async def _wait(self, deadline: float | None) -> None:
        """Until the connection has something new. A cancelled wait loses nothing."""
        connection = self._connection
        self._waiter = connection.loop.create_future()
        connection.expect_by(deadline)
        try:
            await self._waiter
        finally:
            self._waiter = None

    # ---- for the connection

    def feed(self, data: bytes) -> bool:
        """Returns True if that is enough for now."""
        self._pieces.append(data)
        self._size += len(data)
        return self._size > _MOST_BUFFERED

    def flow(self) -> None:
        """A read is over: give what it brought to the sink, if it has room, else wake the task that waits."""
        if self._sink is None or self._full is not None or self._waiter is None:
            self.wake()
            return
        between = self._between_s
        self._connection.expect_by(None if between is None else self._connection.loop.time() + between)
        if self._pieces:
            try:
                self._full = self._sink(self._take())
            except Exception as error:  # noqa: BLE001 - it is for the caller of `pour`, not for the connection
                self._refused = error
            if self._full is not None or self._refused is not None:
                self.wake()

    def end(self, failure: UpstreamFailure | None = None) -> None:
        self._failure = failure
        self._complete = True
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
