"""Whether a store may be used as it is set up, asked once at the start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.asyncio import RedisCluster

from quotapool.store.store import Store, StoreUnfit


@dataclass(frozen=True, slots=True)
class StoreFacts:
    """What `verify` found. `eviction` is "" and `max_memory_bytes` 0 if the server does not report them."""

    name: str
    version: str
    eviction: str
    max_memory_bytes: int


async def verify(store: Store) -> StoreFacts:
    """Refuse a store that would forget budgets, or could not run the scripts. Raises StoreUnfit, StoreLost.

    Reads INFO alone: managed services forbid CONFIG. In a cluster every primary is checked.
    """
    store.check_files()
    await store.check_sentinels()
    facts = [_verified(info, store.describe()) for info in await _info_of_each_primary(store)]
    return facts[0]


async def _info_of_each_primary(store: Store) -> list[dict[str, Any]]:
    client = store.client
    if not isinstance(client, RedisCluster):
        return [await store.guard(client.info())]
    await store.guard(client.initialize())
    return [await store.guard(client.info(target_nodes=node)) for node in client.get_primaries()]


def _verified(info: dict[str, Any], where: str) -> StoreFacts:
    name = str(info.get("server_name") or ("valkey" if "valkey_version" in info else "redis"))
    version = str(info.get("valkey_version") or info.get("redis_version") or "")
    eviction = str(info.get("maxmemory_policy") or "")
    if eviction not in {"", "noeviction"}:
        raise StoreUnfit(
            f"{where} may evict budgets when memory is short (maxmemory-policy is {eviction}). "
            "Set maxmemory-policy to noeviction there, or use another server for the pool."
        )
    if info.get("role") == "slave":
        raise StoreUnfit(f"{where} is a replica and takes no writes. Name its primary, or use redis+sentinel://.")
    # The scripts use SET ... GET and ZADD ... GT, which Redis has since 6.2.
    if [int(part) for part in str(info.get("redis_version") or "6.2").split(".")[:2]] < [6, 2]:
        raise StoreUnfit(f"{where} runs Redis {version}. Use Redis 6.2 or later, or Valkey.")
    return StoreFacts(name, version, eviction, int(info.get("maxmemory") or 0))
