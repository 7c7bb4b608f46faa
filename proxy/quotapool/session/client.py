"""The client's side of a session, as the path of a session needs it (`web/websocket.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from quotapool.openai.head import Head, Header
from quotapool.websocket.socket import WebSocket


class SessionClient(Protocol):
    """A client that asks for a session. `protocols`: the subprotocols it offers, without credentials."""

    headers: Head
    protocols: list[str]

    @property
    def target(self) -> str:
        """Path and query."""
        ...

    @property
    def address(self) -> str:
        """Where it is: the other end of its connection; "": a Unix socket."""
        ...

    def check(self) -> None:
        """Raises Refusal (400) if the handshake is not valid."""
        ...

    def accept(self, headers: Sequence[Header], protocol: str, most: int) -> WebSocket:
        """Grant the session. Raises ConnectionError if the client has left."""
        ...

    async def answer(self, status: int, reason: str, headers: Sequence[Header], body: bytes) -> None:
        """Refuse it with an HTTP answer."""
        ...
