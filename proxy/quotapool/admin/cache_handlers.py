"""The admin API's handlers of the cache."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from quotapool.admin.http import Call, Handler
from quotapool.operators.cache import CacheOperations
from quotapool.shapes.cache import CacheCleared, CacheQuery


class CacheHandlers:
    def __init__(self, cache: CacheOperations) -> None:
        self._cache = cache

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {"show_cache": self._show, "clear_cache": self._clear}

    async def _show(self, _: Call) -> Any:
        return await self._cache.state(datetime.now(UTC))

    async def _clear(self, call: Call) -> Any:
        query: CacheQuery = call.query
        entries = await self._cache.clear(query.client, query.model)
        call.changes.update(cleared(query, entries))
        return CacheCleared(entries)


def cleared(query: CacheQuery, entries: int) -> dict[str, list[Any]]:
    """What the record of it says: how many entries were deleted, and of whom."""
    only = {name: [value, None] for name, value in (("client", query.client), ("model", query.model)) if value}
    return {"entries": [entries, 0], **only}
