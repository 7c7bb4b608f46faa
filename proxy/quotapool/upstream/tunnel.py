"""A tunnel through a forward proxy: one CONNECT on a fresh socket (RFC 9110 §9.3.6), for http upstreams too.

The proxy's answer is read to the end of its head; what follows would be upstream's.
"""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from quotapool.settings.forward_proxy import login_of
from quotapool.upstream.interface import UpstreamFailure

_LONGEST_HEAD: Final = 2**16
_END: Final = b"\r\n\r\n"
_STATUS: Final = re.compile(rb"HTTP/1\.[01] ([1-9][0-9]{2})(?: [^\r\n]*)?\r\n")
_REASONS: Final = {
    403: "the forward proxy does not let us through to upstream (403)",
    407: "the forward proxy refuses our login (407): see upstream_proxy",
    502: "the forward proxy cannot reach upstream (502)",
    503: "the forward proxy cannot reach upstream (503)",
    504: "the forward proxy got no answer from upstream (504)",
}


@dataclass(frozen=True, slots=True)
class ForwardProxy:
    """Where it is, and our login as its header carries it; "" if there is none."""

    host: str
    port: int
    login: str = field(default="", repr=False)

    @classmethod
    def at(cls, url: str) -> ForwardProxy:
        """From `http://user:password@host:port`, checked before."""
        parts = urlsplit(url)
        return cls(parts.hostname or "", parts.port or 1080, login_of(parts.netloc))

    async def connect(self, sock: socket.socket, loop: asyncio.AbstractEventLoop, host: str, port: int) -> None:
        """Make `sock`, which is connected to the proxy, one to `host`. Raises UpstreamFailure, OSError."""
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        login = f"Proxy-Authorization: Basic {self.login}\r\n" if self.login else ""
        await loop.sock_sendall(
            sock, f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{login}\r\n".encode("ascii")
        )
        received = b""
        while True:
            piece = await loop.sock_recv(sock, 4096)
            if not piece:
                raise UpstreamFailure("connect", "the forward proxy closed the connection", sent=False)
            received += piece
            while (end := received.find(_END)) >= 0 and (found := _STATUS.match(received)) is not None:
                status, received = int(found[1]), received[end + len(_END) :]
                if status >= 200:
                    self._check(status, received)
                    return
            if end >= 0 or len(received) > _LONGEST_HEAD:
                raise UpstreamFailure("connect", "the forward proxy's answer could not be understood", sent=False)

    @staticmethod
    def _check(status: int, rest: bytes) -> None:
        if status >= 300:
            reason = _REASONS.get(status, f"the forward proxy does not open a tunnel ({status})")
            raise UpstreamFailure("connect", reason, sent=False)
        if rest:  # upstream sends nothing before it is asked
            raise UpstreamFailure("connect", "the forward proxy sent more than its answer", sent=False)
