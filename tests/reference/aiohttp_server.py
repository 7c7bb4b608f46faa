"""aiohttp's low-level server as the reference for ours: the same contract tests run against both.

aiohttp itself would repeat the bytes of what is not HTTP in its answer and, as an error with a traceback, in the log.
They may hold a client's key or a prompt, and anyone can send them, so neither is done.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from http import HTTPStatus
from typing import Final

import structlog
from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import _ErrInfo
from multidict import CIMultiDict
from quotapool.openai import replies
from quotapool.openai.head import Head, Header
from quotapool.openai.refusal import Refusal
from quotapool.openai.replies import ProxyError
from quotapool.web.handlers import ClientHandler

from tests.fakes.heads import text

_log = structlog.get_logger()
_KEEP_ALIVE_S: Final = 75.0
_LONGEST_LINE: Final = 65_536  # bytes of one header line; OpenAI takes 64 KiB of headers in all
_NO_BODY: Final = frozenset({204, 304})


class Written(web.StreamResponse):
    """Shows aiohttp that the answer is on the wire already, and whether the connection may serve another request."""

    def __init__(self, *, keep_alive: bool) -> None:
        super().__init__()
        if not keep_alive:
            self.force_close()

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if self.keep_alive is None:
            self._keep_alive = request.keep_alive
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""
        del data


class AiohttpDownstream:
    """One request and its answer. Every answer carries `x-quotapool-request-id`."""

    def __init__(self, request: web.BaseRequest) -> None:
        self._request = request
        self._writer = request.writer
        self.id = ""
        self._chunked = False
        self._headless = request.method == "HEAD"
        self.method = request.method
        self.target = request.raw_path
        self.headers = Head(list(request.raw_headers))
        self.started = False
        self.started_at: float | None = None
        self.keep_alive = request.keep_alive
        self.was_cut = False
        self.address = request.remote or ""
        self.fault: ProxyError | None = None  # the body's chunked encoding is broken
        self._expects = self.headers.get("Expect", "").lower() == "100-continue"

    async def read(self, most: int) -> bytes:
        length = self._request.content_length
        if length is not None and length > most:
            raise Refusal(replies.BODY_TOO_LARGE, f"The body has {length} bytes; this proxy reads at most {most}.")
        self._continue()
        content = self._request.content
        pieces: list[bytes] = []
        size = 0
        while piece := await self._piece(content):
            pieces.append(piece)
            size += len(piece)
            if size > most:
                raise Refusal(replies.BODY_TOO_LARGE, f"The body is longer than the {most} bytes this proxy reads.")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def stream(self) -> AsyncIterator[bytes]:
        self._continue()
        content = self._request.content
        while piece := await self._piece(content):
            yield piece

    async def _piece(self, content: StreamReader) -> bytes:
        try:
            return await content.readany()
        except HttpProcessingError as broken:
            self.fault = replies.INVALID_HTTP
            self.keep_alive = False
            raise Refusal(replies.INVALID_HTTP) from broken

    def _continue(self) -> None:
        """aiohttp's low-level server leaves `Expect: 100-continue` to us."""
        transport = self._request.transport
        if self._expects and transport is not None:
            self._expects = False
            if self._request.version >= HttpVersion11:
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def reply(
        self, status: int, reason: str, headers: Sequence[Header], length: int | None, body: bytes
    ) -> Awaitable[None]:
        async def sent() -> None:
            await self.start(status, reason, headers, length)
            await self.write(body)
            await self.finish()

        return asyncio.ensure_future(sent())

    async def start(self, status: int, reason: str, headers: Sequence[Header], length: int | None) -> None:
        out = CIMultiDict(text(headers))
        out.add("x-quotapool-request-id", self.id)
        writer = self._writer
        if self._expects:
            self.keep_alive = False  # the client may still send the body or not: what follows could be either
        if status == HTTPStatus.NO_CONTENT:
            length = None  # RFC 9110 §8.6
        if length is not None:
            out.add("Content-Length", str(length))
            writer.length = length
        elif self._headless or status in _NO_BODY:
            writer.length = 0
        elif self._request.version >= HttpVersion11:
            out.add("Transfer-Encoding", "chunked")
            writer.enable_chunking()
        else:
            self.keep_alive = False  # HTTP/1.0: the end of the connection ends the body
        if not self.keep_alive:
            out["Connection"] = "close"
        elif self._request.version < HttpVersion11:
            out["Connection"] = "keep-alive"
        self.started = True
        self.started_at = time.monotonic()
        await writer.write_headers(f"HTTP/1.1 {status} {reason or _phrase(status)}", out)

    async def write(self, data: bytes) -> None:
        if data and not self._headless:
            await self._writer.write(data)

    def put(self, data: bytes) -> Awaitable[None]:
        writing = asyncio.ensure_future(self.write(data))  # a client that left leaves no coroutine behind
        writing.add_done_callback(lambda task: task.cancelled() or task.exception())
        return writing

    async def finish(self) -> None:
        await self._writer.write_eof()

    def cut(self) -> None:
        self.was_cut = True
        self.keep_alive = False
        transport = self._request.transport
        if transport is not None:
            transport.abort()

    def written(self) -> Written:
        """For aiohttp: what happened is on the wire."""
        return Written(keep_alive=self.keep_alive and not self.was_cut)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


class Connection(web.RequestHandler):
    """One client's connection."""

    __slots__ = ()

    def data_received(self, data: bytes) -> None:
        """aiohttp queues an error behind the request under way, whose broken body would then never end: end it."""
        super().data_received(data)
        request = self._current_request
        if self._messages and request is not None and not request.content.is_eof():
            last = self._messages[-1][0]
            if isinstance(last, _ErrInfo):
                request.content.set_exception(last.exc)
                request.content.feed_eof()  # else aiohttp reads on after the answer, and logs what it finds

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a request that never became one: 400, or 500 for a fault of ours. The connection ends.

        Raises ConnectionError if an answer had begun.
        """
        del message
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        if status < 500:
            _log.debug("a client does not speak HTTP", reason=type(exc).__name__)
            refusal = Refusal(replies.INVALID_HTTP)
        else:
            _log.error("request failed", exc_info=exc)
            refusal = Refusal(replies.INTERNAL_ERROR)
        response = web.Response(status=refusal.status, body=refusal.body(), headers=text(refusal.headers()))
        response.force_close()
        return response


class AiohttpServer(web.Server):
    """Makes a `Connection` for each client: long headers are read, bodies are not decompressed, and a client that
    leaves cancels its request."""

    def __init__(self, handler: ClientHandler) -> None:
        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            down = AiohttpDownstream(request)
            await handler.serve(down)
            return down.written()

        super().__init__(
            answer,
            access_log=None,
            keepalive_timeout=_KEEP_ALIVE_S,
            max_field_size=_LONGEST_LINE,
            max_line_size=_LONGEST_LINE,
            auto_decompress=False,
            handler_cancellation=True,
        )

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)
