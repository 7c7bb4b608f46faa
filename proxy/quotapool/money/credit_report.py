"""An account's credit as the operators' views show it: `check`, the admin API, the alerts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from quotapool.domain.wallet import Wallet, usd
from quotapool.money.credit_control import CreditControl


async def credit_rows(credit: CreditControl) -> dict[str, dict[str, Any]]:
    """`credit_row` of every account of which something is known. Raises StoreError."""
    status = await credit.assess(datetime.now(UTC))
    return {account: credit_row(wallet) for account, wallet in status.wallets.items()}


def credit_row(wallet: Wallet) -> dict[str, Any]:
    """What `check` and the admin API show of a wallet; USD, UTC. Unknown values are left out."""
    row: dict[str, Any] = {"month_spent_usd": usd(wallet.month_spent), "per_day_usd": usd(wallet.burn_per_day)}
    if wallet.remaining is not None:
        row |= {"remaining_usd": usd(wallet.remaining), "expiring_unused_usd": usd(wallet.expiring_unused)}
    if wallet.empty_at is not None:
        row["empty_at"] = f"{wallet.empty_at:%Y-%m-%dT%H:%M:%SZ}"
    if wallet.next_expiry is not None:
        row["next_expiry"] = wallet.next_expiry.isoformat()
    if wallet.month_limit is not None:
        row["month_limit_usd"] = usd(wallet.month_limit)
    return row
