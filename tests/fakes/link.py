"""The network between one of our connections and whoever is at its other end, without sockets: what each side has sent
waits until the other one takes it, for as long as a test likes.

    link = Link(protocol, loop)
    link.send(b"GET / HTTP/1.1\\r\\n\\r\\n")
    link.take(1_000)
    assert link.taken == b"HTTP/1.1 200 OK\\r\\n..."
"""

from __future__ import annotations

import asyncio
from typing import Any

HIGH, LOW = 65_536, 16_384  # what a transport buffers before it says stop, and when it says go on
_PIECE = 65_536  # bytes that are read at once


class Link(asyncio.Transport):
    """What the other end sends waits while we do not read; what we send waits until the other end takes it."""

    def __init__(self, connection: asyncio.Protocol, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self.connection, self.loop = connection, loop
        self.reading, self.full, self.closing, self.ended = True, False, False, False
        self.way_in, self.way_out, self.taken = bytearray(), bytearray(), bytearray()
        self.way_in_ends = False
        self.room = 0  # bytes that the other end takes without being asked again
        self.read = 0  # bytes that we have read
        connection.connection_made(self)

    # the other end

    def send(self, data: bytes) -> None:
        self.way_in += data
        self._deliver()

    def take(self, size: int) -> None:
        self.room = size
        self._flow()

    def hang_up(self) -> None:
        """It sends nothing more, and takes what still comes."""
        self.way_in_ends = True
        self._deliver()

    def leave(self, error: Exception | None = None) -> None:
        self._end(error)

    def arrived(self, data: bytes) -> None:
        self.taken += data

    def _deliver(self) -> None:
        while self.way_in and self.reading and not self.closing:
            data = bytes(self.way_in[:_PIECE])
            del self.way_in[:_PIECE]
            self.read += len(data)
            self.connection.data_received(data)
        if self.way_in_ends and not self.way_in and self.reading and not self.closing:
            self.way_in_ends = False
            if not self.connection.eof_received():
                self.close()

    def _flow(self) -> None:
        while part := bytes(self.way_out[: self.room]):
            del self.way_out[: self.room]
            self.room -= len(part)
            self.arrived(part)
        if self.full and len(self.way_out) <= LOW:
            self.full = False
            self.connection.resume_writing()
        if self.closing and not self.way_out:
            self._end(None)

    def _end(self, error: Exception | None) -> None:
        if not self.ended:
            self.ended = self.closing = True
            self.loop.call_soon(self.connection.connection_lost, error)

    # our end

    def write(self, data: Any) -> None:
        if self.closing:
            return
        self.way_out += data
        if len(self.way_out) > HIGH and not self.full:
            self.full = True
            self.connection.pause_writing()
        self.loop.call_soon(self._flow)

    def get_write_buffer_size(self) -> int:
        return len(self.way_out)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        if not self.reading:
            self.reading = True
            self.loop.call_soon(self._deliver)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        if not self.closing:
            self.closing = True
            self.loop.call_soon(self._flow)

    def abort(self) -> None:
        self.way_out.clear()
        self._end(None)
