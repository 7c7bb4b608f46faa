"""An answer of upstream while it comes in: kept for the store, and read by those who asked the same meanwhile.

Each reader gets it from the beginning, at its own pace. As long as it may still be kept whole, nobody waits for
anybody: all of it stays in memory, at most `most` bytes. A longer one takes no more readers, and whoever adds to it
waits for the slowest of those it has, once that one is `most` bytes behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum

from quotapool.cache.entry import Cost
from quotapool.cache.store import Found
from quotapool.openai.replay import Form


class End(Enum):
    """How a recording ended. ABANDONED: without anything that others could have."""

    WHOLE = "whole"
    CUT = "cut"
    ABANDONED = "abandoned"


class Recording:
    """`begin` it with an answer's head, `add` its body, then `end` it, once."""

    __slots__ = (
        *("_dropped", "_most", "_waiting", "content_type", "cost", "deserted", "ended", "form", "found", "headers"),
        *("pieces", "readers", "size", "status"),
    )

    def __init__(self, most: int) -> None:
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
        self._most = most
        self._dropped = 0  # pieces that all have read, of a long answer
        self._waiting: list[asyncio.Future[None]] = []

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
        self._changed()

    def add(self, piece: bytes) -> Awaitable[None] | None:
        """What comes back is to be awaited before more is added."""
        self.size += len(piece)
        if not piece:
            return None
        if self.size <= self._most:
            self.pieces.append(piece)
        elif self.readers:
            self.pieces.append(piece)
            self._changed()
            return self._slowest()
        else:
            self.pieces.clear()
            return None
        if self._waiting:
            self._changed()
        return None

    def end(self, how: End) -> None:
        if self.ended is None:
            self.ended = how
            self._changed()

    def body(self) -> bytes:
        """All of it; b"" if it was too long."""
        return b"" if self.is_long else b"".join(self.pieces)

    def reader(self) -> Reader:
        """One more who gets all of it. `close` it."""
        reader = Reader(self)
        self.readers.add(reader)
        self._changed()
        return reader

    async def _slowest(self) -> None:
        while self._behind() > self._most:
            await self.changes()
        taken = min((reader.at for reader in self.readers), default=self._dropped + len(self.pieces))
        del self.pieces[: taken - self._dropped]
        self._dropped = taken

    def _behind(self) -> int:
        if not self.readers:
            return 0
        slowest = min(reader.at for reader in self.readers) - self._dropped
        return sum(map(len, self.pieces[slowest:]))

    def piece(self, at: int) -> bytes:
        """The piece of this number; b"" if it has not come yet."""
        index = at - self._dropped
        return self.pieces[index] if index < len(self.pieces) else b""

    async def changes(self) -> None:
        """Wait for the next piece, the end, or a reader who came, got on or left."""
        change = asyncio.get_running_loop().create_future()
        self._waiting.append(change)
        await change

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for change in waiting:
            if not change.done():
                change.set_result(None)

    def moved(self) -> None:
        """A reader got on, or left."""
        if self.is_long:
            self._changed()


class Reader:
    """Reads a recording from its beginning. `at`: how many pieces it has had."""

    __slots__ = ("_recording", "at")

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.at = 0

    async def begins(self) -> bool:
        """Wait for its head; False: it ended without one."""
        recording = self._recording
        while not recording.status and recording.ended is None:
            await recording.changes()
        return recording.status != 0

    async def piece(self) -> bytes:
        """The next piece, waited for; b"" at the end, whatever that is."""
        recording = self._recording
        while not (piece := recording.piece(self.at)):
            if recording.ended is not None:
                return b""
            await recording.changes()
        self.at += 1
        recording.moved()
        return piece

    async def rest(self) -> bytes:
        """All pieces to its end, waited for."""
        pieces = []
        while piece := await self.piece():
            pieces.append(piece)
        return b"".join(pieces)

    def close(self) -> None:
        recording = self._recording
        recording.readers.discard(self)
        recording.moved()
        if recording.deserted is not None and not recording.readers:
            recording.deserted()
