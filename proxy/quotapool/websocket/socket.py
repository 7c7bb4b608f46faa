"""The upstream side of a session, and what both sides share: an open WebSocket that is read, written and ended.

`open_websocket` asks upstream for one. A refusal is an ordinary HTTP answer, which is read whole, so that it can be
classified like any other answer before the client's own handshake is accepted.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import httptools

from quotapool.openai.head import NO_LINES, Head, Header
from quotapool.openai.headers import is_one_line
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.interface import UpstreamFailure
from quotapool.websocket.frames import CLOSE, PING, PONG, FrameError, FrameReader, Message, head_of

READ_BUFFER: Final = 2**15  # bytes; at twice as many that nobody has taken the sender has to wait
_LONGEST_BODY: Final = 2**20  # of a refusal
_LONGEST_HEAD: Final = 2**17  # and of what is not its body, in what came so far
_HANDSHAKE_S: Final = 30.0
_LINGER_S: Final = 10.0
_PIECE: Final = 2**16
_SLICE: Final = 2**12  # bytes that are parsed at once, since they can hold hundreds of messages
_AT_ONCE: Final = 16  # messages that came together and are passed on before other connections have their turn,
_TURN_S: Final = 0.0002  # unless they take longer than this
_TOGETHER: Final = 2**14  # bytes of a payload that are copied into one write with their head
_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept for a client's Sec-WebSocket-Key (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID, usedforsecurity=False).digest()).decode()


class WebSocket:
    """One side of an open session. Pings are answered here; `received_at` is when the last byte came."""

    __slots__ = (
        "_closed",
        "_drain",
        "_frames",
        "_masks",
        "_reader",
        "_ready",
        "_taken",
        "_transport",
        "_turn_ends",
        "_unread",
        "received_at",
        "receiving",
    )

    def __init__(
        self,
        reader: asyncio.StreamReader,
        transport: asyncio.Transport,
        drain: Callable[[], Awaitable[None]],
        *,
        is_client: bool,
        most: int,
    ) -> None:
        """`is_client`: we are the client of this side, so we mask. `most`: bytes of one message."""
        self._reader = reader
        self._transport = transport
        self._drain = drain
        self._masks = is_client
        self._frames = FrameReader(masked=not is_client, most=most)
        self._ready: deque[Message] = deque()
        self._unread = memoryview(b"")  # what came with them and is not parsed yet
        self._taken = 0  # messages since others last had their turn
        self._turn_ends = 0.0
        self._closed = False  # the closing frame is out: nothing may follow it (RFC 6455 §5.5.1)
        self.received_at = time.monotonic()
        self.receiving = False  # `receive` waits for bytes: only then does silence mean anything

    async def receive(self) -> Message | None:
        """The next text, binary or close message; None if the other side vanished without one.

        Raises FrameError. A message is read only when it is asked for, so a slow reader slows the sender down.
        """
        while True:
            while self._ready:
                message = self._ready.popleft()
                self._taken += 1
                if self._taken > _AT_ONCE or time.perf_counter() > self._turn_ends:
                    await asyncio.sleep(0)
                    self._begin_turn()
                if message.opcode == PING:
                    await self.send(PONG, message.payload)
                elif message.opcode != PONG:
                    return message
            if not self._unread:
                self.receiving = True
                try:
                    data = await self._reader.read(_PIECE)
                except OSError:  # reset, or given up by the kernel (ETIMEDOUT, EHOSTUNREACH), or broken TLS
                    return None
                finally:
                    self.receiving = False
                if not data:
                    return None
                self.received_at = time.monotonic()
                self._begin_turn()
                self._unread = memoryview(data)
            some = max(_SLICE, self._frames.missing)
            part, self._unread = self._unread[:some], self._unread[some:]
            self._ready.extend(self._frames.feed(part))
            if self._unread and not self._ready:
                await asyncio.sleep(0)  # fragments, each of nothing

    def _begin_turn(self) -> None:
        self._taken = 0
        self._turn_ends = time.perf_counter() + _TURN_S

    def feed(self, data: bytes) -> None:
        """Bytes that came with the handshake's answer. Raises FrameError."""
        self._ready.extend(self._frames.feed(data))

    async def send(self, opcode: int, payload: bytearray) -> None:
        """Send a message, and wait while the other side is slow. Raises ConnectionError if it is gone.
        Nothing is sent behind a closing frame.

        The payload is used up: it is masked in place.
        """
        self.send_now(opcode, payload)
        try:
            await self._drain()
        except OSError as lost:
            raise ConnectionResetError("the other side is gone") from lost

    def send_now(self, opcode: int, payload: bytearray) -> None:
        """Send without waiting; for small messages. Raises ConnectionError if the other side is gone."""
        transport = self._transport
        if transport.is_closing():
            raise ConnectionResetError("the other side is gone")
        if self._closed:
            return
        head = head_of(opcode, payload, masks=self._masks)
        if len(payload) <= _TOGETHER:
            transport.write(head + payload)
        else:
            transport.write(head)
            transport.write(payload)

    def ping(self) -> None:
        """Ask for a pong."""
        if not self._transport.is_closing():
            self.send_now(PING, bytearray())

    def send_close(self, payload: bytearray) -> None:
        """Send the closing frame; nothing if it was sent before, or the connection is closing already."""
        if not self._transport.is_closing():
            self.send_now(CLOSE, payload)
            self._closed = True

    def end(self) -> None:
        """Close the connection once everything written has gone out, or has not been taken for a while."""
        transport = self._transport
        if transport.get_write_buffer_size():
            asyncio.get_running_loop().call_later(_LINGER_S, transport.abort)
        transport.close()

    def abort(self) -> None:
        self._transport.abort()


@dataclass(slots=True)
class Handshake:
    """Upstream's answer to the handshake: a session, or a refusal with its body. `protocol`: what it chose, or ""."""

    status: int
    reason: str
    headers: Head
    body: bytes = b""
    socket: WebSocket | None = field(default=None, repr=False)
    protocol: str = ""


async def open_websocket(
    upstream: UpstreamClient, target: str, headers: Sequence[Header], protocols: Sequence[str], *, most: int
) -> Handshake:
    """Ask upstream for a session with these headers and subprotocols. Raises UpstreamFailure."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [*headers, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    lines += [(b"Sec-WebSocket-Version", b"13"), (b"Sec-WebSocket-Key", key.encode())]
    if protocols:
        lines.append((b"Sec-WebSocket-Protocol", ", ".join(protocols).encode("utf-8", "surrogateescape")))
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=READ_BUFFER, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    transport = await upstream.open_dedicated("GET", target, lines, lambda: protocol)
    writer = asyncio.StreamWriter(transport, protocol, reader, loop)
    try:
        async with asyncio.timeout(_HANDSHAKE_S):
            answer = _Answer()
            while not answer.complete:
                data = await reader.read(_PIECE)
                if not data:
                    answer.feed_eof()
                    break
                answer.feed(data)
        handshake = Handshake(answer.status, answer.phrase, answer.headers, bytes(answer.body))
        if handshake.status < 400:
            handshake.protocol = _check(handshake, key, protocols)
            handshake.socket = WebSocket(reader, transport, writer.drain, is_client=True, most=most)
            handshake.socket.feed(answer.rest)
            return handshake
    except FrameError as broken:
        transport.abort()
        raise UpstreamFailure("protocol", f"upstream's first frames are broken: {broken}", sent=True) from broken
    except TimeoutError as slow:
        transport.abort()
        raise UpstreamFailure("timeout", "upstream took too long to open a session", sent=True) from slow
    except (ConnectionError, OSError) as lost:
        transport.abort()
        raise UpstreamFailure("reset", "upstream closed the connection", sent=True) from lost
    except BaseException:
        transport.abort()
        raise
    transport.close()
    return handshake


def _check(handshake: Handshake, key: str, protocols: Sequence[str]) -> str:
    """The subprotocol of a session that was opened as the RFC demands (§4.1). Raises UpstreamFailure."""
    headers = handshake.headers
    chosen = headers.get("Sec-WebSocket-Protocol", "")
    if (
        handshake.status != 101
        or headers.get("Upgrade", "").lower() != "websocket"
        or headers.get("Sec-WebSocket-Accept") != accept_key(key)
        or headers.get("Sec-WebSocket-Extensions")
        or (chosen and chosen not in protocols)
    ):
        raise UpstreamFailure("protocol", "upstream did not open the session that was asked for", sent=True)
    return chosen


class _Answer:
    """The handshake's answer, parsed as it comes. Callbacks are httptools'."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._received = 0  # bytes, interim answers included
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.phrase = ""
        self.headers = NO_LINES
        self._fields: list[Header] = []  # of the head, then of the trailers
        self.body = bytearray()
        self.rest = b""  # what came after a switch of protocols
        self.complete = False

    def feed(self, data: bytes) -> None:
        """Raises UpstreamFailure."""
        self._received += len(data)
        try:
            self._parser.feed_data(data)
            if self._received - len(self.body) > _LONGEST_HEAD and not self.complete:
                raise httptools.HttpParserError("too many bytes of framing")
        except httptools.HttpParserUpgrade as switch:
            self.rest = data[switch.args[0] :]
            self.complete = True
        except httptools.HttpParserError as error:
            reason = error.__context__ or error
            raise UpstreamFailure(
                "protocol", f"upstream's answer could not be understood: {reason}", sent=True
            ) from error
        if len(self.body) > _LONGEST_BODY:
            self.complete = True

    def feed_eof(self) -> None:
        """The connection has ended. Raises UpstreamFailure if that is no end of an answer."""
        if self.status < 200 or "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            raise UpstreamFailure("reset", "upstream closed the connection", sent=True)

    def on_message_begin(self) -> None:
        self._begin()

    def on_status(self, phrase: bytes) -> None:
        self.phrase += phrase.decode("utf-8", "surrogateescape")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.headers = Head(self._fields)
        if not is_one_line(self.phrase):
            raise httptools.HttpParserError("a reason phrase of more than one line")

    def on_body(self, piece: bytes) -> None:
        self.body += piece

    def on_message_complete(self) -> None:
        self.complete = self.status >= 200 or self.status == 101
