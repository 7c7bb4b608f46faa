"""The client's side of a session: its request for a WebSocket, and the socket once the request is granted.

aiohttp's server has read the request; from then on the connection is ours, and `upstream.frames` speaks on both
sides alike. Nothing is compressed: OpenAI does not either, and payloads pass as they are.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import time
from collections.abc import Sequence
from typing import Final

from aiohttp import web

from quotapool.openai import replies
from quotapool.openai.headers import Header
from quotapool.openai.refusal import Refusal
from quotapool.web.downstream import AiohttpDownstream
from quotapool.websocket.socket import READ_BUFFER, WebSocket, accept_key

# What browsers can only say as a subprotocol, and what belongs to the pool's key (openai-node realtime/websocket.ts).
_CREDENTIALS: Final = ("openai-insecure-api-key.", "openai-organization.", "openai-project.")
_VERSION: Final = "13"


def is_websocket(request: web.BaseRequest) -> bool:
    """Whether a request asks for a WebSocket."""
    upgrade = request.headers.get("Upgrade")
    return upgrade is not None and "websocket" in upgrade.lower()


class WebSocketRequest:
    """A client that asks for a session. `protocols`: the subprotocols it offers, without credentials."""

    def __init__(self, request: web.BaseRequest, down: AiohttpDownstream) -> None:
        self._request = request
        self._down = down
        self.headers = request.headers
        self.target = request.raw_path
        offered = [
            name.strip() for line in request.headers.getall("Sec-WebSocket-Protocol", ()) for name in line.split(",")
        ]
        self.protocols = [name for name in offered if name and not name.startswith(_CREDENTIALS)]

    def check(self) -> None:
        """Raises Refusal (400) where the request is none that RFC 6455 §4.2.1 would grant."""
        headers, request = self.headers, self._request
        connection = [part.strip().lower() for line in headers.getall("Connection", ()) for part in line.split(",")]
        if (
            request.method != "GET"
            or "upgrade" not in connection
            or headers.get("Sec-WebSocket-Version") != _VERSION
            or not _is_nonce(headers.get("Sec-WebSocket-Key", ""))
        ):
            refusal = Refusal(replies.INVALID_WEBSOCKET)
            refusal.also = [("Sec-WebSocket-Version", _VERSION)]
            raise refusal

    def accept(self, headers: Sequence[Header], protocol: str, most: int) -> WebSocket:
        """Grant the session: upstream has. Raises ConnectionError where the client has left."""
        request, transport = self._request, self._request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has left")
        lines = [
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Accept", accept_key(self.headers["Sec-WebSocket-Key"])),
            *([("Sec-WebSocket-Protocol", protocol)] if protocol else []),
            *headers,
            ("x-quotapool-request-id", self._down.id),
        ]
        head = "".join(
            ["HTTP/1.1 101 Switching Protocols\r\n", *(f"{name}: {value}\r\n" for name, value in lines), "\r\n"]
        )
        self._down.started, self._down.started_at = True, time.monotonic()
        self._down.keep_alive = False
        transport.write(head.encode("utf-8", "surrogateescape"))
        reader = asyncio.StreamReader(limit=READ_BUFFER, loop=asyncio.get_running_loop())
        reader.set_transport(transport)
        request.protocol.set_parser(_Feed(reader))  # type: ignore[arg-type] # all that aiohttp asks of a parser
        return WebSocket(reader, transport, request.writer.drain, is_client=False, most=most)

    async def answer(self, status: int, reason: str, headers: Sequence[Header], body: bytes) -> None:
        """Refuse the session with an HTTP answer. Raises ConnectionError where the client has left."""
        await self._down.start(status, reason, headers, len(body))
        await self._down.write(body)
        await self._down.finish()


class _Feed:
    """What aiohttp hands the connection's bytes to."""

    __slots__ = ("_reader",)

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._reader.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._reader.feed_eof()


def _is_nonce(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
