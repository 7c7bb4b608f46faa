"""Credit control at work: every few seconds it checks spend, stops or frees accounts, and tells workers and metrics."""

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
_PAUSE_FACTOR: Final = 10  # thousands of busy accounts take long; checking shall use at most a tenth of our time
_EVERY_S: Final = 2.0  # what is spent meanwhile is spent beyond a limit


class CreditWatch:
    """`broadcast` reaches all workers, also those that start later. `standing` is the latest result."""

    def __init__(
        self, credit: CreditControl, metrics: PoolMetrics, broadcast: Callable[[SpendControl], Awaitable[None]]
    ) -> None:
        self.standing: CreditStatus | None = None
        self._credit = credit
        self._metrics = metrics
        self._broadcast = broadcast
        self._sent = SpendControl()

    async def run(self) -> None:
        """Forever. While the store is unavailable the last decision stands."""
        failed = ""
        while True:
            started = time.monotonic()
            try:
                await self.tick(datetime.now(UTC))
                failed = ""
            except StoreError as error:
                if not failed:
                    _log.warning("wallets cannot be computed while the store is unavailable", problem=str(error))
                failed = str(error)
            except Exception:  # noqa: BLE001 - whatever it is, the proxy goes on serving, and the next turn may succeed
                if failed != "bug":
                    _log.exception("wallets cannot be computed")
                failed = "bug"
            took = time.monotonic() - started
            await asyncio.sleep(max(_EVERY_S, _PAUSE_FACTOR * took))

    async def tick(self, now: datetime) -> None:
        """Once. Raises StoreError."""
        standing = self.standing = await self._credit.tick(now)
        control = SpendControl(standing.urgency, standing.closed_until)
        if control != self._sent:
            if control.closed_until and not self._sent.closed_until:
                _log.warning("the pool has spent its daily limit", spent_usd=usd(standing.spent_today))
            self._sent = control
            await self._broadcast(control)
        self._show_metrics(standing)

    def _show_metrics(self, standing: CreditStatus) -> None:
        metrics, wallets = self._metrics, standing.wallets
        limit = self._credit.settings.spend.daily_limit_usd
        metrics.spent_today.set(usd(standing.spent_today))
        metrics.daily_limit.set(limit or 0.0)
        metrics.credit.show({a: usd(w.remaining) for a, w in wallets.items() if w.remaining is not None})
        metrics.credit_empty_at.show({a: w.empty_at.timestamp() for a, w in wallets.items() if w.empty_at})
        known = {a: w for a, w in wallets.items() if w.remaining is not None}
        metrics.credit_expiring.show({a: usd(w.expiring_unused) for a, w in known.items()})
        metrics.month_spent.show({a: usd(w.month_spent) for a, w in wallets.items()})
        metrics.month_limit.show({a: usd(w.month_limit) for a, w in wallets.items() if w.month_limit is not None})
