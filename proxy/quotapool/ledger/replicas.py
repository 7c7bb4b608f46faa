"""How many processes serve a pool: each announces itself in the store with every heartbeat (`Ledger.heartbeat`)."""

from __future__ import annotations

from typing import Final

from quotapool.store.store import Store

REPLICA_LIVES_S: Final = 10.0  # since its last heartbeat


async def count_alive(store: Store, pool: str) -> int:
    """By the store's clock; also those that ended a moment ago. Raises StoreError."""
    now, _ = await store.guard(store.client.time())  # machines' own clocks may differ by more
    return await count_recent(store, f"qp:{{{pool}}}:replicas", now)


async def count_recent(store: Store, replicas: str, now: float) -> int:
    """Those announced in the sorted set `replicas`. Later ones than `now` are of before the clock was set back."""
    recent = now - REPLICA_LIVES_S, now + REPLICA_LIVES_S
    return int(await store.guard(store.client.zcount(replicas, *recent)))
