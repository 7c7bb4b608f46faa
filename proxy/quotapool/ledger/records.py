"""Records in the store by name, each JSON, that operators change while the proxy runs: clients and teams.

A change replaces the record that was read, or nothing: of changes at the same time none is lost. It raises the pool's
version, so every worker learns of it with its next request or heartbeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from quotapool.store.store import Script, Store, text_of

_TRIES: Final = 10  # to change a record that others change at the same time

R = TypeVar("R", bound=msgspec.Struct)


class StoredRecords(Generic[R]):
    """The hash `qp:{pool}:<kind>`: name -> JSON of `shape`. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str, kind: str, shape: type[R]) -> None:
        self._store = store
        self._kind = kind
        self._shape = shape
        self._key = f"qp:{{{pool}}}:{kind}"
        self._version = f"qp:{{{pool}}}:version"
        self._script = Script.of(__package__, "client")

    async def all(self) -> dict[str, R]:
        raw = await self._store.guard(self._store.client.hgetall(self._key))
        return {text_of(name): msgspec.json.decode(value, type=self._shape) for name, value in raw.items()}

    async def get(self, name: str) -> R | None:
        raw = await self._store.guard(self._store.client.hget(self._key, name))
        return None if raw is None else msgspec.json.decode(raw, type=self._shape)

    async def put(self, name: str, record: R, without: Sequence[str] = ()) -> bool:
        """Add a record, and delete the keys `without` in the same step. False if the name is taken."""
        return await self._replace(name, b"", record, without)

    async def put_new(self, records: Mapping[str, R], leftovers: Callable[[str], Sequence[str]]) -> set[str]:
        """Add many, each as `put` does, in a few round trips and with one change of the version; the names that were
        taken, whose records stay as they are. `leftovers`: what one of this name left behind."""
        pipeline = self._store.client.pipeline(transaction=False)
        for name, record in records.items():
            pipeline.hsetnx(self._key, name, msgspec.json.encode(record).decode())
        added = await self._store.guard(pipeline.execute())
        taken = {name for name, new in zip(records, added, strict=True) if not new}
        if old := [key for name in records if name not in taken for key in leftovers(name)]:
            await self._store.guard(self._store.client.delete(*old))
        await self.changed()
        return taken

    async def change(self, name: str, change: Callable[[R], R]) -> R | None:
        """The record that is there now; None if there is none of this name. What `change` raises changes nothing."""
        for _ in range(_TRIES):
            raw = await self._store.guard(self._store.client.hget(self._key, name))
            if raw is None:
                return None
            before = raw if isinstance(raw, bytes) else raw.encode()
            after = change(msgspec.json.decode(before, type=self._shape))
            if await self._replace(name, before, after):
                return after
        raise RuntimeError(f"{name} of the {self._kind} is changed by others all the time")

    async def remove(self, name: str, with_it: Sequence[str] = ()) -> bool:
        """Remove a record, and then the keys `with_it`. False if there was none of this name."""
        gone = await self._store.guard(self._store.client.hdel(self._key, name))
        await self.changed()
        if gone and with_it:
            await self._store.guard(self._store.client.delete(*with_it))
        return bool(gone)

    async def changed(self) -> None:
        """Let every worker read again."""
        await self._store.guard(self._store.client.incr(self._version))

    async def _replace(self, name: str, before: bytes, after: R, without: Sequence[str] = ()) -> bool:
        written, keys = msgspec.json.encode(after), [self._key, self._version, *without]
        return bool(await self._store.evalsha(self._script, keys, [name, before, written]))


def merged(options: dict[str, Any], changed: dict[str, Any]) -> dict[str, Any]:
    """Options with some of them changed. Of `limits` each is an option by itself."""
    limits = changed.get("limits")
    if isinstance(limits, dict):
        changed = {**changed, "limits": {**options.get("limits", {}), **limits}}
    return {**options, **changed}
