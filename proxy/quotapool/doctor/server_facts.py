"""What a server of the store says of itself in INFO, and what that means for a pool. Pure.

`where`: the server's name, for texts. A managed service may leave any of it out: what is not told is not judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from quotapool.doctor.finding import Check, Finding, ok, problem, skipped, warning
from quotapool.store.verify import facts_of, unfitness

_MUCH: Final = 0.8  # of a limit
_FULL: Final = 0.95
_MIB: Final = 2**20


def judged(info: Mapping[str, Any], where: str) -> Iterator[Finding]:
    """Version and role, eviction, memory, connections, persistence."""
    facts, unfit = facts_of(info), unfitness(info, where)
    if "version" in unfit:
        yield problem("store.version", *unfit["version"])
    else:
        yield ok("store.version", f"{where} is {facts.name} {facts.version}".rstrip())
    if "role" in unfit:
        yield problem("store.role", *unfit["role"])
    yield _eviction(info, where, unfit)
    yield _memory(info, where)
    if (clients := _clients(info, where)) is not None:
        yield clients
    yield _persistence(info, where)


def is_cluster_node(info: Mapping[str, Any]) -> bool:
    return str(info.get("cluster_enabled", 0)) == "1" or info.get("redis_mode") == "cluster"


def _eviction(info: Mapping[str, Any], where: str, unfit: Mapping[str, tuple[str, str]]) -> Finding:
    if "eviction" in unfit:
        return problem("store.eviction", *unfit["eviction"])
    if (evicted := _number(info, "evicted_keys")) > 0:
        return warning(
            "store.eviction",
            f"{where} has evicted {evicted:,.0f} keys since it started",
            "Budgets or states may have been among them. Leave maxmemory-policy at noeviction, also for other programs",
        )
    policy = facts_of(info).eviction
    if not policy:
        return skipped("store.eviction", f"{where} does not tell its maxmemory-policy; it has to be noeviction")
    return ok("store.eviction", f"{where} evicts nothing (maxmemory-policy is {policy})")


def _memory(info: Mapping[str, Any], where: str) -> Finding:
    used, most = _number(info, "used_memory"), _number(info, "maxmemory")
    machine = _number(info, "total_system_memory")
    if "used_memory" not in info:
        return skipped("store.memory", f"{where} does not tell how much memory it uses")
    limit, of = (most, "maxmemory") if most else (machine, "its machine's memory, there is no maxmemory")
    if not limit:
        return ok("store.memory", f"{where} uses {_size(used)}")
    text = f"{where} uses {_size(used)} of {_size(limit)} ({of})"
    remedy = "Give it more (docs/sizing.md says how much), or see what else is stored there"
    if used >= _FULL * limit:
        return problem("store.memory", f"{text}: it refuses writes when that is full", remedy)
    return warning("store.memory", text, remedy) if used >= _MUCH * limit else ok("store.memory", text)


def _clients(info: Mapping[str, Any], where: str) -> Finding | None:
    used, most = _number(info, "connected_clients"), _number(info, "maxclients")
    if not most or "connected_clients" not in info:
        return None
    text = f"{where} has {used:,.0f} of at most {most:,.0f} connections"
    if used >= _MUCH * most:
        return warning("store.connections", text, "Raise maxclients there, or find out who holds them: CLIENT LIST")
    return ok("store.connections", text)


def _persistence(info: Mapping[str, Any], where: str) -> Finding:
    if "aof_enabled" not in info:
        return skipped("store.persistence", f"{where} does not tell whether it keeps its data on disk")
    check: Check = "store.persistence"
    see = "See its log, and the free space of its disk"
    if str(info["aof_enabled"]) == "1":
        if info.get("aof_last_write_status", "ok") != "ok":
            return problem(check, f"{where} could not write its append-only file", see)
        return ok(check, f"{where} keeps an append-only file")
    if info.get("rdb_last_bgsave_status", "ok") != "ok":
        return problem(check, f"{where} could not write its last snapshot, and may refuse writes for it", see)
    if copies := int(_number(info, "connected_slaves")):
        return ok(check, f"{where} keeps no append-only file; {copies} of its replicas have the data")
    return warning(
        check,
        f"{where} keeps no append-only file: a restart loses what came after its last snapshot, if it makes any",
        "Set appendonly yes there, or the product's own persistence (docs/managed-redis.md says what a restart loses)",
    )


def _number(info: Mapping[str, Any], name: str) -> float:
    value = info.get(name)
    return float(value) if isinstance(value, int | float) else 0.0


def _size(size: float) -> str:
    return f"{size / 2**30:,.1f} GiB" if size >= 2**30 else f"{size / _MIB:,.1f} MiB"
