"""The treasurer at work: every few seconds it looks, stops or frees accounts, and tells workers and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

import structlog

from quotapool.app.worker_pipe import SpendControl
from quotapool.domain.wallet import usd
from quotapool.money.credit_control import CreditControl, CreditStatus
from quotapool.observe.metrics import PoolMetrics
from quotapool.store.store import StoreError

_log = structlog.get_logger()
_LEISURE: Final = 10  # thousands of busy accounts take their time; it shall stay a tenth of ours
_EVERY_S: Final = 2.0  # what is spent meanwhile is spent beyond a limit


class CreditWatch:
    """`tell` reaches all workers, and those that are born later. `standing` is what was seen last."""

    def __init__(
        self, treasurer: CreditControl, metrics: PoolMetrics, tell: Callable[[SpendControl], Awaitable[None]]
    ) -> None:
        self.standing: CreditStatus | None = None
        self._treasurer = treasurer
        self._metrics = metrics
        self._tell = tell
        self._told = SpendControl()

    async def run(self) -> None:
        """For ever. While the store is away the last decision stands."""
        failed = ""
        while True:
            began = time.monotonic()
            try:
                await self.tick(datetime.now(UTC))
                failed = ""
            except StoreError as away:
                if not failed:
                    _log.warning("wallets cannot be computed while the store is away", problem=str(away))
                failed = str(away)
            except Exception:  # noqa: BLE001 - whatever it is, the proxy serves on, and the next turn may go well
                if failed != "bug":
                    _log.exception("wallets cannot be computed")
                failed = "bug"
            took = time.monotonic() - began
            await asyncio.sleep(max(_EVERY_S, _LEISURE * took))

    async def tick(self, now: datetime) -> None:
        """Once. Raises StoreError."""
        standing = self.standing = await self._treasurer.tick(now)
        purse = SpendControl(standing.urgency, standing.closed_until)
        if purse != self._told:
            if purse.closed_until and not self._told.closed_until:
                _log.warning("the pool has spent its daily limit", spent_usd=usd(standing.spent_today))
            self._told = purse
            await self._tell(purse)
        self._show(standing)

    def _show(self, standing: CreditStatus) -> None:
        metrics, wallets = self._metrics, standing.wallets
        limit = self._treasurer.settings.spend.daily_limit_usd
        metrics.spent_today.set(usd(standing.spent_today))
        metrics.daily_limit.set(limit or 0.0)
        metrics.credit.show({a: usd(w.remaining) for a, w in wallets.items() if w.remaining is not None})
        metrics.credit_empty_at.show({a: w.empty_at.timestamp() for a, w in wallets.items() if w.empty_at})
        known = {a: w for a, w in wallets.items() if w.remaining is not None}
        metrics.credit_expiring.show({a: usd(w.expiring_unused) for a, w in known.items()})
        metrics.month_spent.show({a: usd(w.month_spent) for a, w in wallets.items()})
        metrics.month_limit.show({a: usd(w.month_limit) for a, w in wallets.items() if w.month_limit is not None})
