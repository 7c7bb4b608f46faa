"""What operators see of the pool's cache, and do to it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime

from quotapool.cache.contents import CacheContents, Share
from quotapool.domain.request_record import ANONYMOUS
from quotapool.domain.wallet import usd
from quotapool.money.cache_savings import CacheUse, cache_savings
from quotapool.money.spend_store import SpendStore
from quotapool.money.spent import Spent
from quotapool.money.usage_report import ANONYMOUS as NO_KEY
from quotapool.settings import Settings
from quotapool.shapes.cache import CacheSavingsRow, CacheShare, CacheState, CacheSums
from quotapool.store.store import Store


class CacheOperations:
    """Those of one pool. `settings`: those in force. Every method raises StoreLost while the store is away."""

    def __init__(self, settings: Callable[[], Settings], store: Store) -> None:
        self._settings = settings
        self._contents = CacheContents(store, settings().pool)
        self._spend = SpendStore(store, settings().pool)

    async def state(self, now: datetime) -> CacheState:
        """What is kept, and what the cache did and saved in the day and the month of `now` (UTC)."""
        options, kept = self._settings().cache, await self._contents.stats()
        found = await cache_savings(self._spend, now)
        return CacheState(
            patterns=list(options.models),
            entries=kept.entries,
            bytes=kept.bytes,
            max_bytes=options.max_size,
            evicted=kept.evicted,
            expired=kept.expired,
            clients=_shares(kept.clients),
            models=_shares(kept.models),
            since=f"{found.since:%Y-%m-%dT%H:%M:%SZ}",
            today=sums_of(found.today),
            month=sums_of(found.month),
            saved=[CacheSavingsRow(client or NO_KEY, model, *_amounts(spent)) for client, model, spent in found.rows],
        )

    async def clear(self, client: str | None, model: str | None) -> int:
        """Delete the entries that this client's requests made, of this model; None: of any. How many there were."""
        return await self._contents.clear(client=ANONYMOUS if client == NO_KEY else client, model=model)


def sums_of(use: CacheUse) -> CacheSums:
    of = use.results.get
    return CacheSums(of("hit", 0), of("coalesced", 0), of("miss", 0), of("bypass", 0), *_amounts(use.saved))


def _amounts(spent: Spent) -> tuple[int, int, int, float, int]:
    """Calls, prompt and completion tokens, USD, and how many have no known price."""
    tokens = spent.prompt_tokens, spent.completion_tokens
    return spent.requests, *tokens, usd(spent.total), spent.unpriced_requests


def _shares(names: Mapping[str, Share]) -> list[CacheShare]:
    """In their order. A client without a key has no name."""
    return [CacheShare(name or NO_KEY, share.entries, share.bytes) for name, share in names.items()]
