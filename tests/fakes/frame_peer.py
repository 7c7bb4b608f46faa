"""One end of a WebSocket on a `Link`: its bytes go out in pieces as a test wants them, what it hears is read by hand,
and like any library it answers pings and closes by itself."""

from __future__ import annotations

import asyncio

from tests.fakes.link import Link
from tests.fakes.sessions import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, frame_of, mask
from tests.fakes.wire import parse_head

ALL = 10**9
Said = tuple[int, bytes]  # opcode and payload


class FramePeer(Link):
    """`masks`: it is a client. `says` goes behind what is still unsent; `push` sends some of that."""

    def __init__(self, connection: asyncio.Protocol, loop: asyncio.AbstractEventLoop, *, masks: bool) -> None:
        self.masks = masks
        self.unsent = bytearray()
        self.queued = 0  # bytes, all in all
        self.said: list[tuple[int, Said]] = []  # messages, and where in all of its bytes each ends
        self.pings: list[tuple[int, bytes]] = []  # as `said`
        self.heard: list[Said] = []
        self.pongs: list[bytes] = []
        self.got = 0  # bytes
        self.start, self.fields = "", list[tuple[str, str]]()  # of the head that it was sent
        self.closed: bytes | None = None  # the payload of the close frame that it was sent
        self.ends = ""  # how it has ended the session itself
        self.is_done = False  # it says no more
        self.is_silent = False
        super().__init__(connection, loop)
        self.room = ALL

    # what it says

    def queue(self, data: bytes) -> None:
        if not self.is_silent:
            self.unsent += data
            self.queued += len(data)

    def push(self, size: int) -> None:
        part = bytes(self.unsent[:size])
        del self.unsent[:size]
        if part:
            self.send(part)

    def frame(self, opcode: int, payload: bytes, *, final: bool = True) -> bytes:
        return frame_of(opcode, payload, final=final, masks=self.masks)

    def says(self, opcode: int, payload: bytes, fragments: int, *, pings: bool) -> None:
        """A message, in so many frames, with pings between them."""
        size = len(payload) // fragments + 1
        parts = [payload[n * size : (n + 1) * size] for n in range(fragments)]
        for n, part in enumerate(parts):
            final = n == fragments - 1
            self.queue(self.frame(opcode if n == 0 else CONTINUATION, part, final=final))
            if pings and not final:
                self.asks(b"%d" % n)
        self.said.append((self.queued, (opcode, payload)))

    def asks(self, payload: bytes) -> None:
        self.queue(self.frame(PING, payload))
        self.pings.append((self.queued, payload))

    def closes(self, payload: bytes) -> None:
        self.queue(self.frame(CLOSE, payload))
        self.ends, self.is_done = "close", True

    def breaks(self, frame: bytes) -> None:
        """Say what is no frame, behind which nothing can be understood."""
        self.queue(frame)
        self.ends, self.is_done = "broken", True

    @property
    def sent(self) -> int:
        return self.queued - len(self.unsent)

    @property
    def said_whole(self) -> list[Said]:
        """The messages whose last byte has gone out."""
        return [message for end, message in self.said if end <= self.sent]

    @property
    def asked(self) -> list[bytes]:
        return [payload for end, payload in self.pings if end <= self.sent]

    def hang_up(self) -> None:
        self._drop_unsent()
        self.ends, self.is_done = "hang up", True
        super().hang_up()

    def fall_silent(self) -> None:
        """As one whose network is gone: from now on nothing comes from it, and nothing reaches it."""
        self._drop_unsent()
        self.ends, self.is_done = "silence", True
        self.is_silent, self.room = True, 0

    def leave(self, error: Exception | None = None) -> None:
        self.fall_silent()
        self.ends = "leave"
        super().leave(error)

    def _drop_unsent(self) -> None:
        self.queued -= len(self.unsent)
        self.unsent.clear()

    # what it hears

    def take(self, size: int) -> None:
        super().take(0 if self.is_silent else size)

    def arrived(self, data: bytes) -> None:
        self.got += len(data)
        self.taken += data
        if not self.start:
            head, end, rest = self.taken.partition(b"\r\n\r\n")
            if not end:
                return
            self.start, self.fields = parse_head(bytes(head + end))
            self.taken = rest
            self.head_came()
        if self.is_open:
            while (found := self._frame_in(self.taken)) is not None:
                self._hear(*found)

    def head_came(self) -> None:
        """`start` and `fields` are there."""

    @property
    def is_open(self) -> bool:
        """Whether what comes behind the head is frames."""
        return True

    def field(self, name: str) -> str:
        return next((value for known, value in self.fields if known.lower() == name.lower()), "")

    def _frame_in(self, data: bytearray) -> tuple[int, bytes] | None:
        """Take the first frame out of `data`, if it is whole."""
        if len(data) < 2:
            return None
        size, at = data[1] & 0x7F, 2
        if size > 125:
            at = 4 if size == 126 else 10
            if len(data) < at:
                return None
            size = int.from_bytes(data[2:at], "big")
        masked = data[1] & 0x80
        assert bool(masked) is not self.masks, "clients mask, servers do not"
        end = at + size + (4 if masked else 0)
        if len(data) < end:
            return None
        payload = mask(bytes(data[at : at + 4]), bytes(data[at + 4 : end])) if masked else bytes(data[at:end])
        assert data[0] & 0xF0 == 0x80, "the proxy sends whole messages, without extensions"
        opcode = data[0] & 0x0F
        del data[:end]
        return opcode, payload

    def _hear(self, opcode: int, payload: bytes) -> None:
        assert self.closed is None, "nothing comes behind a close"
        if opcode == PING:
            self._answer(PONG, payload)
        elif opcode == PONG:
            self.pongs.append(payload)
        elif opcode == CLOSE:
            self.closed = payload
            self._answer(CLOSE, payload)
        else:
            assert opcode in {TEXT, BINARY}
            self.heard.append((opcode, payload))

    def _answer(self, opcode: int, payload: bytes) -> None:
        """Behind what it has begun to say; nothing behind its own close."""
        if not self.is_done:
            is_free, self.is_done = not self.unsent, opcode == CLOSE
            self.queue(self.frame(opcode, payload))
            if is_free:
                self.push(ALL)
