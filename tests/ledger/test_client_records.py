"""Client keys in the store: on a real Valkey, and on fakeredis, which must not differ."""

from __future__ import annotations

import asyncio
import time

import pytest
from fakeredis import FakeAsyncRedis
from quotapool.ledger.clients import ClientStore, new_key
from quotapool.store.address import parse
from quotapool.store.store import Store, StoreLost, connect

from tests.fakes.store import ledger_on

HASH, OTHER = "a" * 64, "b" * 64


@pytest.fixture(params=["valkey", "fakeredis"])
async def store(request, valkey_url):
    """A store of each kind, with the same promises."""
    if request.param == "fakeredis":
        fake = Store(FakeAsyncRedis(), parse("redis://fake.invalid"), 1.0)
        yield fake
        await fake.close()
        return
    real = connect(valkey_url, timeout_s=2.0)
    yield real
    await real.close()


@pytest.fixture
def clients(store):
    return ClientStore(store, "test")


async def test_a_client_is_kept_by_its_hash_and_when_it_was_added(clients):
    before = time.time()
    assert await clients.add("ci", HASH)
    (name, record), *more = (await clients.all()).items()
    assert (name, record.hash, more) == ("ci", HASH, [])
    assert before <= record.added <= time.time()


async def test_a_name_that_is_taken_keeps_its_first_key(clients):
    assert await clients.add("ci", HASH)
    assert not await clients.add("ci", OTHER)
    assert (await clients.all())["ci"].hash == HASH


async def test_of_many_that_want_one_name_one_gets_it(clients):
    results = await asyncio.gather(*(clients.add("ci", f"{n:064}") for n in range(20)))
    assert sum(results) == 1
    assert (await clients.all())["ci"].hash == f"{results.index(True):064}"


async def test_revoking_removes_a_client_and_reports_an_unknown_one(clients):
    await clients.add("ci", HASH)
    assert await clients.revoke("ci")
    assert not await clients.revoke("ci")
    assert await clients.all() == {}


async def test_names_of_any_script_come_back_as_they_were(clients):
    names = ["ci", "Zoë", "日本", "a b", "x" * 200]
    for name in names:
        await clients.add(name, HASH)
    assert sorted(await clients.all()) == sorted(names)


async def test_each_pool_has_its_own_clients(store, clients):
    await clients.add("ci", HASH)
    assert await ClientStore(store, "staging").all() == {}


@pytest.mark.parametrize("change", ["add", "revoke"])
async def test_a_change_raises_the_pools_version_so_that_every_worker_learns_of_it(store, clients, change):
    versions: list[int] = []
    ledger = ledger_on(store, on_version=lambda: versions.append(ledger.registry.version))
    await clients.add("ci", HASH)
    await ledger.heartbeat()
    await (clients.add("more", OTHER) if change == "add" else clients.revoke("ci"))
    await ledger.heartbeat()
    assert versions == [1, 2]


async def test_nothing_but_the_hash_is_stored(store, clients):
    key = new_key()
    await clients.add("ci", HASH)
    (raw,) = (await store.client.hgetall("qp:{test}:clients")).values()
    assert set(raw.decode().split('"')) >= {"hash", HASH, "added"}
    assert key not in raw.decode()


async def test_a_store_that_is_away_raises_store_lost(tmp_path):
    nowhere = ClientStore(connect(f"unix://{tmp_path}/nobody.sock", timeout_s=0.1), "test")
    for call in (nowhere.add("ci", HASH), nowhere.revoke("ci"), nowhere.all()):
        with pytest.raises(StoreLost):
            await call


def test_a_new_key_is_recognisable_long_and_never_twice_the_same():
    keys = {new_key() for _ in range(1_000)}
    assert len(keys) == 1_000
    assert all(key.startswith("qp-") and len(key) == 35 for key in keys)  # 24 bytes in base64: 192 bits
