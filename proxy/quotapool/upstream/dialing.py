"""New connections to one origin: a name look-up, happy eyeballs, a forward proxy if there is one, then TLS."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import Callable
from typing import Final, TypeVar

import aiohappyeyeballs

from quotapool.upstream.interface import UpstreamFailure
from quotapool.upstream.tls_sessions import ResumingContext, client_context
from quotapool.upstream.tunnel import ForwardProxy

P = TypeVar("P")

_EYEBALLS_S: Final = 0.25  # RFC 8305 §5: the wait before the next address is tried beside the first

# OpenSSL's X509_V_ERR_… (x509_vfy.h) and reasons of its errors.
_CERTIFICATES: Final = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is signed by itself",
    19: "its certificate is from an authority that is not trusted here",
    20: "its certificate is from an authority that is not trusted here",
    21: "its certificate is from an authority that is not trusted here",
    62: "its certificate is for another name",
    64: "its certificate is for another address",
}
_TLS: Final = {"WRONG_VERSION_NUMBER": "what answers there speaks no TLS"}


def why_unreachable(error: OSError) -> str:
    """In words that may reach clients: none of Python's or asyncio's, which name the addresses that were tried."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _CERTIFICATES.get(error.verify_code, f"its certificate is refused ({error.verify_message})")
    if isinstance(error, ssl.SSLError):
        reason = error.reason or type(error).__name__
        return _TLS.get(reason, reason.replace("_", " ").lower())
    if isinstance(error, socket.gaierror):
        now = error.errno == socket.EAI_AGAIN
        return "its name cannot be looked up at this moment" if now else "its name is not known here"
    if error.errno is not None:
        return os.strerror(error.errno).lower()
    return "it closed the connection" if isinstance(error, ConnectionError) else "none of its addresses can be reached"


class Dialer:
    """`connect_s` is for everything up to the end of the TLS handshake; None: no limit."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        secure: bool,
        tls: ssl.SSLContext | None,
        connect_s: float | None,
        proxy: ForwardProxy | None,
    ) -> None:
        """`tls` None: the system's authorities are trusted, and sessions resumed."""
        self._host = host
        self._port = port
        self._tls = (tls or client_context()) if secure else None
        self._resuming = self._tls if isinstance(self._tls, ResumingContext) else None
        self._connect_s = connect_s
        self._proxy = proxy

    async def open(
        self, loop: asyncio.AbstractEventLoop, deadline: float | None, protocol: Callable[[], P]
    ) -> tuple[asyncio.Transport, P]:
        """Connected, by `deadline` (in the loop's time) at the latest. Raises UpstreamFailure; nothing was sent."""
        limits = [deadline] if deadline is not None else []
        if self._connect_s is not None:
            limits.append(loop.time() + self._connect_s)
        next_hop = "upstream" if self._proxy is None else "the forward proxy"
        try:
            async with asyncio.timeout_at(min(limits, default=None)):
                sock = await self._connect(loop)
                return await self._open_over(sock, loop, protocol)
        except TimeoutError as error:
            raise UpstreamFailure("timeout", "connecting to upstream took too long", sent=False) from error
        except ssl.SSLError as error:
            if self._resuming is not None:
                self._resuming.forget(self._host)
            raise UpstreamFailure("tls", f"TLS with upstream failed: {why_unreachable(error)}", sent=False) from error
        except OSError as error:
            detail = f"cannot connect to {next_hop}: {why_unreachable(error)}"
            raise UpstreamFailure("connect", detail, sent=False) from error

    def keep_session(self, transport: asyncio.BaseTransport) -> None:
        """The connection has got an answer: new ones may resume its TLS session."""
        if self._resuming is not None:
            self._resuming.keep(transport)

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> socket.socket:
        """A TCP connection to upstream, or to the proxy on the way to it."""
        host, port = (self._host, self._port) if self._proxy is None else (self._proxy.host, self._proxy.port)
        addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return await aiohappyeyeballs.start_connection(
            addresses, happy_eyeballs_delay=_EYEBALLS_S, interleave=1, loop=loop
        )

    async def _open_over(
        self, sock: socket.socket, loop: asyncio.AbstractEventLoop, protocol: Callable[[], P]
    ) -> tuple[asyncio.Transport, P]:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._proxy is not None:
                await self._proxy.connect(sock, loop, self._host, self._port)
            return await loop.create_connection(  # type: ignore[type-var]  # loops ask a protocol for no base
                protocol,
                sock=sock,
                ssl=self._tls,
                server_hostname=None if self._tls is None else self._host,
            )
        except BaseException:
            sock.close()
            raise
