"""An answer of the lean upstream side: filled by its connection, emptied by whoever relays it, bounded in between."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, Protocol

from multidict import CIMultiDict

from quotapool.upstream.interface import Sink, UpstreamFailure

_MOST_BUFFERED: Final = 2**18  # bytes of a body that nobody has asked for; then upstream has to wait


class Source(Protocol):
    """The connection, as an answer needs it."""

    loop: asyncio.AbstractEventLoop

    def expect_by(self, deadline: float | None) -> None:
        """Fail with `timeout` where nothing comes until then (in the loop's time)."""
        ...

    def read_on(self, answer: StreamedAnswer) -> None:
        """There is room again."""
        ...

    def give_up(self, answer: StreamedAnswer) -> None:
        """Nobody wants the rest."""
        ...


class StreamedAnswer:
    """What `http.Answer` promises. `begun`: status, reason and headers are here."""

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

    def __init__(self, connection: Source, between_s: float | None) -> None:
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
        self.headers: CIMultiDict[str] = CIMultiDict()

    async def head(self, deadline: float | None) -> None:
        """Until status and headers are here. `deadline`: in the loop's time. Raises UpstreamFailure."""
        while not self.begun:
            if self._failure is not None:
                raise self._failure
            await self._wait(deadline)

    async def chunk(self) -> bytes:
        while not self._pieces:
            if self._failure is not None:
                raise self._failure
            if self._complete:
                return b""
            between = self._between_s
            await self._wait(None if between is None else self._connection.loop.time() + between)
        return self._take()

    def _take(self) -> bytes:
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._size > _MOST_BUFFERED:
            self._connection.read_on(self)
        self._size = 0
        return data

    async def pour(self, sink: Sink) -> None:
        """The sink is called by the connection itself: a piece costs no turn of the loop and wakes no task."""
        self._sink, between = sink, self._between_s
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
                    await self._wait(None if between is None else self._connection.loop.time() + between)
        finally:
            self._sink = None

    def close(self) -> None:
        if not self._complete:
            self._connection.give_up(self)

    async def _wait(self, deadline: float | None) -> None:
        """Until the connection has news. A cancelled wait loses none of them."""
        connection = self._connection
        self._waiter = connection.loop.create_future()
        connection.expect_by(deadline)
        try:
            await self._waiter
        finally:
            self._waiter = None

    # ---- for the connection

    def feed(self, data: bytes) -> bool:
        """True: enough for now."""
        self._pieces.append(data)
        self._size += len(data)
        return self._size > _MOST_BUFFERED

    def flow(self) -> None:
        """What came in may go on: to the sink, if it has room, else to whoever asks."""
        if self._sink is None or self._full is not None or self._waiter is None:
            self.wake()
            return
        self._connection.expect_by(None if self._between_s is None else self._connection.loop.time() + self._between_s)
        if self._pieces:
            try:
                self._full = self._sink(self._take())
            except Exception as error:  # noqa: BLE001 - it is for whoever pours, not for the connection
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
