"""How much memory the store uses, and how much it may."""

from __future__ import annotations

from typing import Any, NamedTuple

from redis.asyncio import RedisCluster

from quotapool.store.store import Store


class Memory(NamedTuple):
    """Bytes. `limit` is 0 if the server has none, or does not say; `used` 0 if it does not say."""

    used: int
    limit: int


async def memory(store: Store) -> Memory:
    """Of the server; in a cluster of the primary that is fullest. Raises StoreError."""
    client = store.client
    if not isinstance(client, RedisCluster):
        return _memory(await store.guard(client.info("memory")))
    await store.guard(client.initialize())
    nodes = client.get_primaries()
    found = [_memory(await store.guard(client.info("memory", target_nodes=node))) for node in nodes]
    return max(found, key=lambda one: (one.used / one.limit if one.limit else 0.0, one.used))


def _memory(info: dict[str, Any]) -> Memory:
    return Memory(int(info.get("used_memory") or 0), int(info.get("maxmemory") or 0))
