"""Pages of allowed origins may read what the proxy answers: CORS, decided here and nowhere upstream.

Fetch standard §3.2 (CORS protocol); Private Network Access §3.1 (`Access-Control-Allow-Private-Network`). Requests are
made without the browser's credentials: a client key goes in `Authorization`, so origins are named and cookies never
allowed. Every answer to a page has these headers, ours and upstream's alike, or the page could not even read why it
was refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import Final

from quotapool.openai import replies
from quotapool.openai.head import Head, Header
from quotapool.openai.refusal import Refusal
from quotapool.request.relay import Downstream

_METHODS: Final = b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_MAX_AGE_S: Final = b"7200"  # the longest that Chromium keeps a preflight's answer
_RATES: Final = [
    f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")
]
_EXPOSED: Final = ", ".join(
    [
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        *_RATES,
        "x-request-id",
        "x-quotapool-request-id",
        "x-quotapool-source",
        "x-quotapool-cache",
        "x-quotapool-cache-items",
        "age",
        "openai-processing-ms",
        "openai-version",
        "location",
    ]
).encode()


class Cors:
    """The origins whose pages may call."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self.origins = frozenset(origins)

    def headers_for(self, origin: str) -> list[Header]:
        """The headers to add to an answer to a page of this origin; one that is not allowed cannot read the answer."""
        if origin not in self.origins:
            return [(b"Vary", b"Origin")]
        return [
            (b"Access-Control-Allow-Origin", origin.encode("utf-8", "surrogateescape")),
            (b"Access-Control-Expose-Headers", _EXPOSED),
            (b"Vary", b"Origin"),
        ]

    def preflight(self, headers: Head) -> list[Header]:
        """The headers of the answer to a browser's preflight request. Raises Refusal (403)."""
        origin = headers["origin"]
        if origin not in self.origins:
            raise Refusal(replies.ORIGIN_NOT_ALLOWED)
        allowed = [
            (b"Access-Control-Allow-Origin", origin.encode("utf-8", "surrogateescape")),
            (b"Access-Control-Allow-Methods", _METHODS),
            (b"Access-Control-Max-Age", _MAX_AGE_S),
            (b"Vary", b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        ]
        if asked := headers.raw("access-control-request-headers"):
            allowed.append((b"Access-Control-Allow-Headers", asked))
        if headers.get("access-control-request-private-network", "").lower() == "true":
            allowed.append((b"Access-Control-Allow-Private-Network", b"true"))
        return allowed


def is_preflight(method: str, headers: Head) -> bool:
    """Whether a browser asks for permission before a page's request."""
    return method == "OPTIONS" and "origin" in headers and "access-control-request-method" in headers


class PageDownstream:
    """A page's request: the same as `down`, but its answer has the headers `also`, and not what upstream allows."""

    def __init__(self, down: Downstream, also: Sequence[Header]) -> None:
        self._down = down
        self._also = also
        self.method: str = down.method
        self.target: str = down.target
        self.headers: Head = down.headers
        self.read = down.read
        self.stream: Callable[[], AsyncIterator[bytes]] = down.stream
        self.write = down.write
        self.put = down.put
        self.finish = down.finish
        self.cut = down.cut

    @property
    def started(self) -> bool:
        return self._down.started

    @started.setter
    def started(self, value: bool) -> None:
        self._down.started = value

    @property
    def address(self) -> str:
        return self._down.address

    async def start(self, status: int, reason: str, headers: Sequence[Header], length: int | None) -> None:
        await self._down.start(status, reason, self._allowed(headers), length)

    def reply(
        self, status: int, reason: str, headers: Sequence[Header], length: int | None, body: bytes
    ) -> Awaitable[None] | None:
        return self._down.reply(status, reason, self._allowed(headers), length, body)

    def _allowed(self, headers: Sequence[Header]) -> list[Header]:
        return [*(pair for pair in headers if not pair[0].lower().startswith(b"access-control-")), *self._also]
