"""How full the store is, as it says itself; in a cluster the primary that is fullest decides."""

from __future__ import annotations

from quotapool.store.memory import memory
from quotapool.store.store import Store

from tests.fakes.cluster import cluster
from tests.fakes.connect import connect
from tests.fakes.valkey import running_valkey

MIB = 1024 * 1024


async def put(store: Store, key: str, mebibytes: int) -> None:
    await store.guard(store.client.set(key, b"x" * mebibytes * MIB))


async def test_what_a_server_uses_and_may_use(tmp_path):
    with running_valkey(tmp_path, "--maxmemory", "64mb") as url:
        store = connect(url)
        before = await memory(store)
        await put(store, "{p}a", 8)
        after = await memory(store)
        await store.close()
    assert before.limit == after.limit == 64 * MIB
    assert 8 * MIB <= after.used - before.used < 17 * MIB  # a string may get up to twice its room


async def test_a_server_without_a_limit_has_none(tmp_path):
    with running_valkey(tmp_path) as url:
        store = connect(url)
        assert (await memory(store)).limit == 0
        await store.close()


async def test_the_fullest_primary_of_a_cluster_counts(tmp_path):
    async with cluster(tmp_path) as nodes:
        store = connect(f"redis+cluster://127.0.0.1:{next(iter(nodes))}", timeout_s=2.0)
        before = await memory(store)
        await put(store, "{p}a", 8)
        assert (await memory(store)).used - before.used >= 7 * MIB
        await store.close()
