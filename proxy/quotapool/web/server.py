"""The clients' side of HTTP/1.1: a protocol on a C parser, and nothing that a request does not need.

aiohttp's server (`listener.py`) is the reference: the same contract tests run against both. It also takes over each
connection that asks for an upgrade, which is how WebSockets are served.

A connection reads one request, has it answered, and reads the next. What a client pipelines waits, and the client is
held back meanwhile. A request that two servers could read differently is refused and ends its connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import httptools

from quotapool.openai import replies
from quotapool.openai.headers import decode_headers
from quotapool.openai.refusal import Refusal
from quotapool.web.exchange import Exchange

_KEEP_ALIVE_S: Final = 75.0
_HEAD_S: Final = 60.0  # in which a request's head must have come
_LINGER_S: Final = 10.0  # how long a body that nobody wants is taken, so that the client reads its answer
_SWEEP_S: Final = 1.0
_LONGEST_LINE: Final = 65_536  # bytes of one header line; OpenAI takes 64 KiB of headers in all
_LONGEST_HEAD: Final = 4 * _LONGEST_LINE


class ClientConnection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, server: Server) -> None:
        self._server = server
        # Called for each line of a head, so it only gathers them: all are made text of at once.
        self._fields: list[tuple[bytes, bytes]] = []  # of the head or the trailers under way
        add = self._fields.append
        self.on_header: Callable[[bytes, bytes], None] = lambda name, value: add((name, value))
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self.lost = False
        self.idle_since: float | None = server.now()  # None: a request is under way
        self.silent_since: float | None = None  # a head, or a body nobody wants, is under way
        self._raw = b""  # what came since the last body ended, while a head is being read
        self._heads = 0  # begun in `_raw`
        self._in_head = False
        self._url = b""
        self._got = 0  # bytes that came at once
        self._overhead = 0  # bytes with which the head, or the framing since the last piece of a body, came
        self._arriving: Exchange | None = None  # whose body is being read
        self._current: Exchange | None = None  # being answered
        self._queued: deque[Exchange] = deque()
        self.task: asyncio.Task[None] | None = None
        self._ending = False  # after the answer under way nothing more is served
        self._broken = False  # what came after the requests so far is not HTTP
        self._upgrading = False
        self._held = False
        self.room: asyncio.Future[None] | None = None  # the client does not take what is sent

    # ---- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # it is a stream's
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self.lost = True
        self._server.connections.discard(self)
        self.resume_writing()
        if self.task is not None:
            self.task.cancel()  # a client that leaves cancels its request
        self._let_go()

    def _let_go(self) -> None:
        """The parser holds us as we hold it. The collector seldom comes by, and an old connection would wait for it."""
        del self._parser
        self._arriving = None
        self._queued.clear()

    def pause_writing(self) -> None:
        if self.room is None:
            self.room = self._server.loop.create_future()

    def resume_writing(self) -> None:
        room, self.room = self.room, None
        if room is not None and not room.done():
            room.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._broken or (self._ending and self._arriving is None):
            return
        if self._arriving is None:
            self._raw = self._raw + data if self._raw else data
        self._got = len(data)
        self._overhead += self._got
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._hand_over()
            return
        except httptools.HttpParserError:
            self._break()
            return
        if not self._in_head:
            self._raw, self._heads = b"", 0
            if self._arriving is not None and self._overhead > _LONGEST_LINE:
                self._break()  # trailers or a chunk's extensions without end
        elif len(self._raw) > _LONGEST_HEAD:
            self._break()
        elif self._current is None and self.silent_since is None:
            self.silent_since = self._server.now()

    # ---- the parser's side

    def on_message_begin(self) -> None:
        self._in_head = True
        self._heads += 1
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
        self._in_head = False
        self.silent_since = None
        if parser.should_upgrade():
            self._upgrading = True
            return
        exchange = self._arriving = Exchange(
            self,
            parser.get_method().decode("ascii"),
            self._url.decode("utf-8", "surrogateescape"),
            decode_headers(fields),
            modern=parser.get_http_version() == "1.1",
            keep_alive=parser.should_keep_alive(),
        )
        fields.clear()
        if self._current is None and not self._queued:
            self._begin(exchange)
        else:
            self._queued.append(exchange)
            self.hold()

    def on_body(self, piece: bytes) -> None:
        self._overhead = 0
        if self._arriving is not None and not self._ending:
            self._arriving.feed(piece)

    def on_message_complete(self) -> None:
        exchange, self._arriving = self._arriving, None
        if exchange is not None:
            exchange.feed_end()
            if exchange is not self._current and self._current is None:
                self._next()  # its answer had ended before it
        if not self._upgrading:  # else aiohttp's protocol wants to read it all
            self._raw, self._heads = b"", 0

    # ---- one request after another

    def _begin(self, exchange: Exchange) -> None:
        self._current = exchange
        self.idle_since = None
        self.task = self._server.loop.create_task(self._answer(exchange))

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._server.handler(exchange)
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
        if not exchange.keep_alive:
            self._ending = True
        if exchange.complete:
            self._next()
            return
        if exchange.malformed:
            self._close()
            return
        # The client still sends what nobody wants. To close now would take the answer from it.
        exchange.discard()
        self._ending = True
        self.silent_since = self._server.now()
        if self._transport is not None and self._transport.can_write_eof():
            self._transport.write_eof()

    def _next(self) -> None:
        if self._ending:
            self._close()
        elif self._queued:
            self._begin(self._queued.popleft())
        elif self._broken:
            self._refuse()
        else:
            self.idle_since = self._server.now()
            self.go_on()

    def _break(self) -> None:
        """What came is not HTTP, or could be read in two ways."""
        self._broken = True
        arriving, self._arriving = self._arriving, None
        if arriving is not None and (arriving is self._current or arriving in self._queued):
            arriving.feed_end(broken=True)
        elif self._current is None and not self._queued:
            self._refuse()

    def _refuse(self) -> None:
        refusal = Refusal(replies.INVALID_HTTP)
        body = refusal.body()
        lines = [f"HTTP/1.1 {refusal.status} Bad Request", *(f"{name}: {value}" for name, value in refusal.headers())]
        lines += [f"Content-Length: {len(body)}", "Connection: close", "", ""]
        self.send("\r\n".join(lines).encode() + body)
        self._close()

    def _hand_over(self) -> None:
        """An upgrade: aiohttp's protocol gets the connection, and all that came of the request."""
        transport = self._transport
        if transport is None or self._current is not None or self._queued or self._heads != 1:
            self._break()
            return
        self._server.connections.discard(self)
        protocol = self._server.upgraded()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(self._raw)
        self._let_go()

    # ---- for exchanges (`exchange.Line`)

    def send(self, data: bytes) -> None:
        if self._transport is not None and not self.lost:
            self._transport.write(data)

    def hold(self) -> None:
        if not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()

    def go_on(self) -> None:
        if self._held and self._transport is not None and not self.lost:
            self._held = False
            self._transport.resume_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ---- for the server

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def sweep(self, now: float) -> None:
        """End what has been silent for too long."""
        idle, silent = self.idle_since, self.silent_since
        patience_s = _LINGER_S if self._ending else _HEAD_S
        if (idle is not None and now - idle > _KEEP_ALIVE_S) or (silent is not None and now - silent > patience_s):
            self._close()

    @property
    def is_idle(self) -> bool:
        return self._current is None and not self._queued


class Server:
    """Makes a `Connection` for each client. `upgraded` makes the protocol that takes over where one asks to upgrade."""

    def __init__(
        self, handler: Callable[[Exchange], Awaitable[None]], upgraded: Callable[[], asyncio.Protocol]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.handler = handler
        self.upgraded = upgraded
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
