"""One keep-alive connection to upstream: HTTP/1.1 answers parsed strictly, one at a time.

llhttp (through httptools) parses and refuses what could be read in two ways: conflicting or repeated lengths, a length
beside a transfer coding, folded headers, bare line ends, bad chunk sizes. What it lets through and we do not: codings
other than one plain `chunked`, versions other than 1.0 and 1.1, protocol switches nobody asked for, control characters
in a reason phrase, heads, trailers and chunk extensions without end, and bytes after an answer's end. A connection that
saw any of it is dropped.
"""

from __future__ import annotations

import asyncio
import enum
import select
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol, cast

import httptools

from quotapool.openai.head import Head, Header
from quotapool.openai.headers import is_one_line
from quotapool.upstream.answer import StreamedAnswer
from quotapool.upstream.interface import Body, Timeouts, UpstreamFailure
from quotapool.upstream.turns import Turns

_LONGEST_HEAD: Final = 2**16  # bytes: of an answer's head, its trailers, or the framing between two pieces of a body
_AT_ONCE: Final = 2**14  # bytes of an answer that are parsed in one step
_IDLE_S: Final = 60.0
_MARGIN: Final = 0.8  # of the time a server says it keeps an idle connection: ours must be the first to close it
_TRUSTED_S: Final = 1.0  # a connection idle for longer is looked at before it is used
_NO_BODY: Final = frozenset({204, 304})
_VERSIONS: Final = frozenset({"1.0", "1.1"})


class ConnectionOwner(Protocol):
    """Keeps connections, and is notified of what becomes of each."""

    def answered(self, connection: UpstreamConnection) -> None:
        """Its first answer is whole."""
        ...

    def free(self, connection: UpstreamConnection) -> None:
        """It may serve another request."""
        ...

    def gone(self, connection: UpstreamConnection) -> None: ...


class _Reading(enum.Enum):
    """What the next bytes of upstream belong to.

    IDLE -> WAITING                 a request was sent
    WAITING -> HEAD                 the first byte came; interim answers (1xx) are part of the head
    HEAD -> BODY or BODY_TO_THE_END a body by its length or in chunks, or one that ends with the connection
    HEAD, BODY -> ENDED             the answer is whole; what else comes with it is one byte too many
    any -> IDLE                     the answer was handed over, failed, or was given up; a byte now drops the connection
    """

    IDLE = enum.auto()
    WAITING = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()
    BODY_TO_THE_END = enum.auto()
    ENDED = enum.auto()


_NO_PARSER: Final = httptools.HttpResponseParser(None)

# Globals are found faster than members, and they are looked at with each piece that comes.
_IDLE, _WAITING, _HEAD, _BODY, _BODY_TO_THE_END, _ENDED = _Reading


class UpstreamConnection:
    """What is read is `_reading`; whether another request may follow is `_reusable`, and never becomes true again."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, owner: ConnectionOwner, timeouts: Timeouts, turns: Turns
    ) -> None:
        self.loop = loop
        self._owner = owner
        self._turns = turns
        self._between_s = timeouts.between_bytes
        # Called for each line of a head, so it only gathers them.
        self._fields: list[Header] = []  # of the heads so far, then of the trailers
        add = self._fields.append
        self.on_header: Callable[[bytes, bytes], None] = lambda name, value: add((name, value))
        self._parser = httptools.HttpResponseParser(self)
        self.transport: asyncio.Transport | None = None  # None: not yet, or no more
        self._reading = _IDLE
        self._answer: StreamedAnswer | None = None  # the one under way; None while IDLE
        self._reusable = True
        self._asked_head = False  # the last request was a HEAD
        self.served = 0  # answers that came to their end
        self.keep_s = _IDLE_S
        self.free_since = 0.0
        self._reads = True  # the transport reads
        self._full = False  # the answer has enough for now
        self._ahead = b""  # what came at once and is not all parsed,
        self._ahead_at = 0  # and where the rest of it begins
        # the request's body, if it comes piece by piece
        self._sender: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None  # done once upstream takes more; None: it does
        # one timer for all waits: it is not moved with each of them, it looks at the deadline when it fires
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        # of the answer under way
        self._final = 0  # where in the fields its head begins, after those of the interim ones
        self._overhead = 0  # bytes since the last piece of a body
        self._phrase = b""

    # ---- requests

    def request(self, method: str, head: bytes, body: Body, length: int | None) -> StreamedAnswer:
        """Send a request. `length` of a body that comes piece by piece; None: it goes out in chunks."""
        transport = self.transport
        assert transport is not None  # noqa: S101 -- a connection is asked only after it was made
        self._reading = _WAITING
        self._fields.clear()
        self._final = self._overhead = 0
        self._phrase = b""
        if self._asked_head:  # the parser still waits for the body whose length a HEAD's answer gave
            self._parser = httptools.HttpResponseParser(self)
        self._asked_head = method == "HEAD"
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
                if self._drained is not None:
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
        self._drained = self.loop.create_future()

    def resume_writing(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # ---- for answers

    def resume(self, answer: StreamedAnswer) -> None:
        if self._full and answer is self._answer:
            self._full = False
            if self._ahead:
                self._turns.add(self._step)
            else:
                self._look()

    def give_up(self, answer: StreamedAnswer) -> None:
        if answer is self._answer:
            self._take_answer()
            answer.end(UpstreamFailure("reset", "given up", sent=True))
            self.drop()

    def expect_by(self, deadline: float | None) -> None:
        """Fail with `timeout` if nothing comes until then (in the loop's time)."""
        self._deadline = deadline
        if deadline is None or (self._timer is not None and self._timer.when() <= deadline):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_at(deadline, self._deadline_passed)

    def _deadline_passed(self) -> None:
        self._timer = None
        if self._deadline is not None and self._answer is not None:
            if self.loop.time() < self._deadline:
                self._timer = self.loop.call_at(self._deadline, self._deadline_passed)
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
        if now - self.free_since < _TRUSTED_S and not self._asked_head:
            return True
        poll = select.poll()
        poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not poll.poll(0)  # readable: the other side has closed, or has sent something unasked

    def expires(self) -> float:
        return self.free_since + self.keep_s

    def drop(self, *, politely: bool = False) -> None:
        """Close it. `politely`: with TLS's close_notify; else at once."""
        self._reusable = False
        self._ahead = b""
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
        self._parse_ahead()
        if self._reading is _BODY_TO_THE_END:
            self._finish()
        elif self._answer is not None:
            self._break_off()

    def connection_lost(self, exc: Exception | None) -> None:
        self._parse_ahead()
        if self._answer is not None:
            self._break_off(exc)
        self._reusable = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.resume_writing()
        self.transport = None
        self._owner.gone(self)
        self._parser = _NO_PARSER  # ours holds us as we hold it, and the collector seldom comes by

    def data_received(self, data: bytes) -> None:
        if len(data) <= _AT_ONCE and not self._ahead:
            self._parse(data)
            return
        self._ahead = self._ahead[self._ahead_at :] + data
        self._ahead_at = 0
        self._look()
        self._turns.add(self._step)

    def _look(self) -> None:
        """Read on from upstream, or not."""
        reads = not (self._full or self._ahead)
        if reads is not self._reads and self.transport is not None and not self.transport.is_closing():
            self._reads = reads
            if reads:
                self.transport.resume_reading()
            else:
                self.transport.pause_reading()

    def _step(self) -> bool:
        """Parse some of what came. Returns whether more of it can be parsed."""
        ahead, at = self._ahead, self._ahead_at
        if self._full or not ahead:
            return False
        self._ahead_at = at + _AT_ONCE
        if self._ahead_at >= len(ahead):
            self._ahead = b""
        self._parse(memoryview(ahead)[at : self._ahead_at])
        self._look()
        return not self._full and self._ahead != b""

    def _parse_ahead(self) -> None:
        """Nothing more will come: what is ahead is the end."""
        ahead, self._ahead = self._ahead, b""
        if ahead:
            self._parse(memoryview(ahead)[self._ahead_at :])

    def _parse(self, data: bytes | memoryview) -> None:
        answer = self._answer
        if answer is None:
            self.drop()  # nobody asked: whatever follows on this connection cannot be trusted
            return
        if self._reading is _WAITING:
            self._reading = _HEAD
        self._overhead += len(data)
        try:
            self._parser.feed_data(data)
            if self._overhead > _LONGEST_HEAD:
                raise httptools.HttpParserError("too many bytes of framing")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            if self._reading is not _ENDED:
                reason = error.__context__ or error
                self._fail("protocol", f"upstream's answer could not be understood: {reason}", error)
                return
        if self._reading is _ENDED:
            self._finish()
        elif answer.begun:
            self._deadline = None
            answer.flow()

    def _take_answer(self) -> StreamedAnswer | None:
        """Nothing more is read for the answer under way."""
        answer, self._answer = self._answer, None
        self._reading = _IDLE
        return answer

    def _finish(self) -> None:
        """The answer is all here. Its connection may serve the next request before this one's body is read."""
        answer = self._take_answer()
        self._deadline = None
        self.served += 1
        if answer is not None:
            answer.end()
        transport = self.transport
        if self.served == 1:
            self._owner.answered(self)
        if self._sender is not None or transport is None or transport.get_write_buffer_size() or self._ahead:
            self.drop()  # answered before it had the whole request, or more than was asked for: in the next one's way
        elif not self._reusable:
            self.drop(politely=True)
        else:
            self._full = False
            self._look()
            self.free_since = self.loop.time()
            self._owner.free(self)

    def _break_off(self, cause: BaseException | None = None) -> None:
        begun = self._answer is not None and self._answer.begun
        self._fail("reset", "upstream's answer broke off" if begun else "upstream closed the connection", cause)

    def _fail(self, reason: str, detail: str, cause: BaseException | None = None) -> None:
        idle = reason == "reset" and self.served > 0 and self._reading is _WAITING
        failure = UpstreamFailure(reason, detail, sent=True, idle=idle)
        failure.__cause__ = cause
        answer = self._take_answer()
        if answer is not None:
            answer.end(failure)
        self.drop()

    # ---- the parser

    def on_message_begin(self) -> None:
        if self._reading is _ENDED:
            raise httptools.HttpParserError("bytes after the answer's end")

    def on_status(self, phrase: bytes) -> None:
        self._phrase += phrase

    def on_headers_complete(self) -> None:
        answer, parser = self._answer, self._parser
        if answer is None:
            return
        fields = self._fields
        if self._overhead > _LONGEST_HEAD and sum(len(name) + len(value) + 4 for name, value in fields) > _LONGEST_HEAD:
            raise httptools.HttpParserError("its head is too long")
        status = parser.get_status_code()
        if parser.get_http_version() not in _VERSIONS or status < 100 or status == 101:
            raise httptools.HttpParserError("not an answer to an HTTP/1.1 request")
        if status < 200:
            self._final = len(fields)
            self._phrase = b""
            return
        answer.status = status
        answer.reason = self._phrase.decode("utf-8", "surrogateescape")
        if self._phrase != b"OK" and not is_one_line(answer.reason):
            raise httptools.HttpParserError("a reason phrase of more than one line")
        headers = answer.headers = Head(fields[self._final :] if self._final else fields)
        fields.clear()
        framed = "content-length" in headers.first
        if "transfer-encoding" in headers.first:
            if [coding.lower() for coding in headers.getall("transfer-encoding")] != ["chunked"]:
                raise httptools.HttpParserError("a transfer coding that is not `chunked`")
            framed = True
        reusable = parser.should_keep_alive()
        if self._asked_head or status in _NO_BODY:
            # A body where none may be could pass for the next answer. With a plain length each byte of it is noticed
            # (`on_body`); with chunks, or if a 204 has a length, it is not worth finding out.
            certain = status == 304 or not framed or (self._asked_head and "transfer-encoding" not in headers)
            reusable = reusable and certain
            self._reading = _ENDED
        else:
            self._reading = _BODY if framed else _BODY_TO_THE_END
        if not reusable:
            self._reusable = False
        if "keep-alive" in headers.first:
            self.keep_s = min(_IDLE_S, _MARGIN * _kept_s(headers["keep-alive"]))
        self._overhead = 0
        answer.begun = True

    def on_body(self, data: bytes) -> None:
        answer = self._answer
        self._overhead = 0
        if answer is None or self._reading is _ENDED:
            self._reusable = False  # bytes that should not be there
            return
        if answer.feed(data) and not self._full:
            self._full = True
            self._look()

    def on_message_complete(self) -> None:
        if self._reading is not _HEAD:  # else an interim answer
            self._reading = _ENDED


def _kept_s(value: str) -> float:
    """Seconds from `Keep-Alive: timeout=5, max=100`."""
    for part in value.split(","):
        name, _, number = part.strip().partition("=")
        if name.lower() == "timeout" and number.isascii() and number.isdigit():
            return float(number)
    return _IDLE_S / _MARGIN
