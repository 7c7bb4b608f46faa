"""What the cache did and saved, today and since the month began (UTC), read from the days' slots of usage."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import msgspec

from quotapool.money.rollups import DAY, OTHER
from quotapool.money.spend_store import SpendStore
from quotapool.money.spent import Spent

_MOST_ROWS: Final = 100


class CacheUse(msgspec.Struct):
    """`results`: requests by what the cache did (hit, miss, coalesced, bypass). `saved`: calls upstream (`requests`),
    tokens and picodollars that were not used; `unpriced_requests`: requests that saved something without a known
    price."""

    results: dict[str, int] = {}
    saved: Spent = msgspec.field(default_factory=Spent)

    def add(self, result: str, requests: int) -> None:
        self.results[result] = self.results.get(result, 0) + requests


class CacheSavings(msgspec.Struct):
    """`since`: midnight of the month's first day; `rows`: the month by client and model, what saved most first."""

    since: datetime
    today: CacheUse
    month: CacheUse
    rows: list[tuple[str, str, Spent]]


async def cache_savings(store: SpendStore, now: datetime, most_rows: int = _MOST_ROWS) -> CacheSavings:
    """Of the day and the month that `now` (UTC) is in. Beyond `most_rows`, rows are one, `other`. Raises StoreLost."""
    today = DAY.start(now)
    since = today.replace(day=1)
    slots = [(DAY, since + timedelta(days=n)) for n in range((today - since).days + 1)]
    of_today, of_month = CacheUse(), CacheUse()
    async for (_, start), results in store.used("cache", slots):
        for (result,), spent in results.items():
            for use in (of_month, of_today) if start == today else (of_month,):
                use.add(result, spent.requests)
    names: dict[tuple[str, str], Spent] = {}
    async for (_, start), rows in store.used("saved", slots):
        for (client, model), spent in rows.items():
            names.setdefault((client, model), Spent()).add(spent)
            for use in (of_month, of_today) if start == today else (of_month,):
                use.saved.add(spent)
    return CacheSavings(since, of_today, of_month, _largest(names, most_rows))


def _largest(names: dict[tuple[str, str], Spent], most: int) -> list[tuple[str, str, Spent]]:
    """By dollars, then tokens, then calls. What is `other` already stays the last."""
    others = names.pop((OTHER, OTHER), Spent())
    rows = [(client, model, spent) for (client, model), spent in names.items()]
    rows.sort(key=_order)
    for _, _, spent in rows[most:]:
        others.add(spent)
    del rows[most:]
    return [*rows, (OTHER, OTHER, others)] if others != Spent() else rows


def _order(row: tuple[str, str, Spent]) -> tuple[int, int, int, str, str]:
    client, model, spent = row
    return -spent.total, -spent.prompt_tokens - spent.completion_tokens, -spent.requests, client, model
