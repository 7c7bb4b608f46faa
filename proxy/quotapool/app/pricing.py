"""Rate cards for the workers: compiled beside the event loop, again when the UTC day turns or the option changes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from quotapool.app.worker_pipe import RateCards
from quotapool.money.price_list import PriceList
from quotapool.money.prices import compile_cards
from quotapool.money.rate_cards import CardSet
from quotapool.settings.money import ModelPrices

_log = structlog.get_logger()
_CHECK_S: Final = 3600.0  # also in between: the clock may be set, the machine may sleep


class Pricing:
    """`prices`: the option of that name. `broadcast` reaches all workers, also those that start later."""

    def __init__(self, prices: Mapping[str, ModelPrices], broadcast: Callable[[RateCards], Awaitable[None]]) -> None:
        self._cards = CardSet()
        self._price_list = PriceList(self._cards)
        self._prices = prices
        self._broadcast = broadcast
        self._changed = asyncio.Event()

    @property
    def price_list(self) -> PriceList:
        """Today's; empty until they are compiled."""
        return self._price_list

    def reload(self, prices: Mapping[str, ModelPrices]) -> None:
        if prices != self._prices:
            self._prices = prices
            self._changed.set()

    async def run(self) -> None:
        """Compile and send, forever. The first time imports the package, which takes long, so a thread does it."""
        while True:
            self._changed.clear()
            now = datetime.now(UTC)
            try:
                cards = await asyncio.to_thread(compile_cards, now.date(), self._prices)
            except Exception:  # noqa: BLE001 - a newer package, with data of another shape, may cost us only the prices
                _log.exception("prices cannot be compiled: requests count as unpriced, the old cards stay")
                cards = self._cards
            if cards != self._cards:
                self._cards, self._price_list = cards, PriceList(cards)
                await self._broadcast(RateCards(cards))
                _log.info("prices", version=cards.version, day=cards.day, models=len(cards.cards))
            tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
            remaining_s = (tomorrow - datetime.now(UTC)).total_seconds()
            try:
                async with asyncio.timeout(min(remaining_s, _CHECK_S)):
                    await self._changed.wait()
            except TimeoutError:
                continue
