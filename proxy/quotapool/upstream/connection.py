"""One keep-alive connection to upstream: HTTP/1.1 answers parsed strictly, one at a time.

llhttp (through httptools) parses and refuses what could be read in two ways: conflicting or repeated lengths, a length
beside a transfer coding, folded headers, bare line ends, bad chunk sizes. What it lets through and we do not: codings
other than one plain `chunked`, versions other than 1.0 and 1.1, protocol switches nobody asked for, heads, trailers
and chunk extensions without end, and bytes after an answer's end. A connection that saw any of it is dropped.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol, cast

import httptools
from multidict import CIMultiDict

from quotapool.openai.headers import decode_headers
from quotapool.upstream.answer import StreamedAnswer
from quotapool.upstream.interface import Body, Timeouts, UpstreamFailure

_LONGEST_HEAD: Final = 2**16  # bytes: of an answer's head, its trailers, or the framing between two pieces of a body
_IDLE_S: Final = 60.0
_MARGIN: Final = 0.8  # of the time a server says it keeps an idle connection: ours must be the first to close it
_TRUSTED_S: Final = 1.0  # a connection idle for longer is looked at before it is used
_NO_BODY: Final = frozenset({204, 304})
_VERSIONS: Final = frozenset({"1.0", "1.1"})
_BROKE_OFF: Final = "upstream's answer broke off"


class ConnectionOwner(Protocol):
    """Whoever keeps the connections: hears of the first whole answer of one, when it is free again, when it is gone."""

    def answered(self, connection: UpstreamConnection) -> None: ...

    def free(self, connection: UpstreamConnection) -> None: ...

    def gone(self, connection: UpstreamConnection) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop, keeper: ConnectionOwner, timeouts: Timeouts) -> None:
        self.loop = loop
        self._keeper = keeper
        self._between_s = timeouts.between_bytes
        # Called for each line of a head, so it only gathers them: all are made text of at once.
        self._fields: list[tuple[bytes, bytes]] = []  # of the heads so far, then of the trailers
        add = self._fields.append
        self.on_header: Callable[[bytes, bytes], None] = lambda name, value: add((name, value))
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None  # None: not yet, or no more
        self._answer: StreamedAnswer | None = None  # the one under way
        self.served = 0  # answers that came to their end
        self._headless = False
        self._usable = True  # for another request
        self.keep_s = _IDLE_S
        self.free_since = 0.0
        # the request's body, where it comes piece by piece
        self._sender: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._full = False
        # one timer for all waits: it is not moved with each of them, it looks at the deadline when it fires
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._begin()

    def _begin(self) -> None:
        self._fields.clear()
        self._final = 0  # where in the fields the head of the answer begins, after those of the interim ones
        self._overhead = 0  # bytes since the last piece of a body
        self._phrase = b""
        self._heard = False
        self._interim = False
        self._to_the_end = False  # the body ends with the connection
        self._ended = False
        self._paused = False

    # ---- requests

    def request(self, method: str, head: bytes, body: Body, length: int | None) -> StreamedAnswer:
        """Send a request. `length` of a body that comes piece by piece; None: it goes out in chunks."""
        transport = self.transport
        assert transport is not None  # noqa: S101 -- a connection is asked only after it was made
        self._begin()
        if self._headless:  # the parser still waits for the body that a HEAD's answer told of
            self._parser = httptools.HttpResponseParser(self)
        self._headless = method == "HEAD"
        answer = self._answer = StreamedAnswer(self, self._between_s)
        if body is None:
            transport.write(head)
        elif not isinstance(body, bytes):
            transport.write(head)
            self._sender = self.loop.create_task(self._send(transport, body, length))
        elif len(body) < _LONGEST_HEAD:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        return answer

    async def _send(self, transport: asyncio.Transport, body: AsyncIterator[bytes], length: int | None) -> None:
        sent = 0
        try:
            async for piece in body:
                sent += len(piece)
                if length is None:
                    if piece:
                        transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
                elif sent <= length:
                    transport.write(piece)
                if self._full:
                    self._drained = self.loop.create_future()
                    await self._drained
            if length is None:
                transport.write(b"0\r\n\r\n")
            elif sent != length:
                raise ValueError("a body of another length than its Content-Length")
        except Exception as error:  # noqa: BLE001 -- whatever the body's source raises
            self._sender = None
            self._fail("protocol", "the request's body broke off", error)
        else:
            self._sender = None

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    # ---- for answers

    def read_on(self, answer: StreamedAnswer) -> None:
        if self._paused and answer is self._answer and self.transport is not None:
            self._paused = False
            self.transport.resume_reading()

    def give_up(self, answer: StreamedAnswer) -> None:
        if answer is self._answer:
            self._answer = None
            answer.end(UpstreamFailure("reset", "given up", sent=True))
            self.drop()

    def expect_by(self, deadline: float | None) -> None:
        """Fail with `timeout` where nothing comes until then (in the loop's time)."""
        self._deadline = deadline
        if deadline is None or (self._timer is not None and self._timer.when() <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(deadline, self._due)

    def _due(self) -> None:
        self._timer = None
        if self._deadline is not None and self._answer is not None:
            if self.loop.time() < self._deadline:
                self._timer = self.loop.call_at(self._deadline, self._due)
            else:
                self._fail("timeout", "upstream took too long to answer")

    # ---- between requests

    @property
    def is_lost(self) -> bool:
        return self.transport is None

    def is_usable(self, now: float) -> bool:
        """Whether an idle connection is still good, as far as can be told from here."""
        transport = self.transport
        if transport is None or transport.is_closing() or now >= self.expires():
            return False
        if now - self.free_since < _TRUSTED_S and not self._headless:
            return True
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)  # it would say that the other side has closed, or has spoken unasked

    def expires(self) -> float:
        return self.free_since + self.keep_s

    def drop(self, *, politely: bool = False) -> None:
        """Close it. `politely`: with TLS's farewell; else at once."""
        self._usable = False
        if self._sender is not None:
            self._sender.cancel()
            self._sender = None
        if self.transport is not None:
            if politely:
                self.transport.close()
            else:
                self.transport.abort()

    # ---- the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def eof_received(self) -> None:
        if self._to_the_end and self._answer is not None:
            self._finish()
        elif self._answer is not None:
            self._fail("reset", _BROKE_OFF if self._answer.begun else "upstream closed the connection")

    def connection_lost(self, exc: Exception | None) -> None:
        self._usable = False
        if self._answer is not None:
            self._fail("reset", _BROKE_OFF if self._answer.begun else "upstream closed the connection", exc)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.resume_writing()
        self.transport = None
        self._keeper.gone(self)
        del self._parser  # it holds us as we hold it, and the collector seldom comes by

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.drop()  # nobody asked: whatever follows on this connection cannot be trusted
            return
        self._heard = True
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
            if self._overhead > _LONGEST_HEAD:
                raise httptools.HttpParserError("too many bytes of framing")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._usable = False
            if not self._ended:
                said = error.__context__ or error
                self._fail("protocol", f"upstream's answer could not be understood: {said}", error)
                return
        if self._ended:
            self._finish()
        elif answer.begun:
            self._deadline = None
            answer.flow()

    def _finish(self) -> None:
        """The answer is all here. Its connection may serve the next request before this one's body is read."""
        answer, self._answer = self._answer, None
        self._deadline = None
        self.served += 1
        if answer is not None:
            answer.end()
        transport = self.transport
        if self.served == 1:
            self._keeper.answered(self)
        if self._sender is not None or transport is None or transport.get_write_buffer_size():
            self.drop()  # answered before it had the whole request: the rest would only be in the next one's way
        elif not self._usable or self._to_the_end:
            self.drop(politely=True)
        else:
            if self._paused:
                transport.resume_reading()
            self.free_since = self.loop.time()
            self._keeper.free(self)

    def _fail(self, reason: str, detail: str, cause: BaseException | None = None) -> None:
        answer, self._answer = self._answer, None
        idle = reason == "reset" and self.served > 0 and not self._heard
        failure = UpstreamFailure(reason, detail, sent=True, idle=idle)
        failure.__cause__ = cause
        if answer is not None:
            answer.end(failure)
        self.drop()

    # ---- the parser

    def on_message_begin(self) -> None:
        if self._ended:
            raise httptools.HttpParserError("bytes after the answer's end")

    def on_status(self, phrase: bytes) -> None:
        self._phrase += phrase

    def on_headers_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if answer is None or self._ended:
            return
        fields = self._fields
        if self._overhead > _LONGEST_HEAD and sum(len(name) + len(value) + 4 for name, value in fields) > _LONGEST_HEAD:
            raise httptools.HttpParserError("its head is too long")
        status = parser.get_status_code()
        if parser.get_http_version() not in _VERSIONS or status < 100 or status == 101:
            raise httptools.HttpParserError("not an answer to an HTTP/1.1 request")
        if status < 200:
            self._interim = True
            self._final = len(fields)
            self._phrase = b""
            return
        answer.status = status
        answer.reason = self._phrase.decode("utf-8", "surrogateescape")
        headers = answer.headers = CIMultiDict(decode_headers(fields[self._final :]))
        fields.clear()
        framed = "Content-Length" in headers
        if "Transfer-Encoding" in headers:
            if [coding.lower() for coding in headers.getall("Transfer-Encoding")] != ["chunked"]:
                raise httptools.HttpParserError("a transfer coding that is not `chunked`")
            framed = True
        if self._headless or status in _NO_BODY:
            # A body where none may be could pass for the next answer. With a plain length each byte of it is noticed
            # (`on_body`); with chunks, or where a 204 has a length, it is not worth finding out.
            certain = status == 304 or not framed or (self._headless and "Transfer-Encoding" not in headers)
            self._usable = self._usable and certain and parser.should_keep_alive()
            self._ended = True
        else:
            self._to_the_end = not framed
            self._usable = self._usable and parser.should_keep_alive()
        if "Keep-Alive" in headers:
            self.keep_s = min(_IDLE_S, _MARGIN * _kept_s(headers["Keep-Alive"]))
        self._overhead = 0
        answer.begun = True

    def on_body(self, data: bytes) -> None:
        answer = self._answer
        self._overhead = 0
        if answer is None or self._ended:
            self._usable = False  # bytes that should not be there
            return
        if answer.feed(data) and not self._paused and self.transport is not None:
            self._paused = True
            self.transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._interim:
            self._interim = False
        else:
            self._ended = True


def _kept_s(value: str) -> float:
    """Seconds from `Keep-Alive: timeout=5, max=100`."""
    for part in value.split(","):
        name, _, number = part.strip().partition("=")
        if name.lower() == "timeout" and number.isascii() and number.isdigit():
            return float(number)
    return _IDLE_S / _MARGIN
