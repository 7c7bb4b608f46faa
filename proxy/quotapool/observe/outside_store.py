"""Outside use that is named now: written by the replica that judges, read by all who show it.

Stored, beside the samples of the pool's room:
  qp:{<pool>:samples}:outside   MessagePack of [OutsideUse, ...], at most 100; gone a quarter of an hour after nobody
                                wrote it, since nothing is known any more then
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from quotapool.domain.outside import OutsideUse, bounded
from quotapool.store.store import Store

KEPT_S: Final = 900

_pack: Final = msgspec.msgpack.Encoder().encode
_rows_of: Final = msgspec.msgpack.Decoder(list[OutsideUse]).decode


class OutsideStore:
    """That of one pool. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self.key = f"qp:{{{pool}:samples}}:outside"

    async def put(self, named: Sequence[OutsideUse]) -> None:
        """What is named now, to be repeated while anything is; nothing: there is none."""
        client = self._store.client
        if named:
            await self._store.guard(client.set(self.key, _pack(bounded(named)), ex=KEPT_S))
        else:
            await self._store.guard(client.delete(self.key))

    async def named(self) -> list[OutsideUse]:
        """By account and model group."""
        raw: Any = await self._store.guard(self._store.client.get(self.key))
        return _rows_of(raw) if raw else []
