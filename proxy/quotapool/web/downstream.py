"""The client's side of a request on aiohttp's low-level server: one read of the body, bytes relayed as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from http import HTTPStatus
from typing import Final

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_exceptions import HttpProcessingError
from multidict import CIMultiDict

from quotapool.openai import replies
from quotapool.openai.headers import Header
from quotapool.openai.refusal import Refusal

_NO_BODY: Final = frozenset({204, 304})


class Written(web.StreamResponse):
    """Tells aiohttp that the answer is on the wire already, and whether the connection may serve another request."""

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
        self.headers = request.headers
        self.started = False
        self.started_at: float | None = None
        self.keep_alive = request.keep_alive
        self.was_cut = False
        self.malformed = False  # the body's chunked encoding is broken
        self._expects = self.headers.get("Expect", "").lower() == "100-continue"

    async def read(self, most: int) -> bytes:
        length = self._request.content_length
        if length is not None and length > most:
            raise Refusal(replies.BODY_TOO_LARGE, f"The body has {length} bytes; this proxy reads at most {most}.")
        self._say_continue()
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
        self._say_continue()
        content = self._request.content
        while piece := await self._piece(content):
            yield piece

    async def _piece(self, content: StreamReader) -> bytes:
        try:
            return await content.readany()
        except HttpProcessingError as broken:
            self.malformed = True
            self.keep_alive = False
            raise Refusal(replies.INVALID_HTTP) from broken

    def _say_continue(self) -> None:
        """aiohttp's low-level server leaves `Expect: 100-continue` to us."""
        transport = self._request.transport
        if self._expects and transport is not None:
            self._expects = False
            if self._request.version >= HttpVersion11:
                transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    async def start(self, status: int, reason: str, headers: Sequence[Header], length: int | None) -> None:
        out = CIMultiDict(headers)
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
