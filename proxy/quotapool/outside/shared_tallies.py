"""What all replicas share about outside use: tallies on their way to whoever judges them, and what is named.

Stored, with a hash tag of its own, so that it never delays a reserve in a cluster:
  qp:{<pool>:outside}:tallies   stream, an entry or more a worker and slice: r = [[account, group, Slices], ...]
  qp:{<pool>:outside}:named     hash: MessagePack of (account, group) -> MessagePack of `Stored`
  qp:{<pool>:outside}:lease     the replica that judges, with expiry: one at a time

The bounds: an entry has 200 rows, 25 KB, and the stream the newest 400 entries; all go ten minutes after the last one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, Final

import msgspec

from quotapool.domain.outside_tally import Tally
from quotapool.domain.outside_use import SLICE_S, Judgement, Slices
from quotapool.ledger.replicas import count_alive
from quotapool.outside.tallies import Name
from quotapool.store.store import Store, text_of

LEASE_S: Final = 3 * SLICE_S
_MOST_ENTRIES: Final = 400
_ROWS: Final = 200  # of an entry
_AT_ONCE: Final = 20  # entries in one answer
_KEPT_S: Final = 600

_Row = tuple[str, str, Slices]
_pack: Final = msgspec.msgpack.Encoder().encode
rows_of: Final = msgspec.msgpack.Decoder(list[_Row]).decode
_name_of: Final = msgspec.msgpack.Decoder(Name).decode


class Stored(msgspec.Struct, array_like=True):
    """Outside use that is named: since when (Unix seconds), and how it was judged last."""

    since: float
    judged: Judgement


_stored_of: Final = msgspec.msgpack.Decoder(Stored).decode


def rows_packed(tallies: Mapping[Name, Tally]) -> Iterator[bytes]:
    """The entries for these; `rows_of` reads one."""
    rows = iter(tallies.items())
    while part := list(islice(rows, _ROWS)):
        yield _pack([(*name, tally.numbers()) for name, tally in part])


def _bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


class SharedTallies:
    """Of one pool. `owner`: this process, for the lease. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str, owner: str = "") -> None:
        self._store = store
        self._pool = pool
        self._prefix = f"qp:{{{pool}:outside}}"
        self._owner = owner

    async def add(self, tallies: Mapping[Name, Tally]) -> None:
        """Send a slice of one process."""
        key = f"{self._prefix}:tallies"
        for body in rows_packed(tallies):
            fields: dict[Any, Any] = {"r": body}
            client = self._store.client
            await self._store.guard(client.xadd(key, fields, maxlen=_MOST_ENTRIES, approximate=True))
            await self._store.guard(client.expire(key, _KEPT_S))

    async def end(self) -> str:
        """The place behind the last entry, for `since`."""
        last: Any = await self._store.guard(self._store.client.xrevrange(f"{self._prefix}:tallies", count=1))
        return text_of(last[0][0]) if last else "0-0"

    async def since(self, place: str) -> tuple[dict[Name, Slices], str]:
        """The sums of all entries that were added after this place, and the place after them."""
        sums: dict[Name, Slices] = {}
        while True:
            key = f"{self._prefix}:tallies"
            found: Any = await self._store.guard(self._store.client.xrange(key, f"({place}", "+", count=_AT_ONCE))
            for entry, fields in found or ():
                place = text_of(entry)
                for account, group, slices in rows_of(fields[b"r"]):
                    known = sums.get((account, group))
                    if known is None:
                        sums[account, group] = slices
                    else:
                        known.add(slices)
            if not found or len(found) < _AT_ONCE:
                return sums, place

    # ---- what is named

    async def named(self) -> dict[Name, Stored]:
        raw = await self._store.guard(self._store.client.hgetall(f"{self._prefix}:named"))
        return {_name_of(_bytes(name)): _stored_of(_bytes(value)) for name, value in raw.items()}

    async def put(self, name: Name, stored: Stored) -> None:
        key = f"{self._prefix}:named"
        mapping: dict[Any, Any] = {_pack(name): _pack(stored)}
        await self._store.guard(self._store.client.hset(key, mapping=mapping))

    async def forget(self, name: Name) -> None:
        await self._store.guard(self._store.client.hdel(f"{self._prefix}:named", _pack(name)))

    # ---- who judges

    async def acquire(self) -> bool:
        """Become the replica that judges, or stay it; False: another one does."""
        client, key, lease_ms = self._store.client, f"{self._prefix}:lease", int(LEASE_S * 1000)
        if await self._store.guard(client.set(key, self._owner, nx=True, px=lease_ms)):
            return True
        if await self._holder() != self._owner:
            return False
        return bool(await self._store.guard(client.set(key, self._owner, xx=True, px=lease_ms)))

    async def _holder(self) -> str:
        holder: Any = await self._store.guard(self._store.client.get(f"{self._prefix}:lease"))
        return text_of(holder or b"")

    async def release(self) -> None:
        """Let another replica judge at once."""
        key = f"{self._prefix}:lease"
        if await self._holder() == self._owner:
            await self._store.guard(self._store.client.delete(key))

    async def replicas(self) -> int:
        """How many processes serve the pool, by their heartbeats."""
        return await count_alive(self._store, self._pool)
