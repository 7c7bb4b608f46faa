"""The treasurer at work: every few seconds it looks, stops or frees accounts, and tells workers and metrics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from proxy.app.control import Purse
from proxy.domain.wallet import PICO, Wallet
from proxy.ledger.connection import StoreError
from proxy.ledger.ledger import StoreUnavailable
from proxy.money.treasurer import Standing, Treasurer
from proxy.observe.metrics import PoolMetrics

_log = structlog.get_logger()
_LEISURE: Final = 10  # thousands of busy accounts take their time; it shall stay a tenth of ours
_EVERY_S: Final = 2.0  # what is spent meanwhile is spent beyond a limit


class Treasury:
    """`tell` reaches all workers, and those that are born later. `standing` is what was seen last."""

    def __init__(self, treasurer: Treasurer, metrics: PoolMetrics, tell: Callable[[Purse], Awaitable[None]]) -> None:
        self.standing: Standing | None = None
        self._treasurer = treasurer
        self._metrics = metrics
        self._tell = tell
        self._told = Purse()

    async def run(self) -> None:
        """For ever. While the store is away the last decision stands."""
        failed = ""
        while True:
            began = time.monotonic()
            try:
                await self.tick(datetime.now(UTC))
                failed = ""
            except (StoreError, StoreUnavailable) as away:
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
        """Once. Raises StoreError, StoreUnavailable."""
        standing = self.standing = await self._treasurer.tick(now)
        purse = Purse(standing.urgency, standing.closed_until)
        if purse != self._told:
            if purse.closed_until and not self._told.closed_until:
                _log.warning("the pool has spent its daily limit", spent_usd=_usd(standing.spent_today))
            self._told = purse
            await self._tell(purse)
        self._show(standing)

    def _show(self, standing: Standing) -> None:
        metrics, wallets = self._metrics, standing.wallets
        limit = self._treasurer.settings.spend.daily_limit_usd
        metrics.spent_today.set(_usd(standing.spent_today))
        metrics.daily_limit.set(limit or 0.0)
        metrics.credit.show({a: _usd(w.remaining) for a, w in wallets.items() if w.remaining is not None})
        metrics.credit_empty_at.show({a: w.empty_at.timestamp() for a, w in wallets.items() if w.empty_at})
        known = {a: w for a, w in wallets.items() if w.remaining is not None}
        metrics.credit_expiring.show({a: _usd(w.expiring_unused) for a, w in known.items()})
        metrics.month_spent.show({a: _usd(w.month_spent) for a, w in wallets.items()})
        metrics.month_limit.show({a: _usd(w.month_limit) for a, w in wallets.items() if w.month_limit is not None})


async def credit_rows(treasurer: Treasurer) -> dict[str, dict[str, Any]]:
    """`credit_row` of every account of which something is known. Raises StoreUnavailable."""
    try:
        standing = await treasurer.look(datetime.now(UTC))
    except StoreError as lost:
        raise StoreUnavailable(str(lost)) from lost
    return {account: credit_row(wallet) for account, wallet in standing.wallets.items()}


def credit_row(wallet: Wallet) -> dict[str, Any]:
    """What `check` and the admin API show of a wallet; USD, UTC. What is not known is left out."""
    row: dict[str, Any] = {"month_spent_usd": _usd(wallet.month_spent), "per_day_usd": _usd(wallet.burn_per_day)}
    if wallet.remaining is not None:
        row |= {"remaining_usd": _usd(wallet.remaining), "expiring_unused_usd": _usd(wallet.expiring_unused)}
    if wallet.empty_at is not None:
        row["empty_at"] = f"{wallet.empty_at:%Y-%m-%dT%H:%M:%SZ}"
    if wallet.next_expiry is not None:
        row["next_expiry"] = wallet.next_expiry.isoformat()
    if wallet.month_limit is not None:
        row["month_limit_usd"] = _usd(wallet.month_limit)
    return row


def _usd(pico: int) -> float:
    return round(pico / PICO, 6)
