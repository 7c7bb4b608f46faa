"""`quotapool savings`: what clients were spared this month."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

from quotapool.admin.now_handlers import savings_of
from quotapool.cli import tables
from quotapool.cli.access import run_with_store
from quotapool.domain.counted import counted
from quotapool.money.cache_savings import cache_savings
from quotapool.money.price_list import PriceList
from quotapool.money.prices import compile_cards
from quotapool.money.savings import savings
from quotapool.money.spend_store import SpendStore
from quotapool.settings import Settings
from quotapool.shapes.now import Savings
from quotapool.store.store import Store

_WORDS: Final = {
    "rate_limit": "a key was at its rate limit, another one served it",
    "money": "a key's account was out of money, another one served it",
    "key": "a key was refused, or had no access, another one served it",
    "network": "a connection failed, it was sent again",
    "server": "OpenAI failed, it was sent again",
}


def run(settings: Settings, *, as_json: bool) -> int:
    """Exit code 0; 2 if the store cannot be reached."""

    async def command(store: Store) -> int:
        now = datetime.now(UTC)
        cards = await asyncio.to_thread(compile_cards, now.date(), settings.prices)
        spend = SpendStore(store, settings.pool)
        found = savings_of(await savings(spend, PriceList(cards), now), await cache_savings(spend, now))
        if as_json:
            tables.print_json(found)
        else:
            _show(found)
        return 0

    return run_with_store(settings, command)


def _show(found: Savings) -> None:
    console = tables.console()
    rescued = sum(found.rescued.values())
    console.print(f"since {found.since[:10]}: {_were_served(rescued)} after an attempt had failed")
    table = tables.table("requests", "what happened", right=("requests",))
    for why, requests in found.rescued.items():
        table.add_row(f"{requests:,}", _WORDS[why])
    table.add_row(f"{found.queued:,}", "waited in the queue instead of being refused")
    console.print(table)
    console.print(
        f"{found.cached_tokens:,} tokens came from OpenAI's prompt cache, which saved ${found.cached_usd:,.2f} "
        "at today's prices"
    )
    cache = found.pool_cache
    if cache.hit or cache.coalesced or cache.saved_requests:
        console.print(
            f"{_were_served(cache.hit + cache.coalesced)} by the pool's own cache, which saved "
            f"{cache.prompt_tokens + cache.completion_tokens:,} tokens and ${cache.usd:,.2f}"
        )


def _were_served(requests: int) -> str:
    return f"{counted(requests, 'request')} {'was' if requests == 1 else 'were'} served"
