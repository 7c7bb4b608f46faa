"""What the cache holds, for operators: how many entries and bytes, whose, and how to be rid of them.

Needs no master key: none of this looks into an entry.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from heapq import nlargest
from typing import Any, Final, cast

import msgspec

from quotapool.cache.calls import ASKED, MOST_IN_CALL, Calls, Drop, Reset, key_of
from quotapool.store.store import Store, text_of

LARGEST: Final = 100
"""As many clients and models are named at most."""
_AT_ONCE: Final = 500  # fields of one answer of the store
_MADE, _ENDS, _EPOCH, _CLIENT, _MODEL = 0, 1, 2, 5, 6  # of `about` in lua/cache.lua


class Share(msgspec.Struct, frozen=True):
    """Of a client or a model."""

    entries: int
    bytes: int


class CacheStats(msgspec.Struct, frozen=True):
    """`bytes`: as they count against `max_size`. `evicted`, `expired`: entries ever removed to make room, and because
    their time was over. `clients`, `models`: the LARGEST ones, largest first; a client is the one whose request made
    the entry."""

    entries: int = 0
    bytes: int = 0
    evicted: int = 0
    expired: int = 0
    clients: Mapping[str, Share] = {}
    models: Mapping[str, Share] = {}


class CacheContents:
    """Of one pool. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._calls = Calls(store, pool, max_size=0, on_failed=lambda _: None)
        self._prefix = self._calls.prefix

    async def stats(self) -> CacheStats:
        """Now. Reads one field for each client and model that has an entry, and no entries."""
        client = self._store.client
        raw = await self._store.guard(client.hmget(f"{self._prefix}:sums", ["entries", "bytes", "evicted", "expired"]))
        entries, size, evicted, expired = (max(0, int(value or 0)) for value in raw)
        found: dict[str, dict[str, int]] = {"bc": {}, "nc": {}, "bm": {}, "nm": {}}
        async for field, value in self._fields("shares"):
            kind, colon, name = text_of(field).partition(":")
            if colon and kind in found:
                found[kind][name] = int(value)
        clients, models = _largest(found["bc"], found["nc"]), _largest(found["bm"], found["nm"])
        return CacheStats(entries, size, evicted, expired, clients, models)

    async def ages(self, names: Sequence[bytes], now: float) -> list[float | None]:
        """Of entries by name: seconds since each was made; None: a look-up at `now` (by the store's clock) would not
        find it. Nothing is changed, not even when they were last used."""
        client, found = self._store.client, list[float | None]()
        epoch = int(await self._store.guard(client.get(f"{self._prefix}:epoch")) or 0)
        for at in range(0, len(names), _AT_ONCE):
            keys = [key_of(name) for name in names[at : at + _AT_ONCE]]
            fields = await self._store.guard(client.hmget(f"{self._prefix}:about", keys))
            for raw in cast("list[bytes | None]", fields):
                about = None if raw is None else _about(raw)
                serves = about is not None and about[_EPOCH] == epoch and now < about[_ENDS]
                found.append(max(0.0, now - about[_MADE]) if about is not None and serves else None)
        return found

    async def clear(self, *, client: str | None = None, model: str | None = None) -> int:
        """Remove all entries, or those that this client's requests made, or of this model, or both. How many there
        were; what is stored meanwhile may stay."""
        removed, keys = 0, list[str]()
        async for field, value in self._fields("about"):
            about = _about(value)
            if about is None or (client in {None, about[_CLIENT]} and model in {None, about[_MODEL]}):
                keys.append(text_of(field))
            if len(keys) == MOST_IN_CALL:
                removed += await self._remove(keys)
                keys = []
        removed += await self._remove(keys)
        if client is None and model is None:
            await self._calls.send([Reset()])
        return removed

    async def _remove(self, keys: list[str]) -> int:
        dropped = list[bool]()
        await self._calls.send([Drop(key, ASKED, on_done=dropped.append) for key in keys])
        return sum(dropped)

    async def _fields(self, name: str) -> AsyncIterator[tuple[bytes, bytes]]:
        """Of a hash; a field that is there all the while comes at least once."""
        cursor = 0
        while True:
            scan = self._store.client.hscan(f"{self._prefix}:{name}", cursor, count=_AT_ONCE)
            cursor, fields = await self._store.guard(scan)
            for field, value in cast("dict[bytes, bytes]", fields).items():
                yield field, value
            if not cursor:
                return


def _about(raw: bytes) -> list[Any] | None:
    """None: it is damaged, so it goes too."""
    try:
        about = msgspec.msgpack.decode(raw)
    except msgspec.MsgspecError:
        return None
    return about if isinstance(about, list) and len(about) > _MODEL else None


def _largest(sizes: Mapping[str, int], numbers: Mapping[str, int]) -> dict[str, Share]:
    names = nlargest(LARGEST, sizes, key=lambda name: (sizes[name], name))
    return {name: Share(numbers.get(name, 0), sizes[name]) for name in names}
