"""Pages of allowed origins may read what the proxy answers: CORS, decided here and nowhere upstream.

Fetch standard §3.2 (CORS protocol); Private Network Access §3.1 (`Access-Control-Allow-Private-Network`). Requests are
made without the browser's credentials: a client key goes in `Authorization`, so origins are named and cookies never
allowed. Every answer to a page has these headers, ours and upstream's alike, or the page could not even read why it
was refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Final

from multidict import CIMultiDictProxy

from quotapool.openai import replies
from quotapool.openai.headers import Header
from quotapool.openai.refusal import Refusal
from quotapool.request.relay import Downstream

_METHODS: Final = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_MAX_AGE_S: Final = 7200  # the longest that Chromium keeps a preflight's answer
_RATES: Final = [
    f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")
]
EXPOSED: Final = ", ".join(
    [
        "retry-after",
        "retry-after-ms",
        "x-should-retry",
        *_RATES,
        "x-request-id",
        "x-quotapool-request-id",
        "x-quotapool-source",
        "openai-processing-ms",
        "openai-version",
        "location",
    ]
)


class Cors:
    """The origins whose pages may call."""

    def __init__(self, origins: Iterable[str] = ()) -> None:
        self.origins = frozenset(origins)

    def headers_for(self, origin: str) -> list[Header]:
        """The headers to add to an answer to a page of this origin; one that is not allowed cannot read the answer."""
        if origin not in self.origins:
            return [("Vary", "Origin")]
        return [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Expose-Headers", EXPOSED),
            ("Vary", "Origin"),
        ]

    def preflight(self, headers: Mapping[str, str]) -> list[Header]:
        """The headers of the answer to a browser's preflight request. Raises Refusal (403)."""
        origin = headers["Origin"]
        if origin not in self.origins:
            raise Refusal(replies.ORIGIN_NOT_ALLOWED)
        allowed = [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Allow-Methods", _METHODS),
            ("Access-Control-Max-Age", str(_MAX_AGE_S)),
            ("Vary", "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"),
        ]
        if asked := headers.get("Access-Control-Request-Headers"):
            allowed.append(("Access-Control-Allow-Headers", asked))
        if headers.get("Access-Control-Request-Private-Network", "").lower() == "true":
            allowed.append(("Access-Control-Allow-Private-Network", "true"))
        return allowed


def is_preflight(method: str, headers: Mapping[str, str]) -> bool:
    """Whether a browser asks for permission before a page's request."""
    return method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers


class PageDownstream:
    """A page's request: the same as `down`, but its answer has the headers `also`, and not what upstream allows."""

    def __init__(self, down: Downstream, also: Sequence[Header]) -> None:
        self._down = down
        self._also = also
        self.method: str = down.method
        self.target: str = down.target
        self.headers: CIMultiDictProxy[str] = down.headers
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

    async def start(self, status: int, reason: str, headers: Sequence[Header], length: int | None) -> None:
        kept = [pair for pair in headers if not pair[0].lower().startswith("access-control-")]
        await self._down.start(status, reason, [*kept, *self._also], length)
