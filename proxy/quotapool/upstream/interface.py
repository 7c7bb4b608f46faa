"""The upstream side of a request as the request path knows it: an `Upstream` is sent a request and gives an `Answer`.

Secrets of upstream keys live in `credentials.py` and go nowhere but into the header that carries them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from quotapool.openai.head import Head, Header

Body = bytes | AsyncIterator[bytes] | None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; None: no limit. `first_byte` covers the wait for the answer's headers, `between_bytes` its body."""

    connect: float | None
    first_byte: float | None
    between_bytes: float | None


class UpstreamFailure(Exception):
    """No answer, or a broken one. `sent`: at least one byte of the request may have reached upstream. `idle`: it went
    out on a connection kept from before, which upstream closed without an answer, as servers do with idle ones.

    `reason` is a stable word for metrics and logs: connect, tls, timeout, reset, protocol. The text names no secret.
    """

    def __init__(self, reason: str, detail: str, *, sent: bool, idle: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.sent = sent
        self.idle = idle


class Sink(Protocol):
    """Where pieces of a body go. Returns None while there is room for more, else what to await until there is."""

    def __call__(self, data: bytes) -> Awaitable[None] | None: ...


class Answer(Protocol):
    """An upstream answer whose headers are here and whose body may still be under way."""

    status: int
    reason: str
    headers: Head

    def whole(self) -> bytes | None:
        """All of the body, or what is left of it, if it is here to its end; else None, and it is as before."""
        ...

    async def chunk(self) -> bytes:
        """The next piece of the body as it came in, b"" at its end. Raises UpstreamFailure if it breaks off.

        A cancelled call loses nothing: the next one gets the same piece.
        """
        ...

    async def pour(self, sink: Sink) -> None:
        """Give each further piece of the body to `sink` as it comes in, until its end; upstream waits while the sink is
        full. Raises UpstreamFailure if the body breaks off, and whatever `sink` raises."""
        ...

    def close(self) -> None:
        """Give the connection up unless the body was read to its end. Never blocks; may be called twice."""
        ...


async def read_body(answer: Answer, most: int) -> bytes:
    """The whole body, or its beginning if it is longer than `most` bytes. Raises UpstreamFailure."""
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
