"""aiohttp's client as the reference for ours: the same contract tests run against both."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
from multidict import CIMultiDict
from quotapool.openai.head import Head, Header
from quotapool.upstream.interface import Body, Sink, Timeouts, UpstreamFailure
from yarl import URL

from tests.fakes.heads import text

# Headers that aiohttp's client would add unasked: the client's own are passed on, and none is invented.
_NOT_ADDED: Final = frozenset({"User-Agent", "Accept", "Accept-Encoding", "Content-Type"})
_READ_BUFFER: Final = 2**18


class AiohttpAnswer:
    __slots__ = ("_response", "headers", "reason", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.reason = response.reason or ""
        self.headers = Head(list(response.raw_headers))

    def whole(self) -> bytes | None:
        """It is always waited for."""

    async def chunk(self) -> bytes:
        try:
            return await self._response.content.readany()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise _failure(error, sent=True) from error

    async def pour(self, sink: Sink) -> None:
        while data := await self.chunk():
            if (full := sink(data)) is not None:
                await full

    def close(self) -> None:
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()


class AiohttpUpstream:
    """One upstream origin over a keep-alive connection pool."""

    def __init__(
        self,
        base: str,
        timeouts: Timeouts,
        *,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
        most: int | None = None,
    ) -> None:
        """As `UpstreamClient`, but for a proxy before an http upstream, which gets whole URLs instead of a CONNECT."""
        url = URL(base)
        self._origin = str(url.origin())
        self._prefix = url.raw_path.rstrip("/")
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=timeouts.connect, sock_read=timeouts.between_bytes
        )
        self._first_byte = timeouts.first_byte
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=most or 0, ttl_dns_cache=60, keepalive_timeout=60, ssl=tls if tls is not None else True
            ),
            proxy=proxy,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_ADDED,
            timeout=self._timeout,
            trace_configs=[_note_reuse()],
            read_bufsize=_READ_BUFFER,
            max_line_size=65_536,
            max_field_size=65_536,
        )

    def __repr__(self) -> str:
        return f"<AiohttpUpstream {self._origin}{self._prefix}>"

    async def send(self, method: str, target: str, headers: Sequence[Header], body: Body) -> AiohttpAnswer:
        url = URL(f"{self._origin}{self._prefix}{target}", encoded=True)
        reused: list[bool] = []
        request = self._session.request(
            method,
            url,
            headers=CIMultiDict(text(headers)),
            data=body,
            allow_redirects=False,
            expect100=False,
            trace_request_ctx=reused,
        )
        try:
            async with asyncio.timeout(self._first_byte):
                response = await request
        except asyncio.CancelledError:
            raise
        except Exception as error:
            failure = _failure(error, sent=not isinstance(error, aiohttp.ClientConnectorError))
            failure.idle = failure.reason == "reset" and bool(reused)
            raise failure from error
        return AiohttpAnswer(response)

    async def close(self) -> None:
        await self._session.close()


def _note_reuse() -> aiohttp.TraceConfig:
    """Adds a mark to a request's list if its connection was an open one: aiohttp has no other way to show this."""

    async def reused(_session: aiohttp.ClientSession, context: Any, _params: Any) -> None:
        context.trace_request_ctx.append(True)

    config = aiohttp.TraceConfig()
    config.on_connection_reuseconn.append(reused)
    return config


def _failure(error: Exception, *, sent: bool) -> UpstreamFailure:
    """One of our five reasons for whatever aiohttp raised. Its own texts can hold URLs, so they are not passed on."""
    name = type(error).__name__
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return UpstreamFailure("timeout", "connecting to upstream took too long", sent=False)
    if isinstance(error, TimeoutError):
        return UpstreamFailure("timeout", "upstream took too long to answer", sent=sent)
    if isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError):
        return UpstreamFailure("tls", f"TLS with upstream failed: {name}", sent=False)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return UpstreamFailure("connect", f"the forward proxy answers {error.status}", sent=False)
    if isinstance(error, aiohttp.ClientConnectorError):
        return UpstreamFailure("connect", f"cannot connect to upstream: {error.os_error.strerror or name}", sent=False)
    if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionError | aiohttp.ClientOSError):
        return UpstreamFailure("reset", "upstream closed the connection", sent=sent)
    if isinstance(error, aiohttp.ClientPayloadError):
        return UpstreamFailure("reset", "upstream's answer broke off", sent=sent)
    return UpstreamFailure("protocol", f"upstream's answer could not be understood: {name}", sent=sent)
