"""The book of owners: who made which object, on which account; and where each client is at home.

A record is written as soon as an answer names its id, and whoever relays the answer waits for it before its end. What
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
from quotapool.objects.layout import Listed, Owner, OwnerLayout, Place, owner_of
from quotapool.openai.ids import Kind
from quotapool.store.store import Store, StoreError

_log = structlog.get_logger()
Ref = tuple[Kind, str]

_CACHED: Final = 10_000  # records of which this process remembers what it saw last
_CACHED_S: Final = 60.0  # for so long: another process may have forgotten them
_MOST_LATER: Final = 50_000  # records that wait for the store; the oldest go first
_AGAIN_S: Final = 1.0
_AT_ONCE: Final = 500  # commands in one pipeline


class ObjectOwners:
    """Owners of objects, of one pool, as one process reads and writes them."""

    def __init__(self, store: Store, pool: str, *, retention_s: float, observer: Observer) -> None:
        self._store = store
        self._pool = pool
        self._shelves = OwnerLayout(pool, retention_s)
        self._observer = observer
        self._seen: OrderedDict[tuple[bytes, str], tuple[Owner, float]] = OrderedDict()
        self._later: deque[tuple[Place, bytes]] = deque()
        self._writing: set[asyncio.Task[None]] = set()
        self._repeating: asyncio.Task[None] | None = None
        self._homes_key = f"qp:{{{pool}:obj:homes}}:homes"
        self._homes: dict[str, tuple[str, float]] = {}

    def __repr__(self) -> str:
        return f"<ObjectOwners seen={len(self._seen)} later={len(self._later)}>"

    def configure(self, *, retention_s: float) -> None:
        """Take another retention. Records already written end when they were to end."""
        self._shelves = OwnerLayout(self._pool, retention_s)

    # ---- owners

    async def find(self, refs: Sequence[Ref], client: str) -> list[Owner | None]:
        """Each object's owner, None where nobody knows it. Raises StoreError.

        What belongs to somebody else is always looked up anew, as what does not exist is: it takes as long.
        """
        mine = owner_of("", client).client
        found: list[Owner | None] = [self._remembered(object_id, mine) for _, object_id in refs]
        missing = [n for n, owner in enumerate(found) if owner is None]
        for n, owner in zip(missing, await self._read([refs[n] for n in missing]), strict=True):
            found[n] = owner
            if owner is not None and owner.client in {b"", mine}:
                self._note(refs[n][1], mine, owner)
        return found

    async def _read(self, refs: Sequence[Ref]) -> list[Owner | None]:
        now = time.time()
        fields: dict[str, list[bytes]] = {}
        spots: list[list[tuple[str, int]]] = []
        for kind, object_id in refs:
            spots.append([])
            for place in self._shelves.of(kind).places(object_id, now):
                asked = fields.setdefault(place.key, [])
                spots[-1].append((place.key, len(asked)))
                asked.append(place.field)
        answers = dict(zip(fields, await self._run([("hmget", key, *f) for key, f in fields.items()]), strict=True))
        owners: list[Owner | None] = []
        for (kind, _), where in zip(refs, spots, strict=True):
            values = [answers[key][at] for key, at in where]
            value = next((value for value in reversed(values) if value is not None), None)  # the first owner counts
            owners.append(None if value is None else self._shelves.of(kind).owner(value))
        return owners

    def remember(self, refs: Iterable[Ref], account: str, client: str) -> asyncio.Task[None] | None:
        """Write down whose these are; None: nothing new. The task ends when they are written, or left for later.

        What is known already keeps its owner.
        """
        owner, now = owner_of(account, client), time.time()
        new = [ref for ref in dict.fromkeys(refs) if self._remembered(ref[1], owner.client) is None]
        if not new:
            return None
        writes = []
        for kind, object_id in new:
            shelf = self._shelves.of(kind)
            writes.append((shelf.place(object_id, now), shelf.value(owner, account, client, now)))
            self._note(object_id, owner.client, owner)
        task = asyncio.get_running_loop().create_task(self._write(writes))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        return task

    async def forget(self, ref: Ref) -> bool:
        """Whether there was a record. Raises StoreError."""
        kind, object_id = ref
        self.doubt(object_id)
        places = self._shelves.of(kind).places(object_id, time.time())
        return any(await self._run([("hdel", place.key, place.field) for place in places]))

    def doubt(self, object_id: str) -> None:
        """Look in the store the next time, whatever was seen before."""
        for known in [name for name in self._seen if name[1] == object_id]:
            del self._seen[known]

    async def all(self) -> list[Listed]:
        """Every record that is kept by name, the newest first. Raises StoreError."""
        shelf = self._shelves.kept
        answers = await self._run([("hgetall", key) for key in shelf.keys(time.time())])
        rows = [shelf.listed(field, value) for fields in answers for field, value in fields.items()]
        return sorted(rows, key=lambda row: -row.created)

    def _remembered(self, object_id: str, client: bytes) -> Owner | None:
        known = self._seen.get((client, object_id))
        return None if known is None or known[1] < time.monotonic() else known[0]

    def _note(self, object_id: str, client: bytes, owner: Owner) -> None:
        self._seen[client, object_id] = owner, time.monotonic() + _CACHED_S
        self._seen.move_to_end((client, object_id))
        if len(self._seen) > _CACHED:
            self._seen.popitem(last=False)

    # ---- homes

    async def home(self, client: str) -> str | None:
        """The account at which a client is at home, None before its first object. Raises StoreError."""
        known = self._homes.get(client)
        if known is not None and known[1] > time.monotonic():
            return known[0]
        ((raw,),) = await self._run([("hmget", self._homes_key, _name(client))])
        if raw is None:
            return None
        account: str = raw.decode()
        self._note_home(client, account)
        return account

    async def settle_in(self, client: str, account: str) -> None:
        """From now on `client` is at home there. Raises StoreError."""
        await self._run([("hset", self._homes_key, _name(client), account)])
        self._note_home(client, account)

    def _note_home(self, client: str, account: str) -> None:
        if len(self._homes) > _CACHED:
            self._homes.clear()
        self._homes[client] = account, time.monotonic() + _CACHED_S

    # ---- the store

    async def _run(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(commands), _AT_ONCE):
            pipeline = self._store.client.pipeline(transaction=False)
            for name, *arguments in commands[start : start + _AT_ONCE]:
                pipeline.execute_command(name.upper(), *arguments)
            answers += await self._store.guard(pipeline.execute())
        return answers

    async def _write(self, writes: Sequence[tuple[Place, bytes]]) -> None:
        try:
            await self._put(writes)
        except StoreError:
            self._observer.objects_unwritten(len(writes))
            self._later.extend(writes)
            while len(self._later) > _MOST_LATER:
                self._later.popleft()
            if self._repeating is None:
                self._repeating = asyncio.get_running_loop().create_task(self._repeat())

    async def _put(self, writes: Sequence[tuple[Place, bytes]]) -> None:
        commands: list[tuple[Any, ...]] = []
        for place, value in writes:
            commands.append(("hsetnx", place.key, place.field, value))
        expiries = {place.key: place.expires for place, _ in writes}
        commands += [("expireat", key, at) for key, at in expiries.items()]
        await self._run(commands)

    async def _repeat(self) -> None:
        """Write what the store did not take, until it takes it. Repeating is harmless: the first one counts."""
        try:
            while self._later:
                await asyncio.sleep(_AGAIN_S)
                some = [self._later[n] for n in range(min(len(self._later), _AT_ONCE))]
                try:
                    await self._put(some)
                except StoreError:
                    continue
                for _ in some:
                    self._later.popleft()
        finally:
            self._repeating = None

    async def close(self, seconds: float = 2.0) -> None:
        """Wait for what is being written, for at most `seconds`."""
        if self._writing:
            await asyncio.wait(self._writing, timeout=seconds)
        if self._repeating is not None:
            self._repeating.cancel()
            _log.warning("records of stored objects were not written", records=len(self._later))


def _name(client: str) -> str:
    return client or "-"
