"""aiohttp's low-level server, with OpenAI's error shape for what is not HTTP.

aiohttp itself would repeat the broken bytes in its answer and, as an error with a traceback, in the log. They may hold
a client's key or a prompt, and anyone can send them, so neither is done.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web
from aiohttp.web_protocol import _ErrInfo

from quotapool.openai import replies
from quotapool.openai.refusal import Refusal

_log = structlog.get_logger()
_KEEP_ALIVE_S: Final = 75.0
_LONGEST_LINE: Final = 65_536  # bytes of one header line; OpenAI takes 64 KiB of headers in all


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

        Raises ConnectionError where an answer had begun.
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
        response = web.Response(status=refusal.status, body=refusal.body(), headers=refusal.headers())
        response.force_close()
        return response


class Listener(web.Server):
    """Makes a `Connection` for each client: long headers are read, bodies are not decompressed, and a client that
    leaves cancels its request."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]) -> None:
        super().__init__(
            handler,
            access_log=None,
            keepalive_timeout=_KEEP_ALIVE_S,
            max_field_size=_LONGEST_LINE,
            max_line_size=_LONGEST_LINE,
            auto_decompress=False,
            handler_cancellation=True,
        )

    def __call__(self) -> Connection:
        return Connection(self, loop=self._loop, **self._kwargs)
