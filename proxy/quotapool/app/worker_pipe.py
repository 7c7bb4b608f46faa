"""The pipe between the supervisor and one worker: length-prefixed JSON messages over an inherited socket pair.

It carries the configuration with its secrets, which is why it is a pipe and neither an argument nor a file. When it
closes, a worker knows that the supervisor is gone.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

import msgspec

from quotapool.domain.waiting import Waiting
from quotapool.money.rate_cards import CardSet

HEARTBEAT_S: Final = 0.5
_LENGTH: Final = 4


class Configure(msgspec.Struct, tag="configure"):
    """Supervisor to worker, first and at each reload. `settings` is `settings.to_wire`'s JSON, as it is. `cache_root`:
    what the keys of the cache are derived from, b"" without one; `advice_key`: that of `advice/digests.py`."""

    settings: msgspec.Raw
    redis: str
    metrics_dir: str = ""
    cache_root: bytes = b""
    advice_key: bytes = b""


class Drain(msgspec.Struct, tag="drain"):
    """Supervisor to worker: stop accepting, finish within `seconds`, settle, exit."""

    seconds: float


class SpendControl(msgspec.Struct, tag="spend_control", frozen=True):
    """Supervisor to worker, whenever it changes: `urgency` by account (factors of its weight, 1 if absent), and the
    Unix second until which the pool's daily limit refuses what costs money; 0: nothing is refused."""

    urgency: dict[str, float] = {}
    closed_until: float = 0.0


class RateCards(msgspec.Struct, tag="rate_cards", frozen=True):
    """Supervisor to worker, at the start, when the UTC day turns and when the option `prices` changes."""

    cards: CardSet


class Ready(msgspec.Struct, tag="ready"):
    """Worker to supervisor: it accepts connections, or has taken a new configuration."""


class Alive(msgspec.Struct, tag="alive"):
    """Worker to supervisor, every `HEARTBEAT_S` from its event loop."""


class InQueues(msgspec.Struct, tag="in_queues"):
    """Worker to supervisor, every two seconds while requests wait, and once when none does any more."""

    rows: list[Waiting]


Message = Configure | Drain | Ready | Alive | SpendControl | RateCards | InQueues
_decoder: Final[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message)


class Channel:
    """One end of the pipe."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        reader, writer = await asyncio.open_connection(sock=end)
        return cls(reader, writer)

    async def send(self, message: Message) -> None:
        """Raises ConnectionError if the other end is gone."""
        body = msgspec.json.encode(message)
        self._writer.write(len(body).to_bytes(_LENGTH, "big") + body)
        await self._writer.drain()

    async def receive(self) -> Message | None:
        """The next message, None when the other end is gone."""
        try:
            length = int.from_bytes(await self._reader.readexactly(_LENGTH), "big")
            return _decoder.decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    def close(self) -> None:
        self._writer.close()
