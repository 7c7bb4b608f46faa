"""New entries on their way to the store: sealed, bounded, never waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from quotapool.cache.calls import LONGEST_TEXT, Calls, Item, Release, key_of
from quotapool.cache.entry import Entry
from quotapool.cache.look_ups import SLACK_S
from quotapool.cache.sealed import Dated, to_bytes
from quotapool.cache.secrets import CacheSecrets
from quotapool.store.store import Store, StoreError, StoreLost

_log = structlog.get_logger()
MOST_ENTRY: Final = 8 * 2**20  # bytes of an answer
_MOST_WAITING: Final = 32 * 2**20  # bytes of answers that have not reached the store
_WAITING_EACH: Final = 1024  # bytes beside the body
_IN_A_THREAD: Final = 16_384  # bytes from which on compressing would hold up the loop
_MOST_TRIES: Final = 200  # to make room: each time up to 64 entries go
_SET_AT_ONCE: Final = 2  # long texts, each on a connection with a buffer of its size at the store
_UNREGISTERED_MS: Final = 10_000  # how long a long text stays if the script never hears of it
_LONGEST_WORD: Final = 4096  # characters of the head's texts

_OVERHEAD: Final = 744
"""Bytes of an entry beside its text and the names of pool, client and model. Its key 96, its object 16, its places in
the tables of keys and of ends 32 + 32; a field and a value of a hash 32 + 128, and the place 32; in each of two sorted
sets a member 32, a node 64 and a place 32; buckets of these five tables while they grow, 5 x 24."""

_KEPT, _NO_ROOM, _FULL = 1, 0, -1


class Puts:
    """`on_unkept(why)`: an entry was not kept. `too_large`; `busy`: too much is on its way; `no_room`: room could not
    be made; `full`: the store is; `late`: it took a minute; `store`: the store is away.

    `leases`: those that this process has, token by key; one stays until its entry has arrived, or is not kept."""

    def __init__(
        self,
        store: Store,
        calls: Calls,
        secrets: CacheSecrets,
        leases: dict[str, str],
        on_unkept: Callable[[str], None],
    ) -> None:
        self.waiting = 0  # bytes
        self.calls = calls
        self.secrets = secrets
        self.leases = leases
        self.on_unkept = on_unkept
        self._store = store
        self._tasks: set[asyncio.Task[None]] = set()
        self._setting = asyncio.Semaphore(_SET_AT_ONCE)

    def put(self, name: bytes, entry: Entry, ttl_s: float, client: str) -> None:
        """A lease of this name is given back with it."""
        token = self.leases.get(key_of(name), "")
        item = _Put(self, name, entry, ttl_s, client, token)
        if len(entry.body) > MOST_ENTRY or max(map(len, (entry.content_type, entry.model, client))) > _LONGEST_WORD:
            item.leave("too_large")
        elif self.calls.away:
            item.leave("store")
        elif self.waiting + item.size > _MOST_WAITING:
            item.leave("busy")
        else:
            self.waiting += item.size
            item.is_waiting = True
            if len(entry.body) < _IN_A_THREAD:
                self.calls.put(item, may_wait=True)
            else:
                task = self.calls.loop.create_task(self._put_long(item))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def finish(self, seconds: float) -> None:
        """Let those that are being sealed get into the queue, for at most `seconds`."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            for task in late:
                task.cancel()

    async def _put_long(self, item: _Put) -> None:
        now = self.calls.now
        if now is not None:
            try:
                await asyncio.to_thread(item.seal, now)
            except Exception:  # noqa: BLE001 - its lease would be prolonged for ever
                _log.exception("an answer could not be sealed")
        if not item.sealed:
            item.leave("store")
        elif item.charge > self.calls.max_size:
            item.leave("too_large")
        elif len(item.sealed) <= LONGEST_TEXT:
            self.calls.put(item)
        else:
            try:
                key = f"{self.calls.prefix}:e:{item.key}"
                async with self._setting:
                    await self._store.guard(self._store.client.set(key, item.sealed, px=_UNREGISTERED_MS))
            except StoreError as error:
                self.calls.note_failure(error)
                is_full = isinstance(error, StoreLost) and error.reason == "out_of_memory"
                item.leave("full" if is_full else "store")
                return
            item.sealed = b""
            self.calls.put(item)


class _Put(Item):
    """`sealed`: the text; empty until then, and again once a long one is in the store."""

    __slots__ = (
        *("charge", "client", "ends", "entry", "is_waiting", "length", "made", "name", "puts"),
        *("sealed", "size", "token", "tries", "ttl_s"),
    )

    def __init__(self, puts: Puts, name: bytes, entry: Entry, ttl_s: float, client: str, token: str) -> None:
        self.key = key_of(name)
        self.puts = puts
        self.name = name
        self.entry = entry
        self.ttl_s = ttl_s
        self.client = client
        self.token = token
        self.size = len(entry.body) + _WAITING_EACH
        self.is_waiting = False
        self.sealed = b""
        self.length = self.charge = self.tries = 0
        now = puts.calls.now
        self.made = 0.0 if now is None else now  # 0: the store has not answered yet
        self.ends = 0.0

    @property
    def text(self) -> bytes:
        return self.sealed

    @property
    def weight(self) -> int:
        return min(self.size, LONGEST_TEXT)

    def seal(self, now: float) -> None:
        """`now`: second of the store's clock."""
        # The clock that is known is not ahead of the store's, so this errs to an earlier end.
        self.made, self.ends = now, now + self.ttl_s - min(SLACK_S, self.ttl_s / 2)
        self.sealed = self.puts.secrets.seal(self.name, to_bytes(Dated(self.entry, self.made, self.ends)))
        self.length = len(self.sealed)
        self.charge = charge_of(self.length, self.puts.calls.prefix, self.client, self.entry.model)

    def words(self) -> list[Any] | None:
        if not self.length:
            if not self.made:
                now = self.puts.calls.now
                if now is None:
                    self.leave("store")
                    return None
                self.made = now
            self.seal(self.made)
        about = [self.length, self.made, self.ends, self.charge, self.client, self.entry.model]
        return [2, self.key, *about, self.token]

    def done(self, result: int, _text: bytes, _now: float, /) -> None:
        if result == _NO_ROOM and self.tries < _MOST_TRIES:
            self.tries += 1
            self.puts.calls.again(self)
        elif result == _KEPT:
            self._arrive()
        else:
            self.leave({_NO_ROOM: "no_room", _FULL: "full"}.get(result, "late"))

    def failed(self) -> None:
        self.leave("store")

    def leave(self, why: str) -> None:
        """It is not kept; its lease is for others."""
        if self.token:
            self.puts.calls.put(Release(self.key, self.token), urgent=True)
        self._arrive()
        self.puts.on_unkept(why)

    def _arrive(self) -> None:
        if self.is_waiting:
            self.is_waiting = False
            self.puts.waiting -= self.size
        if self.token:
            token = self.puts.leases.pop(self.key, "")
            if token not in {"", self.token}:  # another request of this process has asked for it meanwhile
                self.puts.calls.put(Release(self.key, token), urgent=True)


def charge_of(length: int, *names: str) -> int:
    """Bytes that an entry takes of the store's memory at most. `length`: of its sealed text; `names`: the prefix of its
    key, its client and model."""
    return _OVERHEAD + (length + len("".join(names).encode())) * 5 // 4  # the allocator's sizes are a quarter apart
