"""The shape of a request's log line."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec


class AttemptLine(msgspec.Struct, gc=False):
    """One call upstream. `wait_ms`: queued or backing off before it; `status`: 0 if no answer came."""

    key: str
    outcome: str
    wait_ms: float
    status: int
    ms: float


class TokensLine(msgspec.Struct, gc=False):
    prompt: int
    completion: int
    certainty: str


class SavedLine(msgspec.Struct, gc=False):
    """What the cache saved: calls upstream, tokens, USD (null: no price is known)."""

    requests: int
    prompt: int
    completion: int
    usd: float | None


class AskedForLine(msgspec.Struct, omit_defaults=True, gc=False):
    """The room it asked the pool for. `tokens`: the estimate; `group`: whose limits it uses, where that is not the
    model itself; `max_wait_s`: how long it would wait for it; `only`: the one account that could serve it."""

    tokens: int
    max_wait_s: float
    group: str = ""
    images: int = 0
    priority: int = 0
    only: str = ""


def _now() -> datetime:
    return datetime.now(UTC)


class RequestLine(msgspec.Struct, kw_only=True, gc=False):
    """Times are milliseconds (`ms`). `source` is where the answer came from: proxy, upstream, cache, network or client.

    `request_id` is the proxy's own, never one of the client's headers. `code`: why the proxy refused it; `about`: the
    kind of id that led to that and where it was read (`file in file_id`). `cache`: hit, miss, coalesced or bypass;
    `kept`: why a miss was not kept, or a bypass not looked up.
    """

    ts: datetime = msgspec.field(default_factory=_now)
    level: str = "info"
    event: str = "request"
    request_id: str
    client: str
    endpoint: str
    model: str
    status: int
    code: str | msgspec.UnsetType = msgspec.UNSET  # of the proxy's own error, if that was the answer
    attempts: Sequence[AttemptLine]
    tokens: TokensLine | None
    queue_ms: float
    ttfb_ms: float | None
    total_ms: float
    overhead_ms: float
    source: str
    waited_for: str | msgspec.UnsetType = msgspec.UNSET  # in the queue, or in vain
    cache: str | msgspec.UnsetType = msgspec.UNSET  # where there is one for it
    kept: str | msgspec.UnsetType = msgspec.UNSET
    saved: SavedLine | msgspec.UnsetType = msgspec.UNSET
    rules: Sequence[str] | msgspec.UnsetType = msgspec.UNSET  # of its client's own rules: those that refused it
    beyond: Sequence[str] | msgspec.UnsetType = msgspec.UNSET  # and those without force that it went beyond
    trace_id: str | msgspec.UnsetType = msgspec.UNSET  # of a request whose spans are kept
    span_id: str | msgspec.UnsetType = msgspec.UNSET
    asked_for: AskedForLine | msgspec.UnsetType = msgspec.UNSET
    usd: float | msgspec.UnsetType | None = msgspec.UNSET  # what it cost; null: no price is known
    about: str | msgspec.UnsetType = msgspec.UNSET  # what that answer was about: kinds of ids and where they stood
