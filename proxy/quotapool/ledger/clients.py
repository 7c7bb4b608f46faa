"""Client keys made with `quotapool clients`: kept in the store, only as SHA-256.

Stored: `qp:{pool}:clients`, hash: client id -> JSON {hash, added}; `qp:{pool}:suspended`, hash: client id -> JSON
{reason, since}. A change raises the pool's version, so every worker learns of it with its next request or heartbeat.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable

import msgspec

from quotapool.store.store import Store, text_of


class ClientRecord(msgspec.Struct, frozen=True):
    """`hash`: SHA-256 of the key, hex; `added`: Unix seconds."""

    hash: str
    added: float


class Suspension(msgspec.Struct, frozen=True):
    """Why a client is suspended, and since when (Unix seconds)."""

    reason: str
    since: float


def digest(token: str) -> str:
    """The form in which a client key is stored and looked up: its SHA-256, hex."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()


class ClientStore:
    """The client keys of one pool in the store. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._key = f"qp:{{{pool}}}:clients"
        self._suspended = f"qp:{{{pool}}}:suspended"
        self._refusals = f"qp:{{{pool}}}:policy:"
        self._version = f"qp:{{{pool}}}:version"

    async def add(self, name: str, key_hash: str) -> bool:
        """False if the name is taken."""
        record = msgspec.json.encode(ClientRecord(key_hash, time.time()))
        added = await self._store.guard(self._store.client.hsetnx(self._key, name, record.decode()))
        await self._changed()
        return bool(added)

    async def revoke(self, name: str) -> bool:
        """False if there is no such client."""
        gone = await self._store.guard(self._store.client.hdel(self._key, name))
        await self._changed()
        return bool(gone)

    async def all(self) -> dict[str, ClientRecord]:
        raw = await self._store.guard(self._store.client.hgetall(self._key))
        return {text_of(name): msgspec.json.decode(value, type=ClientRecord) for name, value in raw.items()}

    async def suspend(self, name: str, reason: str) -> bool:
        """False if it is suspended already. It may be a client of the configuration, too."""
        record = msgspec.json.encode(Suspension(reason, time.time())).decode()
        new = await self._store.guard(self._store.client.hsetnx(self._suspended, name, record))
        if new:
            await self._changed()
        return bool(new)

    async def resume(self, name: str) -> bool:
        """Serve it again, with its refusals forgotten; False if it was not suspended."""
        await self._store.guard(self._store.client.delete(self._refusals + name))
        gone = await self._store.guard(self._store.client.hdel(self._suspended, name))
        await self._changed()
        return bool(gone)

    async def suspended(self) -> dict[str, Suspension]:
        raw = await self._store.guard(self._store.client.hgetall(self._suspended))
        return {text_of(name): msgspec.json.decode(value, type=Suspension) for name, value in raw.items()}

    async def _changed(self) -> None:
        await self._store.guard(self._store.client.incr(self._version))


class ClientDirectory:
    """One process's copy of the store's client keys. `changed` is called when it differs from before."""

    def __init__(self, clients: ClientStore, changed: Callable[[], None]) -> None:
        self.hashes: dict[str, str] = {}  # SHA-256 -> client id
        self.suspended: dict[str, Suspension] = {}
        self._clients = clients
        self._changed = changed

    async def refresh(self) -> None:
        """Read all. Raises StoreLost."""
        hashes = {record.hash: name for name, record in (await self._clients.all()).items()}
        suspended = await self._clients.suspended()
        if (hashes, suspended) != (self.hashes, self.suspended):
            self.hashes, self.suspended = hashes, suspended
            self._changed()

    async def restore(self) -> None:
        """Write the keys back into a store that lost its data. Raises StoreLost."""
        for key_hash, name in self.hashes.items():
            await self._clients.add(name, key_hash)
        for name, suspension in self.suspended.items():
            await self._clients.suspend(name, suspension.reason)


def new_key() -> str:
    """A client key: 192 random bits, recognisable in leaks."""
    return f"qp-{secrets.token_urlsafe(24)}"
