"""The admin API's handler of advice."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from quotapool.admin.http import Call, Handler
from quotapool.advice.note_store import NoteStore
from quotapool.ledger.stored_buckets import StoredBuckets
from quotapool.money.price_list import PriceList
from quotapool.reports.advice import advice
from quotapool.settings import Settings
from quotapool.store.store import Store


class AdviceHandlers:
    """`prices`: today's."""

    def __init__(
        self,
        settings: Callable[[], Settings],
        store: Store,
        buckets: StoredBuckets,
        prices: Callable[[], PriceList],
    ) -> None:
        self._settings = settings
        self._notes = NoteStore(store, settings().pool)
        self._buckets = buckets
        self._prices = prices

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {"show_advice": self._show_advice}

    async def _show_advice(self, _: Call) -> Any:
        return await advice(self._notes, self._buckets, self._settings(), self._prices(), datetime.now(UTC))
