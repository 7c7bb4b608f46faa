"""The upstream side of a request: one small interface, and aiohttp's client behind it.

The interface is what a leaner client would have to offer; the request path knows nothing of aiohttp's client.
Secrets of upstream keys live here and in `credentials.py` and go nowhere but into the Authorization header.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import aiohttp
from multidict import CIMultiDict
from yarl import URL

Header = tuple[str, str]
Body = bytes | AsyncIterator[bytes] | None

# Headers that aiohttp's client would add unasked: the client's own are passed on, and none is invented.
_NOT_ADDED: Final = frozenset({"User-Agent", "Accept", "Accept-Encoding", "Content-Type"})
_READ_BUFFER: Final = 2**18


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; None: no limit. `first_byte` covers the wait for the answer's headers, `between_bytes` its body."""

    connect: float | None
    first_byte: float | None
    between_bytes: float | None


class UpstreamFailure(Exception):
    """No answer, or a broken one. `sent`: at least one byte of the request may have reached upstream. `idle`: it went
    out on a connection kept from before, which upstream closed without a word, as servers do with idle ones.

    `reason` is a stable word for metrics and logs: connect, tls, timeout, reset, protocol. The text names no secret.
    """

    def __init__(self, reason: str, detail: str, *, sent: bool, idle: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.sent = sent
        self.idle = idle


class Sink(Protocol):
    """Where pieces of a body go. None: there is room for more; else what to await until there is."""

    def __call__(self, data: bytes) -> Awaitable[None] | None: ...


class Answer(Protocol):
    """An upstream answer whose headers are here and whose body may still be under way."""

    status: int
    reason: str
    headers: CIMultiDict[str]

    async def chunk(self) -> bytes:
        """The next piece of the body as it came in, b"" at its end. Raises UpstreamFailure where it breaks off.

        A cancelled call loses nothing: the next one gets the same piece.
        """
        ...

    async def pour(self, sink: Sink) -> None:
        """Give each further piece of the body to `sink` as it comes in, until its end; upstream waits while the sink is
        full. Raises UpstreamFailure where the body breaks off, and whatever `sink` raises."""
        ...

    def close(self) -> None:
        """Give the connection up unless the body was read to its end. Never blocks; may be called twice."""
        ...


async def read_body(answer: Answer, most: int) -> bytes:
    """The whole body, or its beginning where it is longer than `most` bytes. Raises UpstreamFailure."""
    pieces: list[bytes] = []
    size = 0
    while size <= most and (piece := await answer.chunk()):
        pieces.append(piece)
        size += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Upstream(Protocol):
    async def send(self, method: str, target: str, headers: Sequence[Header], body: Body) -> Answer:
        """Send one request. `target` is the raw path and query, passed on as it stands. Raises UpstreamFailure."""
        ...

    async def close(self) -> None: ...


class AiohttpAnswer:
    __slots__ = ("_response", "headers", "reason", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.reason = response.reason or ""
        self.headers: CIMultiDict[str] = response.headers  # type: ignore[assignment] # a read-only view of the same

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
            headers=CIMultiDict(headers),
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
    """Adds a mark to a request's list when its connection was an open one: aiohttp tells this in no other way."""

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
