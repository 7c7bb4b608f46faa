"""An answer of upstream while it comes in: kept for the store, and read by those who asked the same meanwhile.

Each reader gets it from the beginning, at its own pace. As long as it may still be kept whole, nobody waits for
anybody: all of it stays in memory, at most `most` bytes. A longer one takes no more readers, and none who need it as a
whole; whoever adds to it waits for the slowest of those it has, once that one is `most` bytes behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

from quotapool.cache.entry import Cost
from quotapool.cache.store import Found
from quotapool.openai.replay import Form

_Waiting = set[asyncio.Future[None]]


class End(Enum):
    """How a recording ended. ABANDONED: without anything that others could have."""

    WHOLE = "whole"
    CUT = "cut"
    ABANDONED = "abandoned"


class Recording:
    """`begin` it with an answer's head, `add` its body, then `end` it, once. `sender`: the client that asked, and the
    text that it sent."""

    __slots__ = (
        *("_afterwards", "_dropped", "_for_end", "_for_more", "_for_readers", "_most", "_whole"),
        *("content_type", "cost", "deserted", "ended", "form", "found", "headers", "pieces", "readers", "sender"),
        *("size", "status", "too_long"),
    )

    def __init__(self, most: int, sender: tuple[str, bytes] = ("", b"")) -> None:
        self.sender = sender
        self.status = 0  # 0: it has not begun
        self.content_type = ""
        self.headers: list[tuple[bytes, bytes]] = []  # that others get too
        self.form = Form.JSON
        self.pieces: list[bytes] = []
        self.size = 0
        self.ended: End | None = None
        self.found: Found | None = None  # nobody needed to ask upstream
        self.cost = Cost()  # known when it ends
        self.readers: set[Reader] = set()
        self.deserted: Callable[[], object] | None = None  # called when its last reader leaves
        self.too_long: Callable[[], object] = lambda: None  # called when it becomes so
        self._most = most
        self._dropped = 0  # pieces that all have read, of a long answer
        self._whole: bytes | None = None  # all pieces in one, once somebody has asked for it
        self._for_more: _Waiting = set()
        self._for_end: _Waiting = set()
        self._for_readers: _Waiting = set()
        self._afterwards: list[Callable[[], object]] = []

    @property
    def is_long(self) -> bool:
        """It has become too long to be kept, or to be read from its beginning."""
        return self.size > self._most

    @property
    def takes_readers(self) -> bool:
        """Who begins to read it now gets all of it."""
        return not self.is_long and self.ended in {None, End.WHOLE}

    def begin(self, status: int, content_type: str) -> None:
        self.status, self.content_type = status, content_type
        self.form = Form.EVENTS if content_type.startswith("text/event-stream") else Form.JSON
        _tell(self._for_more)

    def add(self, piece: bytes) -> Awaitable[None] | None:
        """What comes back is to be awaited before more is added: the answer is long, and others read it."""
        was_long = self.is_long
        self.size += len(piece)
        if self.is_long:
            if not was_long:
                self.too_long()
                _tell(self._for_end)
            if not self.readers:
                self.pieces.clear()
                return None
        if piece:
            self.pieces.append(piece)
            _tell(self._for_more)
        return self._slowest() if self.is_long else None

    def end(self, how: End) -> None:
        if self.ended is None:
            self.ended = how
            _tell(self._for_more)
            _tell(self._for_end)
            for afterwards in self._afterwards:
                afterwards()

    def afterwards(self, do: Callable[[], object]) -> None:
        """Call `do` when it has ended: now, or later."""
        if self.ended is None:
            self._afterwards.append(do)
        else:
            do()

    def body(self) -> bytes:
        """All of it, once it is whole; b"" if it was too long."""
        if self._whole is None:
            self._whole = b"" if self.is_long else b"".join(self.pieces)
        return self._whole

    def reader(self) -> Reader:
        """One more who gets all of it. `close` it."""
        reader = Reader(self)
        self.readers.add(reader)
        if len(self.readers) == 1:
            _tell(self._for_readers)
        return reader

    async def _slowest(self) -> None:
        while self.readers and self.size - min([reader.had for reader in self.readers]) > self._most:
            await self.readers_move()
        taken = min([reader.at for reader in self.readers], default=self._dropped + len(self.pieces))
        del self.pieces[: taken - self._dropped]
        self._dropped = taken

    def piece(self, at: int) -> bytes:
        """The piece of this number; b"" if it has not come yet."""
        index = at - self._dropped
        return self.pieces[index] if index < len(self.pieces) else b""

    async def goes_on(self) -> None:
        """Wait for its head, the next piece or the end."""
        await _told(self._for_more)

    async def is_over(self) -> None:
        """Wait until it has ended, or become too long."""
        if self.ended is None and not self.is_long:
            await _told(self._for_end)

    async def readers_move(self) -> None:
        """Wait for the first reader; or, of a long answer, until one gets on or leaves."""
        await _told(self._for_readers)

    def moved(self) -> None:
        """A reader got on, or left."""
        if self.is_long:
            _tell(self._for_readers)


async def _told(waiting: _Waiting) -> None:
    told = asyncio.get_running_loop().create_future()
    waiting.add(told)
    try:
        await told
    finally:
        waiting.discard(told)


def _tell(waiting: _Waiting) -> None:
    for told in waiting:
        if not told.done():
            told.set_result(None)
    waiting.clear()


class Reader:
    """Reads a recording from its beginning. `at`, `had`: how many pieces it has had, and how many bytes."""

    __slots__ = ("_recording", "at", "had")

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.at = self.had = 0

    async def begins(self) -> bool:
        """Wait for its head; False: it ended without one."""
        recording = self._recording
        while not recording.status and recording.ended is None:
            await recording.goes_on()
        return recording.status != 0

    async def piece(self) -> bytes:
        """The next piece, waited for; b"" at the end, whatever that is."""
        recording = self._recording
        while not (piece := recording.piece(self.at)):
            if recording.ended is not None:
                return b""
            await recording.goes_on()
        self.at += 1
        self.had += len(piece)
        recording.moved()
        return piece

    async def whole(self) -> bytes | None:
        """All of it, waited for, the same object for each reader. None: it did not end well, or is too long."""
        recording = self._recording
        await recording.is_over()
        return recording.body() if recording.ended is End.WHOLE and not recording.is_long else None

    def close(self) -> None:
        recording = self._recording
        recording.readers.discard(self)
        recording.moved()
        if recording.deserted is not None and not recording.readers:
            recording.deserted()
