"""What operators see of the cache, and what they clear."""

from __future__ import annotations

import random

import pytest
from quotapool.cache.contents import LARGEST, CacheContents
from quotapool.cache.puts import charge_of
from quotapool.cache.store import CacheStats, Found

from tests.fakes.caches import POOL, PREFIX, entry, name, processes

CLIENTS, MODELS = ("app", "search", "ü:1"), ("gpt-4o", "o3", "text-embedding-3-small")


@pytest.fixture
async def one(valkey_url):
    async with processes(valkey_url, 1) as [made]:
        yield made


async def fill(one) -> dict[int, tuple[str, str]]:
    """Client and model by number."""
    rng = random.Random(3)
    kept = {n: (rng.choice(CLIENTS), rng.choice(MODELS)) for n in range(400)}
    await one.ask(name(10**6), lead=False)
    for n, (client, model) in kept.items():
        one.put(name(n), entry(n, model=model), ttl_s=60, client=client)
    await one.settled()
    return kept


async def there(one) -> set[int]:
    return {n for n in range(400) if isinstance(await one.ask(name(n), lead=False), Found)}


async def test_an_empty_cache(one):
    assert await one.stats() == CacheStats()
    assert await one.clear() == await one.clear(client="app", model="o3") == 0


async def test_entries_and_bytes_of_each_client_and_model(one):
    kept = await fill(one)
    stats = await one.stats()
    assert stats.entries == 400
    assert stats.bytes == sum(share.bytes for share in stats.clients.values())
    assert stats.bytes == sum(share.bytes for share in stats.models.values())
    for which, shares in enumerate((stats.clients, stats.models)):
        assert {who: share.entries for who, share in shares.items()} == {
            who: sum(each[which] == who for each in kept.values()) for who in shares
        }
        assert set(shares) == {each[which] for each in kept.values()}
        assert [share.bytes for share in shares.values()] == sorted((s.bytes for s in shares.values()), reverse=True)


async def test_one_entry_counts_what_it_may_take(one):
    await one.keep(name(1), entry(1), client="app")
    text = await one.store.client.strlen((await one.store.client.keys(f"{PREFIX}:e:*"))[0])
    assert (await one.stats()).bytes == charge_of(text, PREFIX, "app", "gpt-4o")


@pytest.mark.parametrize("client", [None, "app", "ü:1", "nobody"])
@pytest.mark.parametrize("model", [None, "o3", "nothing"])
async def test_what_is_cleared_is_gone_and_nothing_else(one, client, model):
    kept = await fill(one)
    goes = {n for n, (c, m) in kept.items() if client in {None, c} and model in {None, m}}
    assert await one.clear(client=client, model=model) == len(goes)
    assert await there(one) == set(kept) - goes
    stats = await one.stats()
    assert stats.entries == 400 - len(goes)
    assert set(stats.clients) == {c for n, (c, m) in kept.items() if n not in goes}
    assert stats.evicted == stats.expired == 0


async def test_only_the_largest_are_named(one):
    await one.ask(name(10**6), lead=False)
    for n in range(LARGEST + 20):
        for m in range(2 if n < 10 else 1):
            one.put(name(10 * n + m), entry(n), ttl_s=60, client=f"client-{n}")
    await one.settled()
    clients = (await one.stats()).clients
    assert len(clients) == LARGEST
    assert set(list(clients)[:10]) == {f"client-{n}" for n in range(10)}
    assert [clients["client-0"].entries, list(clients.values())[-1].entries] == [2, 1]


async def test_no_master_key_is_needed(one):
    await fill(one)
    contents = CacheContents(one.store, POOL)
    assert await contents.stats() == await one.stats()
    assert await contents.clear() == 400
    assert (await one.stats()).entries == 0
