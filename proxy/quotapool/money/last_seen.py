"""On which day each client last had a request that upstream charged: it is in the spend."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

from quotapool.money.spend_store import SpendStore
from quotapool.store.store import Store

DAYS_LOOKED_AT: Final = 90


async def last_seen(store: Store, pool: str, clients: Sequence[str], today: date) -> dict[str, date]:
    """The UTC day of each client's last request of the last 90 days; those without any are left out. Raises StoreLost.

    Most clients are found on the first days, so it seldom reads many."""
    prefix = SpendStore(store, pool).prefix
    left, found = list(clients), dict[str, date]()
    for day in (today - timedelta(days=ago) for ago in range(DAYS_LOOKED_AT)):
        if not left:
            break
        fields = [f"r:{name}" for name in left]
        counts = await store.guard(store.client.hmget(f"{prefix}:day:{day.isoformat()}:client", fields))
        found |= {name: day for name, count in zip(left, counts, strict=True) if count}
        left = [name for name in left if name not in found]
    return found
