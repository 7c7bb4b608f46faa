"""Buckets read from the store, for operators and for what happens seldom; a request never reads one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Final

import msgspec

from quotapool.domain.bucket import Bucket
from quotapool.ledger.messages import bucket_key, bucket_of
from quotapool.ledger.registry import Registry
from quotapool.store.store import Store

_AT_ONCE: Final = 200  # buckets that are read and decoded in one turn of the loop, a few milliseconds

_unpack = msgspec.msgpack.Decoder().decode


class StoredBuckets:
    """The buckets of all accounts. Every call raises StoreUnavailable."""

    def __init__(self, store: Store, prefix: str, registry: Registry) -> None:
        self._store = store
        self._prefix = prefix
        self._registry = registry

    async def all(self) -> tuple[float, dict[tuple[str, str], Bucket]]:
        """The store's time and every bucket by (account, model group).

        Holds them all, a few kilobytes each: not for every scrape.
        """
        now = await self._registry.time()
        return now, {name: bucket async for name, bucket in self.each()}

    async def of(self, group: str, accounts: Sequence[str]) -> AsyncIterator[tuple[str, Bucket]]:
        """A group's buckets by account, of those accounts that have one; the loop gets its turn every few hundred."""
        for start in range(0, len(accounts), _AT_ONCE):
            part = accounts[start : start + _AT_ONCE]
            keys = [bucket_key(self._prefix, account, group) for account in part]
            values = await self._registry.retry(partial(self._store.client.mget, keys))
            for account, raw in zip(part, values, strict=True):
                if raw is not None:
                    yield account, bucket_of(raw)

    async def each(self) -> AsyncIterator[tuple[tuple[str, str], Bucket]]:
        """Every bucket with its (account, model group), in any order; the loop gets its turn every few hundred."""
        client = self._store.client
        async for part in self._registry.bucket_names():
            names = [tuple(_unpack(member)) for member in part]
            keys = [bucket_key(self._prefix, account, group) for account, group in names]
            values = await self._registry.retry(partial(client.mget, keys))
            for name, raw in zip(names, values, strict=True):
                if raw is not None:
                    yield name, bucket_of(raw)
            expired = [member for member, raw in zip(part, values, strict=True) if raw is None]
            if expired:
                await self._registry.retry(partial(client.srem, f"{self._prefix}:buckets", *expired))
