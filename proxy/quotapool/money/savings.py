"""What the pool and upstream's prompt cache saved clients since the beginning of the month (UTC).

Rescued requests come from the days' slots of usage. What the cache saved is computed when it is asked for: the month's
cached tokens by model and service tier, each times the difference of today's prices for fresh and cached input. So a
price that changed within the month, the higher prices of long prompts and cached audio or images make it inexact;
models without a known price, or without a discount, save nothing.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final

import msgspec

from quotapool.money.price_list import STANDARD, PriceList
from quotapool.money.rescues import QUEUED, RESCUED
from quotapool.money.rollups import DAY
from quotapool.money.spend_store import SpendStore

_TIER: Final = " ("


class Saved(msgspec.Struct, frozen=True):
    """`rescued`: requests by what had failed; `cached_pico`: picodollars."""

    since: datetime
    rescued: dict[str, int]
    queued: int
    cached_tokens: int
    cached_pico: int


async def savings(store: SpendStore, prices: PriceList, now: datetime) -> Saved:
    """Of the month that `now` (UTC) is in. Raises StoreLost."""
    today = now.date()
    first = today.replace(day=1)
    rescued = dict.fromkeys((*RESCUED, QUEUED), 0)
    slots = [(DAY, _midnight(first + timedelta(n))) for n in range((today - first).days + 1)]
    async for _, rows in store.used("rescue", slots):
        for (why,), spent in rows.items():
            if why in rescued:
                rescued[why] += spent.requests
    tokens: dict[str, int] = {}
    for names in (await store.totals("model", first, today)).values():
        for model, spent in names.items():
            if spent.cached_tokens:
                tokens[model] = tokens.get(model, 0) + spent.cached_tokens
    pico = sum(count * discount(prices, model) for model, count in tokens.items())
    queued = rescued.pop(QUEUED)
    return Saved(_midnight(first), rescued, queued, sum(tokens.values()), pico)


def discount(prices: PriceList, stored: str) -> int:
    """Picodollars that a cached token is cheaper. `stored`: a model as it is kept, such as `gpt-5.5 (priority)`."""
    model, _, tier = stored.removesuffix(")").partition(_TIER) if stored.endswith(")") else (stored, "", "")
    card, _ = prices.card(model, tier or STANDARD)
    if card is None or card.input is None or card.cached_input is None:
        return 0
    return max(0, card.input - card.cached_input)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)
