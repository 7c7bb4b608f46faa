"""Passing an upstream answer on: read whole, as a watched stream, or as bytes that are not looked at.

Before the point of no return nothing has reached the client, so an answer that turns out to be an error can still be
dropped and another key asked. After it, a broken upstream is shown as a cut and never as a clean end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Final, Protocol

from quotapool.domain.echoes import EchoFilter
from quotapool.domain.verdict import Kind
from quotapool.openai.classify import classify_stream_error, failure_in
from quotapool.openai.encoding import decoded
from quotapool.openai.head import Head, Header
from quotapool.openai.skimmed import SkimmedJson
from quotapool.openai.sse import StreamRelay
from quotapool.openai.usage import read_usage
from quotapool.request.outcome import Passed
from quotapool.request.overrun import StreamBound, StreamOverrun
from quotapool.upstream.interface import Answer, UpstreamFailure, read_body

_READ_WHOLE: Final = 4 * 2**20  # a JSON answer up to this size is sent in one piece, with its length
_TAIL: Final = 2**18  # bytes at the end of a longer one that are kept, without long strings: its usage is there
_LONGEST_IN_TAIL: Final = 1024
_LONGEST_LIST: Final = 32 * 2**20  # and one that names stored objects, up to this


class Downstream(Protocol):
    """The client's side of one request."""

    method: str
    target: str  # path and query as they came
    headers: Head
    started: bool  # the point of no return

    @property
    def address(self) -> str:
        """Where the client is: the other end of its connection; "": a Unix socket."""
        ...

    async def read(self, most: int) -> bytes:
        """The whole body. Raises Refusal (413) beyond `most` bytes."""
        ...

    def stream(self) -> AsyncIterator[bytes]:
        """The body as it comes in, for what is never read or repeated."""
        ...

    def reply(
        self, status: int, reason: str, headers: Sequence[Header], length: int | None, body: bytes
    ) -> Awaitable[None] | None:
        """A whole answer at once: what `start`, `write` and `finish` do. What comes back is to be awaited. Raises
        ConnectionResetError."""
        ...

    async def start(self, status: int, reason: str, headers: Sequence[Header], length: int | None) -> None: ...

    async def write(self, data: bytes) -> None: ...

    def put(self, data: bytes) -> Awaitable[None] | None:
        """Write at once; what comes back is to be awaited before the next piece. Raises ConnectionResetError."""
        ...

    async def finish(self) -> None: ...

    def cut(self) -> None:
        """Break the connection off, so that a part is not taken for the whole."""
        ...


class AnswerReader(Protocol):
    """Reads an answer for the ids of stored objects (`objects/answer_reader.py`)."""

    account: str  # who answered, set beforehand
    reads_chunks: bool  # a stream's last event does not contain all there is to learn

    @property
    def shows_others(self) -> bool:
        """The answer must not pass unread."""
        ...

    async def answered(self, body: bytes) -> bytes: ...

    def began(self, object_id: str) -> None: ...

    def passes(self, chunk: bytes) -> None: ...

    def located(self, location: str) -> None: ...

    def ends(self, event: bytes) -> None: ...

    async def written(self) -> None: ...


async def pass_json(
    down: Downstream,
    answer: Answer,
    headers: Sequence[Header],
    passed: Passed,
    echo: EchoFilter,
    reader: AnswerReader | None = None,
    *,
    counts: bool = True,
) -> None:
    """A JSON answer, read whole and then sent whole. A large one flows, usage at its end. Stored objects that it names
    are recorded before the client gets it. `counts`: it has usage. A response that failed for its key's
    sake is returned as an error, not sent."""
    if reader is not None and reader.shows_others and answer.headers.get("content-encoding", "identity") != "identity":
        raise UpstreamFailure("protocol", "a list came encoded, so whose objects it shows is not known", sent=True)
    most = _READ_WHOLE if reader is None else _LONGEST_LIST
    whole = answer.whole()  # as most answers come: nothing to wait for
    body = await read_body(answer, most) if whole is None else whole
    if len(body) > most:
        if reader is not None and reader.shows_others:
            raise UpstreamFailure("protocol", "the list is too long to check whose objects it shows", sent=True)
        await _flow(down, answer, headers, body, passed, echo)
        return
    body = echo.whole(body)
    if "content-encoding" in answer.headers.first:  # although it was asked for plain bytes
        text = decoded(body, answer.headers["content-encoding"], most)
        if (clean := echo.whole(text)) is not text:
            headers, body = [pair for pair in headers if pair[0].lower() != b"content-encoding"], clean
    else:
        text = body
    if counts:
        passed.usage, passed.final = read_usage(text), text
    failure = failure_in(text)
    if failure is not None and classify_stream_error(failure).kind in {Kind.MONEY, Kind.DEAD}:
        passed.error = failure  # the key's own trouble, and nothing was generated: another key can be asked
        return
    passed.late_error = failure
    passed.complete = True
    if reader is not None:
        body = await reader.answered(body)
    if (full := down.reply(answer.status, answer.reason, headers, len(body), body)) is not None:
        await full


async def _flow(
    down: Downstream, answer: Answer, headers: Sequence[Header], body: bytes, passed: Passed, echo: EchoFilter
) -> None:
    length = answer.headers.get("content-length")
    await down.start(answer.status, answer.reason, headers, int(length) if length else None)
    await down.write(echo.feed(body))
    kept = SkimmedJson(_TAIL, _LONGEST_IN_TAIL)
    kept.feed(body)
    while chunk := await answer.chunk():
        await down.write(echo.feed(chunk))
        kept.feed(chunk)
    await down.write(echo.finish())
    passed.usage = read_usage(bytes(kept.kept))
    passed.complete = True
    await down.finish()


async def pass_bytes(
    down: Downstream, answer: Answer, headers: Sequence[Header], passed: Passed, echo: EchoFilter
) -> None:
    """An answer of which nothing is needed: files, audio, images."""
    written = answer.headers.raw("content-length")
    length = int(written) if written is not None and written.isdigit() else None
    whole = answer.whole()
    if whole is not None:
        if (full := down.reply(answer.status, answer.reason, headers, length, echo.whole(whole))) is not None:
            await full
        passed.complete = True
        return
    await down.start(answer.status, answer.reason, headers, length)
    await answer.pour(lambda chunk: down.put(echo.feed(chunk)))
    await down.write(echo.finish())
    passed.complete = True
    await down.finish()


async def pass_stream(
    down: Downstream,
    answer: Answer,
    headers: Sequence[Header],
    watch: StreamRelay,
    hold_s: float,
    passed: Passed,
    echo: EchoFilter,
    reader: AnswerReader | None = None,
    bound: StreamBound | None = None,
) -> None:
    """Server-sent events. The preamble is held at most `hold_s`; an error found in it is returned, not sent. `bound`:
    how much of it the client has a budget for; None: it is not to be cut."""
    held: list[bytes] = []
    named = False
    try:
        ended = await _hold(answer, watch, hold_s, held, echo)
        if watch.error is not None and not watch.committed:
            passed.error = watch.error
            return
        if reader is not None:
            if reader.reads_chunks:
                reader.passes(b"".join(held))
            named = bool(watch.object_id)
            if named:
                reader.began(watch.object_id)  # written while the rest comes in
        kept = reader is None or await _kept(reader, watch)
        await down.start(answer.status, answer.reason, headers, None)
        await down.write(b"".join(held))
        if not ended:
            while not kept and reader is not None and (chunk := await answer.chunk()):
                if bound is not None:
                    bound.check(watch)
                if reader.reads_chunks:
                    reader.passes(chunk)
                data = watch.feed(echo.feed(chunk))
                if not named and watch.object_id:
                    named = True
                    reader.began(watch.object_id)
                kept = await _kept(reader, watch)
                await down.write(data)
            if bound is None:
                await answer.pour(lambda chunk: down.put(watch.feed(echo.feed(chunk))))
            else:
                await _pour_within(bound, down, answer, watch, echo)
        rest = echo.finish()
        if rest := (watch.feed(rest) if rest else b"") + watch.finish():
            await down.write(rest)
        passed.complete = True
        await down.finish()
    except StreamOverrun:
        if bound is not None:
            await down.write(bound.event(watch.dialect))
        await down.finish()
    finally:
        _shown(passed, watch)


async def _pour_within(
    bound: StreamBound, down: Downstream, answer: Answer, watch: StreamRelay, echo: EchoFilter
) -> None:
    """Raises StreamOverrun."""

    def put(data: bytes) -> Awaitable[None] | None:
        bound.check(watch)
        return down.put(watch.feed(echo.feed(data)))

    await answer.pour(put)


def _shown(passed: Passed, watch: StreamRelay) -> None:
    """What the stream has shown, however it ended."""
    passed.usage, passed.final = watch.usage, watch.last
    if passed.error is None:
        passed.late_error = watch.error


async def _kept(reader: AnswerReader, watch: StreamRelay) -> bool:
    """Whether the stream has shown all there is to keep; if so, it is kept before the client gets it."""
    if not watch.complete:
        return False
    if watch.last:
        reader.ends(watch.last)
    await reader.written()
    return True


async def _hold(answer: Answer, watch: StreamRelay, hold_s: float, held: list[bytes], echo: EchoFilter) -> bool:
    """Read until the first event that counts, an error, or `hold_s` from the first byte; with 0, only what came first.
    True if the stream ended."""
    chunk = await answer.chunk()
    deadline = time.monotonic() + hold_s
    while chunk:
        held.append(watch.feed(echo.feed(chunk)))
        left_s = deadline - time.monotonic()
        if watch.committed or watch.error is not None or left_s <= 0:
            return False
        try:
            async with asyncio.timeout(left_s):
                chunk = await answer.chunk()
        except TimeoutError:
            return False
    return True
