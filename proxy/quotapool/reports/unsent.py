"""A client and an upstream that are not there, for requests that are tried and never sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from quotapool.openai import replies
from quotapool.openai.head import Head
from quotapool.openai.refusal import Refusal
from quotapool.upstream.interface import Answer

_METHOD: Final = "POST"
_NOBODY: Final = "nobody is there to be answered"


class Unsent:
    """The client's side of a request that nobody sent (`request/relay.Downstream`); what would be an answer raises."""

    def __init__(self, target: str, body: bytes) -> None:
        self.method = _METHOD
        self.target = target
        self.headers = Head([(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))])
        self.started = False
        self._body = body

    @property
    def address(self) -> str:
        return ""

    async def read(self, most: int) -> bytes:
        if len(self._body) > most:
            raise Refusal(
                replies.BODY_TOO_LARGE, f"The body has {len(self._body)} bytes; this proxy reads at most {most}."
            )
        return self._body

    async def stream(self) -> AsyncIterator[bytes]:
        yield self._body

    def reply(self, *_: object) -> None:
        raise AssertionError(_NOBODY)

    async def start(self, *_: object) -> None:
        raise AssertionError(_NOBODY)

    async def write(self, _: bytes) -> None:
        raise AssertionError(_NOBODY)

    def put(self, _: bytes) -> None:
        raise AssertionError(_NOBODY)

    async def finish(self) -> None:
        raise AssertionError(_NOBODY)

    def cut(self) -> None:
        raise AssertionError(_NOBODY)


class Nowhere:
    """The upstream of requests that are not sent (`upstream/interface.Upstream`)."""

    async def send(self, *_: object) -> Answer:
        raise AssertionError("a request that is only tried is never sent")

    async def close(self) -> None:
        """Nothing is open."""
