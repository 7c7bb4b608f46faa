"""The cache of one worker: made, changed and ended with its configuration. And what the supervisor gives for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from quotapool.cache.secrets import CacheSecrets, root_of
from quotapool.cache.store import CacheStore
from quotapool.domain.observer import Observer
from quotapool.keys.master_keys import NoMasterKey, first_master_key
from quotapool.settings import Settings
from quotapool.store.store import Store

_log = structlog.get_logger()


def cache_root(settings: Settings, on_secret: Callable[[str], object]) -> bytes:
    """What the keys of the cache are derived from; b"" if there is no cache, or no master key that can be read, which
    is logged. `settings` as configured, with the master key; `on_secret` receives it, for the redactor."""
    if not settings.cache.models:
        return b""
    try:
        return root_of(first_master_key(settings, on_secret))
    except NoMasterKey as problem:
        _log.error("there is no cache", problem=str(problem))
        return b""


class Caching:
    """`connect` opens a connection to the store that is the cache's own: a long answer must not stand before a
    reserve."""

    def __init__(self, pool: str, connect: Callable[[], Store], observer: Observer) -> None:
        self.cache: CacheStore | None = None
        self._pool = pool
        self._connect = connect
        self._observer = observer
        self._root = b""
        self._parts: tuple[CacheStore, Store, asyncio.Task[None]] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    def configure(self, root: bytes, max_size: int) -> CacheStore | None:
        """The cache from now on. With another root, or none, what was there ends."""
        if self.cache is not None and root == self._root:
            self.cache.resize(max_size)
            return self.cache
        self._end()
        self._root = root
        if root:
            store, failed, loop = self._connect(), self._observer.cache_failed, asyncio.get_running_loop()
            secrets = CacheSecrets(root, self._pool)
            self.cache = CacheStore(
                store,
                self._pool,
                secrets,
                max_size,
                on_failed=failed,
                on_unkept=failed,
                on_damaged=lambda: failed("damaged"),
            )
            self._parts = self.cache, store, loop.create_task(self.cache.run())
        return self.cache

    def _end(self) -> None:
        parts, self.cache, self._parts = self._parts, None, None
        if parts is not None:
            ending = asyncio.get_running_loop().create_task(_end(*parts))
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Store what waits, and give all leases back."""
        self._end()
        await asyncio.gather(*self._ending)


async def _end(cache: CacheStore, store: Store, running: asyncio.Task[None]) -> None:
    running.cancel()
    await cache.close()
    await store.close()
