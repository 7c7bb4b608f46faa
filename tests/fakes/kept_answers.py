"""Answers that a pool's cache keeps, put there as the request path does it."""

from __future__ import annotations

import asyncio

from quotapool.cache.entry import Entry, Form
from quotapool.cache.secrets import CacheSecrets
from quotapool.cache.store import CacheStore
from quotapool.keys.seal import MasterKey
from quotapool.store.store import Store

from tests.fakes.connect import PATIENT_S


async def keep(store: Store, pool: str, *answers: tuple[str, str], size: int = 1_000) -> None:
    """Keep one answer of `size` bytes for each (client, model), and wait until the store has them all."""
    secrets = CacheSecrets.of(MasterKey("0123456789abcdef" * 2), pool)
    cache = CacheStore(store, pool, secrets, 2**30, patience_s=PATIENT_S)
    for number, (client, model) in enumerate(answers):
        name = secrets.name(f"client:{client}", "chat", b"%d" % number)
        await cache.look_up(name, max_age_s=None, lead=True)
        cache.put(name, Entry(Form.JSON, b"x" * size, model=model), ttl_s=3600.0, client=client)
    async with asyncio.timeout(30):
        while (await cache.stats()).entries < len(answers):
            await asyncio.sleep(0.01)
    await cache.close()
