"""Whether a store may be used as it is set up, asked once at the start."""

from __future__ import annotations

from collections.abc import Mapping
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
    infos = await info_of_each_primary(store)
    for where, info in infos:
        for what, remedy in unfitness(info, where).values():
            raise StoreUnfit(f"{what}. {remedy}.")
    return facts_of(infos[0][1])


async def info_of_each_primary(store: Store) -> list[tuple[str, dict[str, Any]]]:
    """(where, INFO) of the server, or of every primary of a cluster. Raises StoreLost."""
    client = store.client
    if not isinstance(client, RedisCluster):
        return [(store.describe(), await store.guard(client.info()))]
    await store.guard(client.initialize())
    return [(str(node.name), await store.guard(client.info(target_nodes=node))) for node in client.get_primaries()]


def facts_of(info: Mapping[str, Any]) -> StoreFacts:
    """What a server says of itself."""
    return StoreFacts(
        name=str(info.get("server_name") or ("valkey" if "valkey_version" in info else "redis")),
        version=str(info.get("valkey_version") or info.get("redis_version") or ""),
        eviction=str(info.get("maxmemory_policy") or ""),
        max_memory_bytes=int(info.get("maxmemory") or 0),
    )


def unfitness(info: Mapping[str, Any], where: str) -> dict[str, tuple[str, str]]:
    """Why this server must not be used, and what to do, by what that is about: eviction, role, version. Empty: it may
    be."""
    facts = facts_of(info)
    found = {}
    if facts.eviction not in {"", "noeviction"}:
        found["eviction"] = (
            f"{where} may evict budgets when memory is short (maxmemory-policy is {facts.eviction})",
            "Set maxmemory-policy to noeviction there, or use another server for the pool",
        )
    if info.get("role") == "slave":
        found["role"] = f"{where} is a replica and takes no writes", "Name its primary, or use redis+sentinel://"
    # The scripts use SET ... GET and ZADD ... GT, which Redis has since 6.2.
    if [int(part) for part in str(info.get("redis_version") or "6.2").split(".")[:2]] < [6, 2]:
        found["version"] = f"{where} runs Redis {facts.version}", "Use Redis 6.2 or later, or Valkey"
    return found
