"""The client of one upstream origin: its keep-alive connections, and nothing that a request does not need.

No cookies, no redirects, no decompression, and no header of its own but Host and what frames the body. aiohttp's client
(`tests/reference`) is the reference: the same contract tests run against both.
"""

from __future__ import annotations

import asyncio
import functools
import re
import ssl
from collections.abc import Callable, Sequence
from typing import Final
from urllib.parse import urlsplit

from quotapool.openai.head import Header
from quotapool.openai.headers import encode_headers
from quotapool.upstream.answer import StreamedAnswer
from quotapool.upstream.connection import UpstreamConnection
from quotapool.upstream.connection_limit import ConnectionLimit
from quotapool.upstream.dialing import Dialer
from quotapool.upstream.interface import Body, Timeouts, UpstreamFailure
from quotapool.upstream.tunnel import ForwardProxy
from quotapool.upstream.turns import Turns

_DIGITS: Final = re.compile(rb"[0-9]{1,18}")
_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # RFC 9110 §5.1: what a header's name is made of
_FRAMING: Final = frozenset({b"host", b"content-length", b"transfer-encoding"})
_START: Final = re.compile(r"[A-Za-z]+ [^\x00-\x20\x7f]+")


class UpstreamClient:
    """One upstream origin over a keep-alive connection pool: the connection used last is used next."""

    def __init__(
        self,
        base: str,
        timeouts: Timeouts,
        *,
        tls: ssl.SSLContext | None = None,
        proxy: str | None = None,
        most: int | None = None,
    ) -> None:
        """`proxy`: http://[user:password@]host:port, through which everything goes. `most`: connections at once;
        sessions (`open_dedicated`) are not among them. None: no limit."""
        url = urlsplit(base)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ValueError("an upstream's address begins with http:// or https:// and names a host")
        secure = url.scheme == "https"
        self._prefix = url.path.rstrip("/")
        self._authority = url.netloc.rpartition("@")[2].removesuffix(":443" if secure else ":80")
        self._origin = f"{url.scheme}://{self._authority}"
        self._dialer = Dialer(
            url.hostname,
            url.port or (443 if secure else 80),
            secure=secure,
            tls=tls,
            connect_s=timeouts.connect,
            proxy=None if proxy is None else ForwardProxy.at(proxy),
        )
        self._timeouts = timeouts
        self._turns = Turns()
        self._limit: ConnectionLimit[UpstreamConnection] = ConnectionLimit(most, self.free)
        self._idle: dict[UpstreamConnection, None] = {}  # in the order they became free
        self._open: set[UpstreamConnection] = set()
        self._tidying: asyncio.TimerHandle | None = None
        self._closed = False
        self._known_loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"<UpstreamClient {self._origin}{self._prefix} {len(self._open)} open {len(self._idle)} idle>"

    @property
    def _loop(self) -> asyncio.AbstractEventLoop:
        """Kept: to ask for it costs a system call in Python 3.11."""
        if self._known_loop is None:
            self._known_loop = asyncio.get_running_loop()
        return self._known_loop

    async def send(self, method: str, target: str, headers: Sequence[Header], body: Body) -> StreamedAnswer:
        loop = self._loop
        first_byte_s = self._timeouts.first_byte
        deadline = None if first_byte_s is None else loop.time() + first_byte_s
        head, length = self._head(method, target, headers, body)
        connection = self._take(loop.time()) or await self._wait(loop, deadline)
        answer = connection.request(method, head, body, length)
        try:
            await answer.head(deadline)
        except BaseException:
            answer.close()
            raise
        return answer

    async def open_dedicated(
        self, method: str, target: str, headers: Sequence[Header], protocol: Callable[[], asyncio.Protocol]
    ) -> asyncio.Transport:
        """Send a request on a connection of its own, which `protocol` keeps: for a session, which is no longer HTTP.

        Raises UpstreamFailure.
        """
        loop = asyncio.get_running_loop()
        head, _ = self._head(method, target, headers, None)
        if self._closed:
            raise _closed()
        transport, _ = await self._dialer.open(loop, None, protocol)
        transport.write(head)
        return transport

    async def close(self) -> None:
        """End every connection, those in use too."""
        self._closed = True
        if self._tidying is not None:
            self._tidying.cancel()
        for connection in list(self._open):
            connection.drop()
        self._limit.close(_closed())
        await asyncio.sleep(0)  # the transports notify their connections in the loop's next turn

    # ---- the request's head

    def _head(self, method: str, target: str, headers: Sequence[Header], body: Body) -> tuple[bytes, int | None]:
        """The head, and the body's length if it has one. Raises UpstreamFailure if it would not be one head."""
        start = f"{method} {self._prefix}{target}"
        if _START.fullmatch(start) is None:
            raise UpstreamFailure("protocol", "a target with a space or a control character was to be sent", sent=False)
        try:
            lines = encode_headers(headers)
        except ValueError as error:
            raise UpstreamFailure("protocol", "a header of more than one line was to be sent", sent=False) from error
        framing = [(low, value) for name, value in headers if (low := _framing(name))]
        hosted = False
        length: int | None = None
        for low, value in framing:
            if low == b"content-length":
                if length is not None or _DIGITS.fullmatch(value) is None:
                    raise UpstreamFailure("protocol", "a wrong Content-Length was to be sent", sent=False)
                length = int(value)
            elif low == b"host":
                hosted = True
            else:
                raise UpstreamFailure("protocol", "a Transfer-Encoding was to be sent", sent=False)
        first = f"{start} HTTP/1.1\r\n" if hosted else f"{start} HTTP/1.1\r\nHost: {self._authority}\r\n"
        last = "\r\n"
        if body is None or isinstance(body, bytes):
            size = len(body or b"")
            if length is None and (body is not None or method not in _BODILESS):
                last = f"Content-Length: {size}\r\n\r\n"
            elif length is not None and length != size:
                raise UpstreamFailure("protocol", "a wrong Content-Length was to be sent", sent=False)
        elif length is None:
            last = "Transfer-Encoding: chunked\r\n\r\n"
        return first.encode("utf-8", "surrogateescape") + lines + last.encode(), length

    # ---- connections

    def _take(self, now: float) -> UpstreamConnection | None:
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_usable(now):
                return connection
            connection.drop()
        return None

    async def _wait(self, loop: asyncio.AbstractEventLoop, deadline: float | None) -> UpstreamConnection:
        """One that another request has finished with, or a new one. Raises UpstreamFailure."""
        while True:
            try:
                connection = await self._limit.wait(deadline)
            except TimeoutError as error:
                detail = "every connection to upstream was in use for too long"
                raise UpstreamFailure("timeout", detail, sent=False) from error
            if connection is None:
                return await self._connect(loop, deadline)
            if connection.is_usable(loop.time()):
                return connection
            connection.drop()

    async def _connect(self, loop: asyncio.AbstractEventLoop, deadline: float | None) -> UpstreamConnection:
        """A new connection for requests, which the limit counts already."""
        try:
            if self._closed:
                raise _closed()
            _, connection = await self._dialer.open(
                loop, deadline, lambda: UpstreamConnection(loop, self, self._timeouts, self._turns)
            )
            if connection.is_lost:
                raise UpstreamFailure("connect", "cannot connect to upstream: connection reset", sent=False)
        except BaseException:
            self._limit.release()
            raise
        self._open.add(connection)
        return connection

    def answered(self, connection: UpstreamConnection) -> None:
        if connection.transport is not None:
            self._dialer.keep_session(connection.transport)

    def free(self, connection: UpstreamConnection) -> None:
        if self._closed:
            connection.drop()
            return
        if self._limit.offer(connection):
            return
        self._idle[connection] = None
        expires = connection.expires()
        if self._tidying is not None:
            if self._tidying.when() <= expires:
                return
            self._tidying.cancel()
        self._tidying = connection.loop.call_at(expires, self._tidy)

    def gone(self, connection: UpstreamConnection) -> None:
        self._idle.pop(connection, None)
        if connection in self._open:
            self._open.discard(connection)
            self._limit.release()

    def _tidy(self) -> None:
        """Close what has been idle for too long, and look again when the next one may have been."""
        self._tidying = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        for connection in [connection for connection in self._idle if connection.expires() <= now]:
            del self._idle[connection]
            connection.drop(politely=True)
        if self._idle:
            self._tidying = loop.call_at(min(connection.expires() for connection in self._idle), self._tidy)


def _closed() -> UpstreamFailure:
    return UpstreamFailure("connect", "this upstream was closed", sent=False)


@functools.lru_cache(maxsize=1024)
def _framing(name: bytes) -> bytes:
    """The name in lower case of a header that frames the message; b"" of others. Raises UpstreamFailure
    if the name is invalid."""
    if _NAME.fullmatch(name) is None:
        raise UpstreamFailure("protocol", "a header with an invalid name was to be sent", sent=False)
    low = name.lower()
    return low if low in _FRAMING else b""
