"""An answer of the lean upstream side: filled by its connection, emptied by whoever relays it, bounded in between."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from multidict import CIMultiDict

from proxy.upstream.http import UpstreamFailure

_MOST_BUFFERED: Final = 2**18  # bytes of a body that nobody has asked for; then upstream has to wait


class Source(Protocol):
    """The connection, as an answer needs it."""

    loop: asyncio.AbstractEventLoop

    def expect_by(self, deadline: float | None) -> None:
        """Fail with `timeout` where nothing comes until then (in the loop's time)."""
        ...

    def read_on(self, answer: LeanAnswer) -> None:
        """There is room again."""
        ...

    def give_up(self, answer: LeanAnswer) -> None:
        """Nobody wants the rest."""
        ...


class LeanAnswer:
    """What `http.Answer` promises. `begun`: status, reason and headers are here."""

    __slots__ = (
        "_between_s",
        "_complete",
        "_connection",
        "_failure",
        "_pieces",
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
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        if self._size > _MOST_BUFFERED:
            self._connection.read_on(self)
        self._size = 0
        return data

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

    def end(self, failure: UpstreamFailure | None = None) -> None:
        self._failure = failure
        self._complete = True
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
