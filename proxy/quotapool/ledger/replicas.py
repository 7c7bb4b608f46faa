"""Which processes serve a pool: each announces itself in the store with every heartbeat (`Ledger.heartbeat`), and its
version once."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

from quotapool import __version__
from quotapool.store.store import Store, text_of

REPLICA_LIVES_S: Final = 10.0  # since its last heartbeat


async def count_alive(store: Store, pool: str) -> int:
    """By the store's clock; also those that ended a moment ago. Raises StoreError."""
    now, _ = await store.guard(store.client.time())  # machines' own clocks may differ by more
    return await count_recent(store, f"qp:{{{pool}}}:replicas", now)


async def count_recent(store: Store, replicas: str, now: float) -> int:
    """Those announced in the sorted set `replicas`. Later ones than `now` are of before the clock was set back."""
    recent = now - REPLICA_LIVES_S, now + REPLICA_LIVES_S
    return int(await store.guard(store.client.zcount(replicas, *recent)))


class ReleaseNote:
    """In the store: which version of Quotapool the process `name` is. `prefix` of the pool's keys."""

    def __init__(self, store: Store, prefix: str, name: str) -> None:
        self._store = store
        self._prefix = prefix
        self._name = name
        self._epoch = ""  # of the store that has it

    async def write(self, epoch: str) -> None:
        """Into the store of this epoch, once; forgets the notes of processes that have ended. Raises StoreLost."""
        if epoch == self._epoch:
            return
        releases, client = f"{self._prefix}:releases", self._store.client
        known: Any = await self._store.guard(client.hgetall(releases))
        alive: Any = await self._store.guard(client.zrange(f"{self._prefix}:replicas", 0, -1))
        if ended := known.keys() - {*alive, self._name.encode()}:
            await self._store.guard(client.hdel(releases, *ended))
        await self._store.guard(client.hset(releases, self._name, __version__))
        self._epoch = epoch


async def releases_alive(store: Store, pool: str) -> Counter[str]:
    """How many processes serve the pool with which version; "": one that does not tell it. Raises StoreError."""
    prefix = f"qp:{{{pool}}}"
    now, _ = await store.guard(store.client.time())
    found: Any = await store.guard(store.client.zrange(f"{prefix}:replicas", 0, -1, withscores=True))
    releases: Any = await store.guard(store.client.hgetall(f"{prefix}:releases"))
    alive = [name for name, second in found if abs(now - second) <= REPLICA_LIVES_S]
    return Counter(text_of(releases.get(name, b"")) for name in alive)
