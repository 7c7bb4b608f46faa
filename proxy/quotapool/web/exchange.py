"""One request and its answer on a client's connection: its body as it comes in, its answer framed by hand."""

from __future__ import annotations

import asyncio
import functools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from http import HTTPStatus
from typing import Final, Protocol

from quotapool.openai import replies
from quotapool.openai.head import Head, Header
from quotapool.openai.headers import encode_headers
from quotapool.openai.refusal import Refusal
from quotapool.openai.replies import ProxyError

_NO_BODY: Final = frozenset({204, 304})
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus}
_LAST_CHUNK: Final = b"0\r\n\r\n"
_COPIED: Final = 65_536  # bytes up to which a copy is cheaper than a second buffer
_MOST_BUFFERED: Final = 262_144  # bytes of a body that wait for their reader; then the client has to wait
PACE: Final = 1024  # bytes a second, of a body or an answer, at which a slow client keeps its place


class ExchangeConnection(Protocol):
    """The connection under an exchange, as the exchange needs it."""

    lost: bool
    loop: asyncio.AbstractEventLoop
    drained: asyncio.Future[None] | None  # done once the client takes more; None: it does
    deadline: float  # by which more of the body must have come, in the loop's time
    now: Callable[[], float]

    @property
    def client_s(self) -> float:
        """How long a body may pause."""
        ...

    @property
    def address(self) -> str:
        """Where the client is; "": a Unix socket."""
        ...

    def send(self, data: bytes) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def abort(self) -> None: ...


class Exchange:
    """The client's side of one request (`relay.Downstream`)."""

    __slots__ = (
        "_buffered",
        "_chunked",
        "_connection",
        "_expects",
        "_head",
        "_left",
        "_modern",
        "_patience_s",
        "_pieces",
        "_waiter",
        "complete",
        "fault",
        "headers",
        "id",
        "keep_alive",
        "length",
        "method",
        "started",
        "started_at",
        "target",
        "was_cut",
    )

    def __init__(
        self,
        connection: ExchangeConnection,
        method: str,
        target: str,
        headers: Head,
        *,
        modern: bool,
        keep_alive: bool,
    ) -> None:
        """`modern`: the client speaks HTTP/1.1, so it understands chunks and 100-continue."""
        self.method = method
        self.target = target
        self.headers = headers
        self.id = ""  # our request id, once it has one
        self.started = False
        self.started_at: float | None = None
        self.keep_alive = keep_alive
        self.was_cut = False
        self.fault: ProxyError | None = None  # the body is broken, or did not come in time
        self.complete = False  # the whole body has arrived
        length = headers.first.get("content-length")
        self.length = None if length is None else int(length)
        self._connection = connection
        self._modern = modern
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._waiter: asyncio.Future[None] | None = None
        self._patience_s = math.inf  # how much longer the body may pause
        self._expects = "expect" in headers.first and headers["expect"].lower() == "100-continue"
        self._head: bytes | None = None  # to be sent with the first bytes of the body
        self._chunked = False
        self._left: int | None = 0  # bytes that the answer still promises; None: they are not counted

    # ---- fed by the connection

    def feed(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._buffered += len(piece)
        if self._buffered > _MOST_BUFFERED:
            self._connection.pause_reading()
        if self._waiter is not None:
            self._wake(self._waiter)

    def feed_end(self, fault: ProxyError | None = None) -> None:
        self.complete, self.fault = fault is None, fault
        if self._waiter is not None:
            self._wake(self._waiter)

    def discard(self) -> None:
        """Nobody reads the rest of the body."""
        self._pieces.clear()
        self._buffered = 0
        self._connection.resume_reading()

    @staticmethod
    def _wake(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_result(None)

    # ---- the request's body

    async def read(self, most: int) -> bytes:
        if self.length is not None and self.length > most:
            raise Refusal(replies.BODY_TOO_LARGE, f"The body has {self.length} bytes; this proxy reads at most {most}.")
        if self.complete and self._buffered <= most:  # as most bodies come: nothing to wait for
            self._expects = False
            return self._take() if self._pieces else b""
        pieces: list[bytes] = []
        size = 0
        while piece := await self.piece():
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise Refusal(replies.BODY_TOO_LARGE, f"The body is longer than the {most} bytes this proxy reads.")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def stream(self) -> AsyncIterator[bytes]:
        return _Body(self)

    async def piece(self) -> bytes:
        """What has come in since the last call, waited for; b"" at the end. Raises Refusal (400, 408)."""
        if self._expects:
            self._expects = False
            if self._modern and not self.complete:
                self._connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not self._pieces:
            if self.fault is not None:
                self.keep_alive = False
                raise Refusal(self.fault)
            if self.complete:
                return b""
            await self._more()
        return self._take()

    def _take(self) -> bytes:
        """What has come in since the last call."""
        pieces, self._pieces = self._pieces, []
        if self._buffered > _MOST_BUFFERED:
            self._connection.resume_reading()
        self._buffered = 0
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _more(self) -> None:
        """Wait for more of the body. What has come in time buys time for what is to come."""
        connection = self._connection
        self._waiter = connection.loop.create_future()
        began = connection.now()
        self._patience_s = min(connection.client_s, self._patience_s)
        connection.deadline = began + self._patience_s
        try:
            await self._waiter
        finally:
            connection.deadline = math.inf
        self._patience_s += self._buffered / PACE - (connection.now() - began)

    @property
    def address(self) -> str:
        return self._connection.address

    # ---- the answer

    def reply(
        self, status: int, reason: str, headers: Sequence[Header], length: int | None, body: bytes
    ) -> Awaitable[None] | None:
        """A whole answer in one write; what comes back is to be awaited. Raises ValueError, ConnectionResetError."""
        self._begin(status, reason, headers, length)
        connection = self._connection
        if connection.lost:
            raise ConnectionResetError("the client has left")
        self._send(self._framed(body) + _LAST_CHUNK if self._chunked else self._framed(body))
        if self._left:  # upstream sent fewer bytes than it promised
            self.cut()
            return None
        return None if connection.drained is None else asyncio.shield(connection.drained)

    async def start(self, status: int, reason: str, headers: Sequence[Header], length: int | None) -> None:
        """The head; it goes out with the first bytes of the body. Raises ValueError if it would not be one head."""
        self._begin(status, reason, headers, length)

    def _begin(self, status: int, reason: str, headers: Sequence[Header], length: int | None) -> None:
        lines = encode_headers(headers)
        if self._expects or not self.complete:
            self.keep_alive = False  # the client may still send the body or not: what follows could be either
        framing = ""
        bodiless = status in _NO_BODY or self.method == "HEAD"
        if length is not None and status != 204:  # RFC 9110 §8.6
            framing = f"Content-Length: {length}\r\n"
            self._left = 0 if bodiless else length
        elif bodiless:
            self._left = 0
        elif self._modern:
            framing = "Transfer-Encoding: chunked\r\n"
            self._chunked, self._left = True, None
        else:
            self.keep_alive, self._left = False, None  # HTTP/1.0: the end of the connection ends the body
        if not self.keep_alive:
            framing += "Connection: close\r\n"
        elif not self._modern:
            framing += "Connection: keep-alive\r\n"
        self.started = True
        self.started_at = time.monotonic()
        self._head = (
            _first_line(status, reason) + lines + f"x-quotapool-request-id: {self.id}\r\n{framing}\r\n".encode()
        )

    async def write(self, data: bytes) -> None:
        """Raises ConnectionResetError if the client has left."""
        if (full := self.put(data)) is not None:
            await full

    def put(self, data: bytes) -> Awaitable[None] | None:
        """Write at once; the result is to be awaited before the next piece. Raises ConnectionResetError."""
        connection = self._connection
        if connection.lost:
            raise ConnectionResetError("the client has left")
        if not data or self._left == 0:
            return None
        self._send(self._framed(data))
        return None if connection.drained is None else asyncio.shield(connection.drained)

    def _framed(self, data: bytes) -> bytes:
        """The bytes that carry this piece of the body; none, if the answer has no body or has had all of it."""
        if self._chunked:
            return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
        if self._left is None:
            return data
        if len(data) > self._left:
            data = data[: self._left]
        self._left -= len(data)
        return data

    def _send(self, frame: bytes) -> None:
        """`frame`, behind the head if that is still here."""
        head, self._head = self._head, None
        if head is None:
            self._connection.send(frame)
        elif len(frame) < _COPIED:
            self._connection.send(head + frame)
        else:
            self._connection.send(head)
            self._connection.send(frame)

    async def finish(self) -> None:
        if self._left:  # upstream sent fewer bytes than it promised
            self.cut()
            return
        end = _LAST_CHUNK if self._chunked else b""
        if self._head is not None:
            end, self._head = self._head + end, None
        if end and not self._connection.lost:
            self._connection.send(end)
            if self._connection.drained is not None:
                await asyncio.shield(self._connection.drained)

    def cut(self) -> None:
        self.was_cut = True
        self.keep_alive = False
        self._connection.abort()


class _Body:
    """The pieces of a request's body as they come in."""

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if piece := await self._exchange.piece():
            return piece
        raise StopAsyncIteration


@functools.lru_cache(maxsize=64)
def _first_line(status: int, reason: str) -> bytes:
    return f"HTTP/1.1 {status} {reason or _PHRASES.get(status, '')}\r\n".encode("utf-8", "surrogateescape")
