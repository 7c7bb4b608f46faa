"""An account's credit as the operators' views show it: `check`, the admin API, the alerts."""

from __future__ import annotations

from typing import Any

from quotapool.domain.wallet import Wallet, usd


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
