"""What the cache would do for a request now: decided by the code of the request path, read, and left as it is.

Entries are not opened. So vectors that are kept in the other `encoding_format` count as kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from quotapool.cache.contents import CacheContents
from quotapool.cache.secrets import CacheSecrets
from quotapool.keys.master_keys import NoMasterKey, master_keys
from quotapool.openai.embedding_items import split
from quotapool.operators.big_answers import in_turns
from quotapool.reports.cache_words import bypass_words
from quotapool.reports.unsent import Unsent
from quotapool.request.cache_control import NONE
from quotapool.request.client_request import ClientRequest
from quotapool.request.reuse import asked_of, place_of, scope_of
from quotapool.settings import Client, Settings
from quotapool.shapes.work import CacheOutlook
from quotapool.store.store import Store

_AT_ONCE: Final = 200  # inputs in one turn of the loop


class CacheOutlooks:
    """Those of one pool. `since`: when a client of this name was made, as `request/reuse.py` has it."""

    def __init__(self, store: Store, pool: str, since: Callable[[str], float]) -> None:
        self._contents = CacheContents(store, pool)
        self._since = since

    async def of(
        self, down: Unsent, request: ClientRequest, client: Client | None, settings: Settings, now: float
    ) -> CacheOutlook:
        """`now`: by the store's clock. Raises StoreLost."""
        cache = settings.cache
        if not cache.models:
            return CacheOutlook("off", "There is no cache: cache.models names no model.")
        if not cache.serves(None if client is None else client.cache):
            return CacheOutlook("off", "Its client is not served from the cache.")
        if not cache.keeps(request.model):
            return CacheOutlook("off", "There is no cache for it: cache.models does not name its model.")
        asked = asked_of(down, request, NONE, cache)
        if isinstance(asked, str):
            return CacheOutlook("bypass", f"It would not be looked up in the cache: {bypass_words(asked)}.")
        try:
            masters, why = master_keys(settings), "no master key is known"
        except NoMasterKey as problem:
            masters, why = [], str(problem)
        if not masters:
            return CacheOutlook("unknown", f"Whether the cache has its answer cannot be read here: {why}.")
        secrets, scope = CacheSecrets.of(masters[0], settings.pool), scope_of(cache, client, self._since)
        named = partial(secrets.name, scope, place_of(down, request))
        by_item = split(request.text) if request.endpoint.estimate == "embeddings" else ""
        if isinstance(by_item, str):
            return _whole((await self._contents.ages([named(asked.text)], now))[0])
        names: dict[bytes, None] = {}
        async for at in in_turns(range(len(by_item.raws)), _AT_ONCE):
            if (item := by_item.item(at)) is None:
                return CacheOutlook("bypass", "OpenAI does not take one of its inputs, so none is looked up.")
            names[named(item.canonical)] = None
        return _by_item(await self._contents.ages(list(names), now))


def _whole(age_s: float | None) -> CacheOutlook:
    if age_s is not None:
        return CacheOutlook("hit", f"The cache has its answer, {age_s:,.0f} s old: upstream is not asked.")
    return CacheOutlook("miss", "The cache does not have its answer, and keeps upstream's if it may be kept.")


def _by_item(ages: Sequence[float | None]) -> CacheOutlook:
    """Of its distinct inputs."""
    known = [age_s for age_s in ages if age_s is not None]
    if not known or len(known) < len(ages):
        part = f"{len(known):,} of its {len(ages):,} inputs" if known else "none of its inputs"
        return CacheOutlook("miss", f"The cache has {part}, and keeps upstream's vectors.")
    oldest = f"{max(known):,.0f} s"
    return CacheOutlook("hit", f"The cache has all of its inputs, up to {oldest} old: upstream is not asked.")
