"""The owners of stored objects: which client made which object on which account; and each client's home account.

A record is written as soon as an answer names its id, and the relay of the answer waits for that before its end. What
the store does not take at once is written later: it never fails a request, it is counted, and this process knows it in
the meantime.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import structlog

from quotapool.domain.observer import Observer
from quotapool.objects.layout import ListedObject, Owner, OwnerLayout, RecordKey, owner_of
from quotapool.openai.ids import Kind
from quotapool.store.store import Store, StoreError

_log = structlog.get_logger()
Ref = tuple[Kind, str]

_CACHED: Final = 10_000  # records that this process caches
_CACHED_S: Final = 60.0  # not for longer: another process may have deleted them
_MOST_PENDING: Final = 50_000  # records that wait for the store; the oldest are dropped first
_RETRY_S: Final = 1.0
_AT_ONCE: Final = 500  # commands in one pipeline


class ObjectOwners:
    """Owners of objects, of one pool, as one process reads and writes them."""

    def __init__(self, store: Store, pool: str, *, retention_s: float, observer: Observer) -> None:
        self._store = store
        self._pool = pool
        self._layout = OwnerLayout(pool, retention_s)
        self._observer = observer
        self._cache: OrderedDict[tuple[bytes, str], tuple[Owner, float]] = OrderedDict()
        self._pending: deque[tuple[RecordKey, bytes]] = deque()
        self._writing: set[asyncio.Task[None]] = set()
        self._retrying: asyncio.Task[None] | None = None
        self._homes_key = f"qp:{{{pool}:obj:homes}}:homes"
        self._homes: dict[str, tuple[str, float]] = {}

    def configure(self, *, retention_s: float) -> None:
        """Use another retention. Records that are written already keep their expiry."""
        self._layout = OwnerLayout(self._pool, retention_s)

    # ---- owners

    async def find(self, refs: Sequence[Ref], client: str) -> list[Owner | None]:
        """Each object's owner, None if it is unknown. Raises StoreError.

        Objects of other clients are never cached, like those that do not exist: a look-up takes equally long.
        """
        mine = owner_of("", client).client
        found: list[Owner | None] = [self._cached(object_id, mine) for _, object_id in refs]
        missing = [n for n, owner in enumerate(found) if owner is None]
        for n, owner in zip(missing, await self._read([refs[n] for n in missing]), strict=True):
            found[n] = owner
            if owner is not None and owner.client in {b"", mine}:
                self._add_to_cache(refs[n][1], mine, owner)
        return found

    async def _read(self, refs: Sequence[Ref]) -> list[Owner | None]:
        now = time.time()
        fields: dict[str, list[bytes]] = {}
        positions: list[list[tuple[str, int]]] = []  # for each object: (key, index of its field)
        for kind, object_id in refs:
            positions.append([])
            for record in self._layout.of(kind).read_keys(object_id, now):
                of_key = fields.setdefault(record.key, [])
                positions[-1].append((record.key, len(of_key)))
                of_key.append(record.field)
        replies = dict(zip(fields, await self._run([("hmget", key, *f) for key, f in fields.items()]), strict=True))
        owners: list[Owner | None] = []
        for (kind, _), of_object in zip(refs, positions, strict=True):
            values = [replies[key][index] for key, index in of_object]
            value = next((value for value in reversed(values) if value is not None), None)  # the first owner counts
            owners.append(None if value is None else self._layout.of(kind).owner(value))
        return owners

    def remember(self, refs: Iterable[Ref], account: str, client: str) -> asyncio.Task[None] | None:
        """Record the owner of these; None: nothing new. The task ends when they are written, or left for later.

        Objects that are known already keep their owner.
        """
        owner, now = owner_of(account, client), time.time()
        new = [ref for ref in dict.fromkeys(refs) if self._cached(ref[1], owner.client) is None]
        if not new:
            return None
        writes = []
        for kind, object_id in new:
            layout = self._layout.of(kind)
            writes.append((layout.write_key(object_id, now), layout.value(owner, account, client, now)))
            self._add_to_cache(object_id, owner.client, owner)
        task = asyncio.get_running_loop().create_task(self._write(writes))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task

    async def forget(self, ref: Ref) -> bool:
        """Delete an object's record; whether there was one. Raises StoreError."""
        kind, object_id = ref
        self.uncache(object_id)
        records = self._layout.of(kind).read_keys(object_id, time.time())
        return any(await self._run([("hdel", record.key, record.field) for record in records]))

    def uncache(self, object_id: str) -> None:
        """Read the object's owner from the store the next time."""
        for known in [name for name in self._cache if name[1] == object_id]:
            del self._cache[known]

    async def all(self) -> list[ListedObject]:
        """Every record that is kept by name, the newest first. Raises StoreError."""
        layout = self._layout.kept
        replies = await self._run([("hgetall", key) for key in layout.all_keys(time.time())])
        rows = [layout.listed(field, value) for fields in replies for field, value in fields.items()]
        return sorted(rows, key=lambda row: -row.created)

    def _cached(self, object_id: str, client: bytes) -> Owner | None:
        known = self._cache.get((client, object_id))
        return None if known is None or known[1] < time.monotonic() else known[0]

    def _add_to_cache(self, object_id: str, client: bytes, owner: Owner) -> None:
        self._cache[client, object_id] = owner, time.monotonic() + _CACHED_S
        self._cache.move_to_end((client, object_id))
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)

    # ---- home accounts

    async def home_account(self, client: str) -> str | None:
        """A client's home account, None before its first object. Raises StoreError."""
        known = self._homes.get(client)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        ((raw,),) = await self._run([("hmget", self._homes_key, _client_field(client))])
        if raw is None:
            return None
        account: str = raw.decode()
        self._cache_home(client, account)
        return account

    async def set_home_account(self, client: str, account: str) -> None:
        """Make `account` the client's home account from now on. Raises StoreError."""
        await self._run([("hset", self._homes_key, _client_field(client), account)])
        self._cache_home(client, account)

    def _cache_home(self, client: str, account: str) -> None:
        if len(self._homes) > _CACHED:
            self._homes.clear()
        self._homes[client] = account, time.monotonic() + _CACHED_S

    # ---- the store

    async def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        replies: list[Any] = []
        for start in range(0, len(commands), _AT_ONCE):
            pipeline = self._store.client.pipeline(transaction=False)
            for name, *arguments in commands[start : start + _AT_ONCE]:
                pipeline.execute_command(name.upper(), *arguments)
            replies += await self._store.guard(pipeline.execute())
        return replies

    async def _write(self, writes: Sequence[tuple[RecordKey, bytes]]) -> None:
        try:
            await self._put(writes)
        except StoreError:
            self._observer.objects_unwritten(len(writes))
            self._pending.extend(writes)
            while len(self._pending) > _MOST_PENDING:
                self._pending.popleft()
            if self._retrying is None:
                self._retrying = asyncio.get_running_loop().create_task(self._retry())

    async def _put(self, writes: Sequence[tuple[RecordKey, bytes]]) -> None:
        commands: list[tuple[Any, ...]] = [("hsetnx", record.key, record.field, value) for record, value in writes]
        expiries = {record.key: record.expires for record, _ in writes}
        commands += [("expireat", key, at) for key, at in expiries.items()]
        await self._run(commands)

    async def _retry(self) -> None:
        """Write what the store did not take, until it takes it. Repeating is harmless: the first owner counts."""
        try:
            while self._pending:
                await asyncio.sleep(_RETRY_S)
                some = [self._pending[n] for n in range(min(len(self._pending), _AT_ONCE))]
                try:
                    await self._put(some)
                except StoreError:
                    continue
                for _ in some:
                    self._pending.popleft()
        finally:
            self._retrying = None

    async def close(self, seconds: float = 2.0) -> None:
        """Wait for writes under way, for at most `seconds`."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=seconds)
        if self._retrying is not None:
            self._retrying.cancel()
            _log.warning("records of stored objects were not written", records=len(self._pending))


def _client_field(client: str) -> str:
    return client or "-"
