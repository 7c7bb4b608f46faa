"""The client's side of a session: its request for a WebSocket, and the socket once the request is granted.

The server has read the head; what follows it is frames, which `quotapool.websocket` reads and writes on both sides
alike. Nothing is compressed: OpenAI does not either, and payloads pass as they are.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from quotapool.openai import replies
from quotapool.openai.head import Header
from quotapool.openai.headers import encode_headers
from quotapool.openai.refusal import Refusal
from quotapool.web.exchange import Exchange
from quotapool.websocket.socket import WebSocket, accept_key

# What browsers can only send as a subprotocol, and what belongs to the pool's key (openai-node realtime/websocket.ts).
_CREDENTIALS: Final = ("openai-insecure-api-key.", "openai-organization.", "openai-project.")
_VERSION: Final = "13"


class WebSocketRequest:
    """A client that asks for a session. `protocols`: the subprotocols it offers, without credentials."""

    def __init__(
        self,
        exchange: Exchange,
        reader: asyncio.StreamReader,
        transport: asyncio.Transport,
        drain: Callable[[], Awaitable[None]],
    ) -> None:
        """`reader` has what follows the head; `drain` waits until the client takes more."""
        self._exchange = exchange
        self._reader = reader
        self._transport = transport
        self._drain = drain
        self.headers = exchange.headers
        lines = self.headers.getall("sec-websocket-protocol")
        offered = [name.strip() for line in lines for name in line.split(",")]
        self.protocols = [name for name in offered if name and not name.startswith(_CREDENTIALS)]

    @property
    def target(self) -> str:
        """Path and query."""
        return self._exchange.target

    @property
    def address(self) -> str:
        return self._exchange.address

    def check(self) -> None:
        """Raises Refusal (400) if RFC 6455 §4.2.1 would not grant the request, or if it has a body."""
        headers = self.headers
        if (
            self._exchange.method != "GET"
            or "transfer-encoding" in headers
            or headers.get("content-length", "0") != "0"
            or headers.get("sec-websocket-version") != _VERSION
            or not _is_nonce(headers.get("sec-websocket-key", ""))
        ):
            refusal = Refusal(replies.INVALID_WEBSOCKET)
            refusal.also = [(b"Sec-WebSocket-Version", _VERSION.encode())]
            raise refusal

    def accept(self, headers: Sequence[Header], protocol: str, most: int) -> WebSocket:
        """Grant the session: upstream has. Raises ConnectionError if the client has left."""
        exchange, transport = self._exchange, self._transport
        if transport.is_closing():
            raise ConnectionResetError("the client has left")
        lines = [
            (b"Upgrade", b"websocket"),
            (b"Connection", b"Upgrade"),
            (b"Sec-WebSocket-Accept", accept_key(self.headers["sec-websocket-key"]).encode()),
            *([(b"Sec-WebSocket-Protocol", protocol.encode("utf-8", "surrogateescape"))] if protocol else []),
            *headers,
            (b"x-quotapool-request-id", exchange.id.encode()),
        ]
        exchange.started, exchange.started_at = True, time.monotonic()
        transport.write(b"HTTP/1.1 101 Switching Protocols\r\n" + encode_headers(lines) + b"\r\n")
        return WebSocket(self._reader, transport, self._drain, is_client=False, most=most)

    async def answer(self, status: int, reason: str, headers: Sequence[Header], body: bytes) -> None:
        """Refuse the session with an HTTP answer. Raises ConnectionError if the client has left."""
        if (full := self._exchange.reply(status, reason, headers, len(body), body)) is not None:
            await full


def _is_nonce(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
