"""The clients' side of HTTP/1.1: a protocol on a C parser, and nothing that a request does not need.

aiohttp's server (`tests/reference`) is the reference: the same contract tests run against both.

A connection reads one request, has it answered, and reads the next. What a client pipelines waits, and the client is
held back meanwhile. A request that two servers could read differently is refused and ends its connection. A head that
asks for a WebSocket ends the HTTP on its connection: what follows it is frames.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import httptools

from quotapool.openai import replies
from quotapool.openai.headers import decode_headers
from quotapool.openai.refusal import Refusal
from quotapool.web.exchange import Exchange
from quotapool.web.websocket import WebSocketRequest
from quotapool.websocket.socket import READ_BUFFER

_KEEP_ALIVE_S: Final = 75.0
_HEAD_S: Final = 60.0  # in which a request's head must have come
_LINGER_S: Final = 10.0  # how long a body that nobody wants is taken, so that the client reads its answer
_NEVER: Final = math.inf
_SWEEP_S: Final = 1.0
_LONGEST_LINE: Final = 65_536  # bytes of one header line; OpenAI takes 64 KiB of headers in all
_LONGEST_HEAD: Final = 4 * _LONGEST_LINE
_LONGEST_PART: Final = 2 * _LONGEST_HEAD  # of a head that is not whole, with what came before it in the same piece


class _Reading(enum.Enum):
    """What the next bytes of a client belong to.

    BETWEEN -> HEAD -> BODY -> BETWEEN   one request after another
    BODY -> UNWANTED                     the answer has ended first: the rest of the body is thrown away
    HEAD -> SWITCHED                     a WebSocket or a CONNECT: what follows its head is not HTTP
    BETWEEN, HEAD, BODY -> MALFORMED     not HTTP, or to be read in two ways: 400 once what came before is answered
    any -> CLOSED                        our side is closing the connection
    """

    BETWEEN = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    UNWANTED = enum.auto()
    SWITCHED = enum.auto()
    MALFORMED = enum.auto()
    CLOSED = enum.auto()


# Globals are found faster than members, and they are looked at with each piece that comes.
_BETWEEN, _HEAD, _BODY, _UNWANTED, _SWITCHED, _MALFORMED, _CLOSED = _Reading


class ClientConnection(asyncio.Protocol):
    """One client's connection.

    What is read is `_reading`; what is answered is `_current`, and behind it `_queued`. `deadline` is when the
    connection is closed unless something happens first: infinite while a request is answered.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        # Called for each line of a head, so it only gathers them: all are made text of at once.
        self._fields: list[tuple[bytes, bytes]] = []  # of the head or the trailers under way
        add = self._fields.append
        self.on_header: Callable[[bytes, bytes], None] = lambda name, value: add((name, value))
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._reading = _BETWEEN
        self._url = b""
        self._got = 0  # bytes that came at once
        self._overhead = 0  # bytes with which the head, or the framing since the last piece of a body, came
        self._arriving: Exchange | None = None  # whose body is being read
        self._switched: asyncio.StreamReader | None = None  # takes what follows a head that ended the HTTP
        self._current: Exchange | None = None  # being answered
        self._queued: deque[Exchange] = deque()
        self.task: asyncio.Task[None] | None = None
        self.deadline = server.now() + _KEEP_ALIVE_S
        self._paused = False
        self.lost = False
        self.drained: asyncio.Future[None] | None = None  # done once the client takes more; None: it does

    # ---- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # it is a stream's
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True
        self._server.connections.discard(self)
        self.resume_writing()
        if self._switched is not None:
            self._switched.feed_eof()
        if self.task is not None:
            self.task.cancel()  # a client that leaves cancels its request
        # The parser holds us as we hold it. The collector seldom comes by, and an old connection would wait for it.
        del self._parser
        self._arriving = None
        self._queued.clear()

    def pause_writing(self) -> None:
        if self.drained is None:
            self.drained = self._server.loop.create_future()

    def resume_writing(self) -> None:
        drained, self.drained = self.drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        while data:
            if self._reading is not _BETWEEN:
                if self._switched is not None:
                    self._switched.feed_data(data)
                    return
                if self._reading is _MALFORMED or self._reading is _CLOSED:
                    return
            self._got = len(data)
            self._overhead += self._got
            try:
                self._parser.feed_data(data)
                break
            except httptools.HttpParserUpgrade as upgrade:
                data = self._switch(data[upgrade.args[0] :])
            except httptools.HttpParserError:
                self._refuse_rest()
        if self._reading is _HEAD:
            if self._overhead > _LONGEST_PART:
                self._refuse_rest()
            elif self._current is None:
                self.deadline = min(self.deadline, self._server.now() + _HEAD_S)
        elif self._overhead > _LONGEST_LINE and self._arriving is not None:
            self._refuse_rest()  # trailers or a chunk's extensions without end

    # ---- the parser's side

    def on_message_begin(self) -> None:
        if self._reading is not _BETWEEN:
            raise ValueError("a request behind the last one")
        self._reading = _HEAD
        self._url = b""
        self._overhead = self._got
        self._fields.clear()

    def on_url(self, url: bytes) -> None:
        self._url += url
        if len(self._url) > _LONGEST_LINE:
            raise ValueError("the target is too long")

    def on_headers_complete(self) -> None:
        parser, fields = self._parser, self._fields
        if self._overhead > _LONGEST_LINE:
            sizes = [len(name) + len(value) for name, value in fields]
            if max(sizes, default=0) > _LONGEST_LINE or sum(sizes) > _LONGEST_HEAD:
                raise ValueError("the head is too long")
        self._overhead = 0
        if parser.should_upgrade():
            return  # `_switch` is next
        exchange = self._arriving = self._exchange(keep_alive=parser.should_keep_alive())
        self._reading = _BODY
        fields.clear()
        if self._current is None and not self._queued:
            self._begin(exchange)
        else:
            self._queued.append(exchange)
            self.pause_reading()

    def on_body(self, piece: bytes) -> None:
        self._overhead = 0
        if self._reading is _BODY and self._arriving is not None:
            self._arriving.feed(piece)

    def on_message_complete(self) -> None:
        exchange, self._arriving = self._arriving, None
        if exchange is None:  # a head that asks for another protocol
            return
        exchange.feed_end()
        if self._reading is _BODY:
            self._reading = _BETWEEN
        else:
            self._close()

    def _exchange(self, *, keep_alive: bool) -> Exchange:
        """The request whose head has just come."""
        parser = self._parser
        return Exchange(
            self,
            parser.get_method().decode("ascii"),
            self._url.decode("utf-8", "surrogateescape"),
            decode_headers(self._fields),
            modern=parser.get_http_version() == "1.1",
            keep_alive=keep_alive,
        )

    def _switch(self, rest: bytes) -> bytes:
        """A head has come that asks for another protocol, and `rest` behind it. Returns what is to be parsed next."""
        method, transport = self._parser.get_method(), self._transport
        asked = b",".join(value for name, value in self._fields if name.lower() == b"upgrade").lower()
        if method != b"CONNECT" and b"websocket" not in asked:
            # It is answered in HTTP/1.1. The parser takes it to have no body, so it is read again without the header.
            start = b"%b %b HTTP/%b" % (method, self._url, self._parser.get_http_version().encode())
            fields = [b"%b: %b" % (name, value) for name, value in self._fields if name.lower() != b"upgrade"]
            self._parser = httptools.HttpRequestParser(self)
            self._reading = _BETWEEN
            return b"\r\n".join([start, *fields, b"", rest])
        if transport is None or self._current is not None or self._queued:
            self._refuse_rest()
            return b""
        exchange = self._exchange(keep_alive=False)
        exchange.feed_end()
        self._reading = _SWITCHED
        reader = self._switched = asyncio.StreamReader(limit=READ_BUFFER, loop=self._server.loop)
        reader.set_transport(transport)
        wanted = None if method == b"CONNECT" else WebSocketRequest(exchange, reader, transport, self._drain)
        self._begin(exchange, wanted)
        return rest

    # ---- one request after another

    def _begin(self, exchange: Exchange, wanted: WebSocketRequest | None = None) -> None:
        self._current = exchange
        self.deadline = _NEVER
        self.task = self._server.loop.create_task(self._answer(exchange, wanted))

    async def _answer(self, exchange: Exchange, wanted: WebSocketRequest | None) -> None:
        try:
            await self._server.handler(exchange, wanted)
        except asyncio.CancelledError:
            if not self.lost:
                self.abort()
            raise
        except BaseException:
            self.abort()
            raise
        finally:
            self._current = self.task = None
        if not self.lost:
            self._after(exchange)

    def _after(self, exchange: Exchange) -> None:
        """The answer is on its way: what the connection does next."""
        if exchange.complete:
            if exchange.keep_alive:
                self._next()
            else:
                self._close()
        elif exchange.malformed:
            self._close()
        else:
            # The client still sends what nobody wants. To close now would take the answer from it.
            self._reading = _UNWANTED
            self.deadline = self._server.now() + _LINGER_S
            exchange.discard()
            if self._transport is not None and self._transport.can_write_eof():
                self._transport.write_eof()

    def _next(self) -> None:
        if self._queued:
            self._begin(self._queued.popleft())
        elif self._reading is _MALFORMED:
            self._refuse()
        else:
            self.deadline = self._server.now() + _KEEP_ALIVE_S
            if self._paused:
                self.resume_reading()

    def _refuse_rest(self) -> None:
        """What came is not HTTP, or could be read in two ways: it ends the connection once the rest is answered."""
        reading, self._reading = self._reading, _MALFORMED
        arriving, self._arriving = self._arriving, None
        if reading is _UNWANTED:
            self._close()
        elif arriving is not None:
            arriving.feed_end(broken=True)  # what reads its body refuses it
        elif self._current is None and not self._queued:
            self._refuse()

    def _refuse(self) -> None:
        refusal = Refusal(replies.INVALID_HTTP)
        body = refusal.body()
        lines = [f"HTTP/1.1 {refusal.status} Bad Request", *(f"{name}: {value}" for name, value in refusal.headers())]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        self.send("\r\n".join(lines).encode() + body)
        self._close()

    # ---- for exchanges (`exchange.ExchangeConnection`)

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write(data)

    async def _drain(self) -> None:
        if self.drained is not None:
            await asyncio.shield(self.drained)

    def pause_reading(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        if self._paused and self._transport is not None and not self.lost:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ---- for the server

    def _close(self) -> None:
        self._reading = _CLOSED
        if self._transport is not None:
            self._transport.close()

    def sweep(self, now: float) -> None:
        """End what has been silent for too long."""
        if now > self.deadline:
            self._close()


class Server:
    """Makes a `ClientConnection` for each client.

    `handler` answers a request; its second argument is the WebSocket that the request asks for, if it does.
    """

    def __init__(self, handler: Callable[[Exchange, WebSocketRequest | None], Awaitable[None]]) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.handler = handler
        self.connections: set[ClientConnection] = set()
        self._sweeping = self.loop.call_later(_SWEEP_S, self._sweep)

    def __call__(self) -> ClientConnection:
        return ClientConnection(self)

    def _sweep(self) -> None:
        now = self.now()
        for connection in list(self.connections):
            connection.sweep(now)
        self._sweeping = self.loop.call_later(_SWEEP_S, self._sweep)

    async def close(self) -> None:
        """End every connection, in the middle of an answer too."""
        self._sweeping.cancel()
        tasks = {connection.task for connection in self.connections if connection.task is not None}
        for connection in list(self.connections):
            connection.abort()
        await asyncio.wait({*tasks, self.loop.create_task(asyncio.sleep(0))}, timeout=1.0)
