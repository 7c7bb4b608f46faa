"""Rate cards for the workers: compiled beside the event loop, again when the UTC day turns or prices are rewritten."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

from quotapool.app.worker_pipe import RateCards
from quotapool.money.prices import compile_cards
from quotapool.money.rate_cards import CardSet
from quotapool.settings.money import ModelPrices

_log = structlog.get_logger()
_LOOK_S: Final = 3600.0  # also now and then in between: the clock may be set, the machine may sleep
# A newer package whose data has another shape must cost the bill, not the service.
_NOT_AS_KNOWN: Final = (ImportError, AttributeError, LookupError, TypeError, ValueError, ArithmeticError, StopIteration)


class Pricing:
    """`tell` carries a message to all workers, those born later included. The latest cards are in `cards`."""

    def __init__(self, tell: Callable[[RateCards], Awaitable[None]]) -> None:
        self.cards = CardSet()
        self._tell = tell
        self._prices: Mapping[str, ModelPrices] = {}
        self._rewritten = asyncio.Event()

    def configure(self, prices: Mapping[str, ModelPrices]) -> None:
        """The option `prices`, at the start and after a reload."""
        if prices != self._prices:
            self._prices = prices
            self._rewritten.set()

    async def run(self) -> None:
        """Compile and tell, for ever. The first time takes the package's import, so it happens in a thread."""
        while True:
            self._rewritten.clear()
            now = datetime.now(UTC)
            try:
                cards = await asyncio.to_thread(compile_cards, now.date(), self._prices)
            except _NOT_AS_KNOWN:
                _log.exception("prices cannot be compiled: requests count as unpriced, the old cards stay")
                cards = self.cards
            if cards != self.cards:
                self.cards = cards
                await self._tell(RateCards(cards))
                _log.info("prices", version=cards.version, day=cards.day, models=len(cards.cards))
            tomorrow = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
            rest_s = (tomorrow - datetime.now(UTC)).total_seconds()
            try:
                async with asyncio.timeout(min(rest_s, _LOOK_S)):
                    await self._rewritten.wait()
            except TimeoutError:
                continue
