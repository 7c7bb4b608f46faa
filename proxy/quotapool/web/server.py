"""The clients' side of HTTP/1.1: a protocol on a C parser, and nothing that a request does not need.

aiohttp's server (`tests/reference`) is the reference: the same contract tests run against both.

A connection reads one request, has it answered, and reads the next. What a client pipelines stays unread until then, as
bytes: the parser is given no more than one message at a time. A request that two servers could read differently is
refused and ends its connection. A head that asks for a WebSocket ends the HTTP on its connection: what follows it is
frames.

A client that neither sends the body it owes nor takes its answer is waited for `client_s` seconds; at `PACE` bytes a
second it may take as long as it likes.
"""

from __future__ import annotations

import asyncio
import enum
import math
import re
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Final

import httptools

from quotapool.openai import replies
from quotapool.openai.head import Head, Header
from quotapool.openai.headers import encode_headers
from quotapool.openai.refusal import Refusal
from quotapool.openai.replies import ProxyError
from quotapool.web.exchange import PACE, Exchange
from quotapool.web.places import address_of
from quotapool.web.websocket import WebSocketRequest
from quotapool.websocket.socket import READ_BUFFER

_KEEP_ALIVE_S: Final = 75.0
_HEAD_S: Final = 60.0  # in which a request's head must have come
_LINGER_S: Final = 10.0  # how long a body that nobody wants is taken, so that the client reads its answer
_UNWANTED_S: Final = 0.01  # between two reads of it
_CLIENT_S: Final = 60.0  # the default of `timeouts.client`
_NEVER: Final = math.inf
_SWEEP_S: Final = 1.0
_LONGEST_LINE: Final = 65_536  # bytes of one header line; OpenAI takes 64 KiB of headers in all
_LONGEST_HEAD: Final = 4 * _LONGEST_LINE
_LONGEST_PART: Final = 2 * _LONGEST_HEAD  # of a head that is not whole
_PIECES: Final = 256  # parts of messages in what came at once that are parsed before other connections have their turn
# By name, since a system has not all: the second is macOS's for the first.
_KEEP_ALIVE: Final = (("TCP_KEEPIDLE", 60), ("TCP_KEEPALIVE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
_BLANK_LINE: Final = b"\r\n\r\n"
_HEAD_END: Final = _BLANK_LINE[1:]
_LINE_ENDS: Final = b"\r\n"
_BLANK: Final = 0x20
# RFC 9112 §3, and the beginnings of such lines: a client of another protocol is refused at its first bytes.
_VERSIONS: Final = frozenset({b"HTTP/1.1", b"HTTP/1.0"})
_VERSION: Final = re.compile(rb"HTTP/\d\.\d")
_PART_OF_A_LINE: Final = re.compile(rb"[!-~]+(?: [!-~\x80-\xff]*(?: [!-~]*\r?)?)?")


class _Reading(enum.Enum):
    """What the next bytes of a client belong to.

    BETWEEN -> HEAD -> BODY -> BETWEEN   one request after another
    BODY -> UNWANTED                     the answer has ended first: the rest of the body is thrown away
    HEAD -> SWITCHED                     a WebSocket or a CONNECT: what follows its head is not HTTP
    HEAD, BODY -> MALFORMED              not HTTP, or to be read in two ways, or too late: nothing more is read
    any -> CLOSED                        our side is closing the connection
    """

    BETWEEN = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    UNWANTED = enum.auto()
    SWITCHED = enum.auto()
    MALFORMED = enum.auto()
    CLOSED = enum.auto()


_NO_PARSER: Final = httptools.HttpRequestParser(None)

# Globals are found faster than members, and they are looked at with each piece that comes.
_BETWEEN, _HEAD, _BODY, _UNWANTED, _SWITCHED, _MALFORMED, _CLOSED = _Reading


class ClientConnection:
    """One client's connection.

    What is read is `_reading`; what is answered is `_current`; `_held` is what came behind a whole request, not parsed
    before that is answered. `deadline` is when the connection is closed unless something happens first: infinite
    while a request is answered, but for the time in which its body is waited for.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self.now = server.now
        self.loop = server.loop
        # Called for each line of a head, so it only gathers them.
        self._fields: list[Header] = []  # of the head or the trailers under way
        add = self._fields.append
        self.on_header: Callable[[bytes, bytes], None] = lambda name, value: add((name, value))
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._reading = _BETWEEN
        self._line = b""  # the request line, as far as it has come
        self._parts: list[bytes] = []  # of the request line: method, target, version; empty until it is whole
        self._tail = b""  # the end of what was parsed, in which the blank line that ends a part may have begun
        self._overhead = 0  # bytes of the head so far, or of the framing since the last piece of a body
        self._due: int | None = None  # bytes of the body that are still to come; None: it comes in chunks
        self._arriving: Exchange | None = None  # whose body is being read
        self._switched: asyncio.StreamReader | None = None  # takes what follows a head that ended the HTTP
        self._current: Exchange | None = None  # being answered
        self._held = b""
        self._held_at = 0  # where in it the next part begins
        self.task: asyncio.Task[None] | None = None
        self.deadline = server.now() + _KEEP_ALIVE_S
        self._paused = False
        self.lost = False
        self.drained: asyncio.Future[None] | None = None  # done once the client takes more; None: it does
        self._unsent = 0  # bytes of an answer that waited at the last sweep
        self._patience_s = 0.0  # how much longer the client may take none of them

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
        self._parser = _NO_PARSER
        self._arriving = None
        self._held = b""
        self._reading = _CLOSED

    def eof_received(self) -> None:
        """A client that sends no more is taken to have left."""

    def pause_writing(self) -> None:
        if self.drained is None:
            self.drained = self._server.loop.create_future()
            self._unsent, self._patience_s = 0, self._server.client_s

    def resume_writing(self) -> None:
        drained, self.drained = self.drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def data_received(self, data: bytes) -> None:
        if self._held:
            self._hold(self._held[self._held_at :] + data, 0)
        else:
            self._read(data, 0)

    # ---- from bytes to messages

    def _read(self, data: bytes, at: int) -> None:
        """Parse `data` from `at`, one part of a message after another."""
        end, pieces = len(data), 0
        try:
            while at < end:
                reading = self._reading
                if reading is _BETWEEN or reading is _HEAD:
                    if self._current is not None:
                        self._hold(data, at)
                        return
                    at = self._read_head(data, at)
                elif reading is _BODY:
                    at = self._read_body(data, at)
                elif reading is _UNWANTED:
                    self.pause_reading()  # it may come slowly
                    self._server.loop.call_later(_UNWANTED_S, self.resume_reading)
                    at = self._read_body(data, at)
                else:
                    if self._switched is not None:
                        self._switched.feed_data(data[at:])
                    return
                pieces += 1
                if pieces >= _PIECES and at < end:
                    self._hold(data, at)
                    self._server.loop.call_soon(self._read_held)
                    return
        except httptools.HttpParserError:
            self._refuse_rest()

    def _hold(self, data: bytes, at: int) -> None:
        self._held, self._held_at = data, at
        self.pause_reading()

    def _read_held(self) -> None:
        """Go on with what came behind the last request."""
        held, self._held = self._held, b""
        self.resume_reading()
        if held:
            self._read(held, self._held_at)

    def _read_head(self, data: bytes, at: int) -> int:
        """Parse a head, or what has come of it. Returns where the rest of `data` begins."""
        if self._reading is _BETWEEN:
            while data[at] < _BLANK and data[at] in _LINE_ENDS:  # RFC 9112 §2.2
                at += 1
                if at == len(data):
                    return at
            self._reading = _HEAD
            self._line = self._tail = b""
            self._parts = []
            self._overhead = 0
            self._fields.clear()
            found = data.find(_HEAD_END, at)  # found sooner; the parser insists on the CR before it
            stop = found + 3 if found >= 0 else self._blank_line(data, at)
        else:
            stop = self._blank_line(data, at)
        piece = data[at:stop]
        self._overhead += stop - at
        if not self._parts:
            if self._line:
                piece = self._line + piece
            eol = piece.find(_LINE_ENDS)
            if eol < 0:
                self._line = piece
                if len(piece) > _LONGEST_LINE or _PART_OF_A_LINE.fullmatch(piece) is None:
                    self._refuse_rest()
                self.deadline = min(self.deadline, self.now() + _HEAD_S)
                return stop
            parts = self._parts = piece[:eol].split(b" ")
            if len(parts) != 3 or parts[2] not in _VERSIONS:
                other = len(parts) == 3 and _VERSION.fullmatch(parts[2]) is not None
                self._refuse_rest(replies.HTTP_VERSION_NOT_SUPPORTED if other else replies.INVALID_HTTP)
                return stop
        try:
            self._parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            self._switch()
        if self._reading is _BODY and self._due == len(data) - stop:  # as most requests come
            self._due = 0
            self._parser.feed_data(data[stop:])
            return len(data)
        if self._reading is _HEAD:
            self.deadline = min(self.deadline, self.now() + _HEAD_S)
            if self._overhead > _LONGEST_PART:
                self._refuse_rest()
        return stop

    def _read_body(self, data: bytes, at: int) -> int:
        """Parse what has come of a body. Returns where the rest of `data` begins."""
        due = self._due
        if due is None:
            stop = self._blank_line(data, at)
        else:
            stop = min(len(data), at + due)
            self._due = due - stop + at
        self._overhead += stop - at
        self._parser.feed_data(data if stop - at == len(data) else memoryview(data)[at:stop])
        if self._overhead > _LONGEST_LINE and self._arriving is not None:
            self._refuse_rest()  # trailers or a chunk's extensions without end
        return stop

    def _blank_line(self, data: bytes, at: int) -> int:
        """The end of the next blank line, or of `data`: a head and a chunked body end nowhere else."""
        tail = self._tail
        begun = (tail + data[at : at + 3]).find(_BLANK_LINE) if tail else -1
        if begun >= 0:
            stop = at + begun + 4 - len(tail)
        else:
            found = data.find(_BLANK_LINE, at)
            stop = found + 4 if found >= 0 else len(data)
        self._tail = (tail + data[max(at, stop - 3) : stop])[-3:]
        return stop

    # ---- the parser's side

    def on_headers_complete(self) -> None:
        if self._reading is not _HEAD:
            raise ValueError("a request behind the last one")
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
        self._tail = b""
        self._due = exchange.length
        fields.clear()
        self._begin(exchange)

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
        """The request whose head has just come. Raises ValueError if it could be read in two ways."""
        method, target, version = self._parts
        modern = version == b"HTTP/1.1"
        exchange = Exchange(
            self,
            method.decode("ascii"),
            target.decode("utf-8", "surrogateescape"),
            Head(self._fields),
            modern=modern,
            keep_alive=keep_alive,
        )
        headers = exchange.headers
        if headers.is_repeated("host") or (modern and "host" not in headers.first):
            raise ValueError("not one Host (RFC 9112 §3.2)")
        if not modern and "transfer-encoding" in headers.first:
            raise ValueError("chunks of a client that knows of none (RFC 9112 §6.1)")
        return exchange

    def _switch(self) -> None:
        """A head has come that asks for another protocol."""
        transport = self._transport
        asked = b",".join(value for name, value in self._fields if name.lower() == b"upgrade").lower()
        tunnel = self._parts[0] == b"CONNECT"
        if not tunnel and asked.find(b"websocket") < 0:
            # It is answered in HTTP/1.1. The parser takes it to have no body, so it is read again without the header.
            fields = [b"%b: %b" % (name, value) for name, value in self._fields if name.lower() != b"upgrade"]
            self._fields.clear()
            self._parser = httptools.HttpRequestParser(self)
            self._parser.feed_data(b"\r\n".join([b" ".join(self._parts), *fields, b"", b""]))
            return
        try:
            exchange = self._exchange(keep_alive=False)
        except ValueError:
            self._refuse_rest()
            return
        if transport is None:
            return
        exchange.feed_end()
        self._reading = _SWITCHED
        reader = self._switched = asyncio.StreamReader(limit=READ_BUFFER, loop=self._server.loop)
        reader.set_transport(transport)
        wanted = None if tunnel else WebSocketRequest(exchange, reader, transport, self._drain)
        self._begin(exchange, wanted)

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
        elif exchange.fault is not None:
            self._close()
        else:
            # The client still sends what nobody wants. To close now would take the answer from it.
            self._reading = _UNWANTED
            exchange.discard()
            self._linger()

    def _linger(self) -> bool:
        """Send nothing more, but take what still comes for a while. Returns whether that is possible (not with TLS)."""
        self.deadline = self.now() + _LINGER_S
        possible = self._transport is not None and self._transport.can_write_eof()
        if possible and self._transport is not None:
            self._transport.write_eof()
        return possible

    def _next(self) -> None:
        self.deadline = self.now() + _KEEP_ALIVE_S
        if self._held or self._paused:
            self._read_held()

    def _refuse_rest(self, error: ProxyError = replies.INVALID_HTTP) -> None:
        """What came is not a request, or could be read in two ways: it ends the connection."""
        reading, self._reading = self._reading, _MALFORMED
        arriving, self._arriving = self._arriving, None
        if reading is _UNWANTED:
            self._close()
        elif arriving is not None:
            arriving.feed_end(error)  # what reads its body refuses it
        else:
            self._refuse(Refusal(error))

    def _refuse(self, refusal: Refusal) -> None:
        body = refusal.body()
        first = f"HTTP/1.1 {refusal.status} {HTTPStatus(refusal.status).phrase}\r\n".encode()
        framing = (b"Content-Length", b"%d" % len(body)), (b"Connection", b"close")
        self.send(first + encode_headers([*refusal.headers(), *framing]) + b"\r\n" + body)
        if not self._linger():
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
        if self._paused and not self._held and self._transport is not None and not self.lost:
            self._paused = False
            self._transport.resume_reading()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    @property
    def client_s(self) -> float:
        return self._server.client_s

    @property
    def address(self) -> str:
        return address_of(self._transport.get_extra_info("peername") if self._transport is not None else None)

    # ---- for the server

    def _close(self) -> None:
        self._reading = _CLOSED
        self._held = b""
        self.deadline = self.now() + self._server.client_s  # for the client to take what is left
        if self._transport is not None:
            self._transport.close()

    def sweep(self, now: float) -> None:
        """End what has been silent for too long."""
        if self.drained is not None and self._switched is None and self._takes_nothing():
            self.abort()
        elif now > self.deadline:
            if self._reading is _CLOSED:
                self.abort()
            elif self._arriving is not None and self._reading is _BODY:
                self._refuse_rest(replies.BODY_TIMEOUT)
            else:
                self._close()

    def _takes_nothing(self) -> bool:
        """Whether the client has left its answer lying for too long. Called once in `_SWEEP_S`."""
        left = self._transport.get_write_buffer_size() if self._transport is not None else 0
        taken, self._unsent = max(0, self._unsent - left), left
        self._patience_s = min(self._server.client_s, self._patience_s - _SWEEP_S + taken / PACE)
        return self._patience_s < 0


def keep_alive(listener: socket.socket) -> None:
    """Have the kernel find out which clients are gone without a word: accepted connections inherit it (tcp(7))."""
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if listener.family in {socket.AF_INET, socket.AF_INET6}:
        for name, value in _KEEP_ALIVE:
            if (option := getattr(socket, name, None)) is not None:
                listener.setsockopt(socket.IPPROTO_TCP, option, value)


class Server:
    """Makes a `ClientConnection` for each client.

    `handler` answers a request; its second argument is the WebSocket that the request asks for, if it does. `client_s`:
    how long a client is waited for that neither sends its body nor takes its answer.
    """

    def __init__(self, handler: Callable[[Exchange, WebSocketRequest | None], Awaitable[None]]) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self.handler = handler
        self.client_s = _CLIENT_S
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
