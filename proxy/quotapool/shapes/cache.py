"""What the cache keeps, did and saved, as the admin API, the page and `quotapool cache stats` show it."""

from __future__ import annotations

import msgspec

from quotapool.shapes.requests import Word


class CacheSums(msgspec.Struct):
    """What the cache did in a time. `hit`, `coalesced`, `miss`, `bypass`: requests; `saved_requests`: calls upstream
    that were not made; tokens and `usd`: what they would have used, at the prices of the answers that were served;
    `unpriced`: requests that saved something without a known price."""

    hit: int
    coalesced: int
    miss: int
    bypass: int
    saved_requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    unpriced: int


class CacheSavingsRow(msgspec.Struct):
    """What one client's requests for one model did not use this month; `other` is all beyond the first 100."""

    client: str
    model: str
    saved_requests: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    unpriced: int


class CacheShare(msgspec.Struct):
    """What is kept under one name."""

    name: str
    entries: int
    bytes: int


class CacheState(msgspec.Struct):
    """The pool's cache. `patterns`: the option `cache.models`; empty: nothing is kept or served. `max_bytes`: the
    option `cache.max_size`; `evicted`, `expired`: entries that left it so far, to make room or because their time was
    over. `clients`, `models`: what is kept, the most bytes first. `today` and `month` are of UTC; `since`: the month's
    first day (ISO 8601); `saved`: the month's by client and model, the most dollars first."""

    patterns: list[str]
    entries: int
    bytes: int
    max_bytes: int
    evicted: int
    expired: int
    clients: list[CacheShare]
    models: list[CacheShare]
    since: str
    today: CacheSums
    month: CacheSums
    saved: list[CacheSavingsRow]


class CacheQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Only what is kept of this client, of this model; neither: all."""

    client: Word | None = None
    model: Word | None = None


class CacheCleared(msgspec.Struct):
    """How many entries were deleted."""

    entries: int
