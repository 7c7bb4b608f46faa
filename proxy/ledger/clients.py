"""Client keys made with `quotapool clients`: kept in the store, by their SHA-256 only.

Stored: `qp:{pool}:clients`, hash: client id -> JSON {hash, added}. A change raises the pool's version, so every worker
hears of it with its next request (or its next look).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import msgspec

from proxy.ledger.connection import Store


class ClientRecord(msgspec.Struct, frozen=True):
    """`hash`: SHA-256 of the key, hex; `added`: Unix seconds."""

    hash: str
    added: float


class Clients:
    """The store's client keys of one pool. Every method raises StoreLost where the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._key = f"qp:{{{pool}}}:clients"
        self._version = f"qp:{{{pool}}}:version"

    async def add(self, name: str, key_hash: str) -> bool:
        """False where the name is taken."""
        record = msgspec.json.encode(ClientRecord(key_hash, time.time()))
        added = await self._store.guard(self._store.client.hsetnx(self._key, name, record.decode()))
        await self._changed()
        return bool(added)

    async def revoke(self, name: str) -> bool:
        """False where there is no such client."""
        gone = await self._store.guard(self._store.client.hdel(self._key, name))
        await self._changed()
        return bool(gone)

    async def all(self) -> dict[str, ClientRecord]:
        raw = await self._store.guard(self._store.client.hgetall(self._key))
        return {
            name if isinstance(name, str) else name.decode(): msgspec.json.decode(value, type=ClientRecord)
            for name, value in raw.items()
        }

    async def _changed(self) -> None:
        await self._store.guard(self._store.client.incr(self._version))


class ClientBook:
    """One process's copy of the store's client keys, for the gate. `changed` is told when it differs from before."""

    def __init__(self, clients: Clients, changed: Callable[[], None]) -> None:
        self.hashes: dict[str, str] = {}  # SHA-256 -> client id
        self._clients = clients
        self._changed = changed

    async def refresh(self) -> None:
        """Read all. Raises StoreLost."""
        hashes = {record.hash: name for name, record in (await self._clients.all()).items()}
        if hashes != self.hashes:
            self.hashes = hashes
            self._changed()

    async def remind(self) -> None:
        """Give a store that lost its memory the keys back. Raises StoreLost."""
        for key_hash, name in self.hashes.items():
            await self._clients.add(name, key_hash)


def new_key() -> str:
    """A client key: 192 random bits, recognisable in leaks."""
    return f"qp-{secrets.token_urlsafe(24)}"
