"""The lean upstream side: one origin, its keep-alive connections, and nothing a request does not need.

No cookies, no redirects, no decompression, and no header of its own but Host and what frames the body. `http.py` has
the interface, and aiohttp's client behind it as the reference: the same contract tests run against both.
"""

from __future__ import annotations

import asyncio
import functools
import re
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Final, TypeVar
from urllib.parse import urlsplit

import aiohappyeyeballs

from proxy.upstream.answer import LeanAnswer
from proxy.upstream.connections import Connection
from proxy.upstream.http import Body, Header, Timeouts, UpstreamFailure

P = TypeVar("P", bound=asyncio.Protocol)

_EYEBALLS_S: Final = 0.25  # RFC 8305 §5: the wait before the next address is tried beside the first
_DIGITS: Final = re.compile(r"[0-9]{1,18}")
_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

# RFC 9110 §5.1, 5.5: what a header's name is made of, and what its value must not hold. Bytes beyond ASCII pass.
_NAME: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_START: Final = re.compile(r"[A-Za-z]+ [^\x00-\x20\x7f]+")


class LeanUpstream:
    """One upstream origin over a keep-alive connection pool: the connection used last is used next."""

    def __init__(self, base: str, timeouts: Timeouts, *, tls: ssl.SSLContext | None = None) -> None:
        url = urlsplit(base)
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ValueError("an upstream's address begins with http:// or https:// and names a host")
        self._host = url.hostname
        self._port = url.port or (443 if url.scheme == "https" else 80)
        self._prefix = url.path.rstrip("/")
        self._authority = url.netloc.rpartition("@")[2].removesuffix(":443" if url.scheme == "https" else ":80")
        self._tls = (tls or ssl.create_default_context()) if url.scheme == "https" else None
        self._timeouts = timeouts
        self._idle: dict[Connection, None] = {}  # in the order they became free
        self._open: set[Connection] = set()
        self._tidying: asyncio.TimerHandle | None = None
        self._closed = False

    def __repr__(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return (
            f"<LeanUpstream {scheme}://{self._authority}{self._prefix} {len(self._open)} open {len(self._idle)} idle>"
        )

    async def send(self, method: str, target: str, headers: Sequence[Header], body: Body) -> LeanAnswer:
        loop = asyncio.get_running_loop()
        patience = self._timeouts.first_byte
        deadline = None if patience is None else loop.time() + patience
        head, length = self._head(method, target, headers, body)
        connection = self._take(loop.time()) or await self._dial(loop, deadline)
        answer = connection.request(method, head, body, length)
        try:
            await answer.head(deadline)
        except BaseException:
            answer.close()
            raise
        return answer

    async def ask_alone(
        self, method: str, target: str, headers: Sequence[Header], protocol: Callable[[], asyncio.Protocol]
    ) -> asyncio.Transport:
        """Send a request on a connection of its own that `protocol` keeps: for a session, which is no HTTP any more."""
        loop = asyncio.get_running_loop()
        head, _ = self._head(method, target, headers, None)
        transport, _ = await self._reach(loop, None, protocol)
        transport.write(head)
        return transport

    async def close(self) -> None:
        """End every connection, those in use too."""
        self._closed = True
        if self._tidying is not None:
            self._tidying.cancel()
        for connection in list(self._open):
            connection.drop()
        await asyncio.sleep(0)  # the transports tell their connections in the loop's next turn

    # ---- the request's head

    def _head(self, method: str, target: str, headers: Sequence[Header], body: Body) -> tuple[bytes, int | None]:
        """The head, and the body's length if it says one. Raises UpstreamFailure where it would not be one head."""
        start = f"{method} {self._prefix}{target}"
        if _START.fullmatch(start) is None:
            raise UpstreamFailure("protocol", "a target was to be sent that is not one word", sent=False)
        if _CONTROL.search("".join([value for _, value in headers])) is not None:
            raise UpstreamFailure("protocol", "a header was to be sent that is not one line", sent=False)
        lines = [f"{start} HTTP/1.1\r\n"]
        hosted = False
        length: int | None = None
        for name, value in headers:
            lines.append(f"{name}: {value}\r\n")
            low = _lower(name)
            if low == "content-length":
                if length is not None or _DIGITS.fullmatch(value) is None:
                    raise UpstreamFailure("protocol", "a wrong Content-Length was to be sent", sent=False)
                length = int(value)
            elif low == "host":
                hosted = True
            elif low == "transfer-encoding":
                raise UpstreamFailure("protocol", "a Transfer-Encoding was to be sent", sent=False)
        if not hosted:
            lines.insert(1, f"Host: {self._authority}\r\n")
        if body is None or isinstance(body, bytes):
            has = len(body or b"")
            if length is None and (body is not None or method not in _BODILESS):
                lines.append(f"Content-Length: {has}\r\n")
            elif length is not None and length != has:
                raise UpstreamFailure("protocol", "a wrong Content-Length was to be sent", sent=False)
        elif length is None:
            lines.append("Transfer-Encoding: chunked\r\n")
        lines.append("\r\n")
        return "".join(lines).encode("utf-8", "surrogateescape"), length

    # ---- connections

    def _take(self, now: float) -> Connection | None:
        while self._idle:
            connection, _ = self._idle.popitem()
            if connection.is_usable(now):
                return connection
            connection.drop()
        return None

    async def _dial(self, loop: asyncio.AbstractEventLoop, deadline: float | None) -> Connection:
        """A new connection for requests."""
        _, connection = await self._reach(loop, deadline, lambda: Connection(loop, self, self._timeouts))
        if connection.is_lost:
            raise UpstreamFailure("connect", "cannot connect to upstream: connection reset", sent=False)
        self._open.add(connection)
        return connection

    async def _reach(
        self, loop: asyncio.AbstractEventLoop, deadline: float | None, protocol: Callable[[], P]
    ) -> tuple[asyncio.Transport, P]:
        """A connection to an address looked up anew. Raises UpstreamFailure."""
        if self._closed:
            raise UpstreamFailure("connect", "this upstream was closed", sent=False)
        limits = [deadline] if deadline is not None else []
        if self._timeouts.connect is not None:
            limits.append(loop.time() + self._timeouts.connect)
        try:
            async with asyncio.timeout_at(min(limits, default=None)):
                found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
                sock = await aiohappyeyeballs.start_connection(
                    found, happy_eyeballs_delay=_EYEBALLS_S, interleave=1, loop=loop
                )
                return await self._open_over(sock, loop, protocol)
        except TimeoutError as error:
            raise UpstreamFailure("timeout", "connecting to upstream took too long", sent=False) from error
        except ssl.SSLError as error:
            detail = f"TLS with upstream failed: {error.reason or type(error).__name__}"
            raise UpstreamFailure("tls", detail, sent=False) from error
        except OSError as error:
            detail = f"cannot connect to upstream: {error.strerror or type(error).__name__}"
            raise UpstreamFailure("connect", detail, sent=False) from error

    async def _open_over(
        self, sock: socket.socket, loop: asyncio.AbstractEventLoop, protocol: Callable[[], P]
    ) -> tuple[asyncio.Transport, P]:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return await loop.create_connection(
                protocol,
                sock=sock,
                ssl=self._tls,
                server_hostname=None if self._tls is None else self._host,
            )
        except BaseException:
            sock.close()
            raise

    def free(self, connection: Connection) -> None:
        if self._closed:
            connection.drop()
            return
        self._idle[connection] = None
        expires = connection.expires()
        if self._tidying is not None:
            if self._tidying.when() <= expires:
                return
            self._tidying.cancel()
        self._tidying = connection.loop.call_at(expires, self._tidy)

    def gone(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._idle.pop(connection, None)

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


@functools.lru_cache(maxsize=1024)
def _lower(name: str) -> str:
    """A header's name in lower case. Raises UpstreamFailure where it is none."""
    if _NAME.fullmatch(name) is None:
        raise UpstreamFailure("protocol", "a header was to be sent whose name is none", sent=False)
    return name.lower()
