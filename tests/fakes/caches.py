"""What tests of the cache share: stores of one pool with the same keys, names, and entries that differ."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from quotapool.cache.entry import Cost, Entry, Form
from quotapool.cache.secrets import CacheSecrets
from quotapool.cache.store import CacheStore, Found
from quotapool.store.store import Store

from tests.fakes.connect import PATIENT_S, connect

ROOT = bytes(range(32))
POOL = "test"
PREFIX = f"qp:{{{POOL}:cache}}"
ROOMY = 64 * 2**20


class Process(CacheStore):
    """One process' cache, which remembers what it was told of: `failed`, `unkept`, `damaged`."""

    def __init__(
        self,
        store: Store,
        max_size: int = ROOMY,
        *,
        root: bytes = ROOT,
        pool: str = POOL,
        patience_s: float = PATIENT_S,
    ) -> None:
        self.store = store
        self.secrets = CacheSecrets(root, pool)
        self.failed: list[str] = []
        self.unkept: list[str] = []
        self.damaged = 0
        options: dict[str, Any] = {"on_failed": self.failed.append, "on_unkept": self.unkept.append}
        options["patience_s"] = patience_s
        super().__init__(store, pool, self.secrets, max_size, on_damaged=self._note_damaged, **options)

    def _note_damaged(self) -> None:
        self.damaged += 1

    async def settled(self) -> None:
        """All that was put has been answered."""
        await self.flush(5)

    async def ask(self, name: bytes, *, max_age_s: float | None = None, lead: bool = True) -> Any:
        return await self.look_up(name, max_age_s=max_age_s, lead=lead)

    async def keep(self, name: bytes, entry: Entry, *, ttl_s: float = 60.0, client: str = "app") -> None:
        """Put it, and wait until it is there, or not."""
        if self._calls.now is None:  # no entry is dated before the store has told the time
            await self.ask(b"another name....", lead=False)
        self.put(name, entry, ttl_s=ttl_s, client=client)
        await self.settled()


@contextlib.asynccontextmanager
async def processes(url: str, number: int = 2, **options: Any) -> AsyncIterator[list[Process]]:
    """So many processes of one pool, which wait for the store even on a busy machine."""
    made = [Process(connect(url), **options) for _ in range(number)]
    try:
        yield made
    finally:
        for one in made:
            await one.close()
            await one.store.close()


def name(n: int) -> bytes:
    return b"name%012d" % n


def entry(n: int = 0, size: int = 100, *, model: str = "gpt-4o") -> Entry:
    """Of `size` bytes; each `n` another one."""
    body = (b'{"answer": %d, "text": "' % n).ljust(size - 2, b"abcdefgh"[n % 8 :][:1]) + b'"}'
    return Entry(Form.JSON, body, "application/json", model, Cost(10 + n, 20, 30_000 + n))


def served(outcome: object) -> Entry | None:
    """The entry of a hit."""
    return outcome.entry if isinstance(outcome, Found) else None
