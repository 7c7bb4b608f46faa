"""Client keys in the store: on a real Valkey, and on fakeredis, which must not differ."""

from __future__ import annotations

import asyncio
import time

import pytest
from fakeredis import FakeAsyncRedis
from pydantic import ValidationError
from quotapool.ledger.clients import ClientDirectory, ClientStore, new_key
from quotapool.settings import ClientOptions
from quotapool.store.address import parse
from quotapool.store.store import Store, StoreLost

from tests.fakes.connect import connect
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
    real = connect(valkey_url)
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
    nowhere = ClientStore(connect(f"unix://{tmp_path}/nobody.sock"), "test")
    for call in (nowhere.add("ci", HASH), nowhere.revoke("ci"), nowhere.all()):
        with pytest.raises(StoreLost):
            await call


def test_a_new_key_is_recognisable_long_and_never_twice_the_same():
    keys = {new_key() for _ in range(1_000)}
    assert len(keys) == 1_000
    assert all(key.startswith("qp-") and len(key) == 35 for key in keys)  # 24 bytes in base64: 192 bits


# ---- what a client may do


async def test_a_client_keeps_what_it_may_do_beside_its_key(clients):
    asked = ClientOptions(name="Zoë's nightly runs", weight=2.0, priority="batch", max_wait="10m", models=("gpt-5*",),
                          expires_on="2027-01-01", labels={"team": "search"}, notes="asks at night")  # fmt: skip
    await clients.add("nightly", HASH, asked)
    client = (await clients.all())["nightly"].client("nightly")
    assert client.id == "nightly"
    assert client.key_hash == HASH
    assert client.model_dump(include=set(ClientOptions.model_fields)) == asked.model_dump()


async def test_changing_one_option_leaves_the_others_and_the_key(clients):
    await clients.add("ci", HASH, ClientOptions(weight=2.0, models=("gpt-5*",)))
    await clients.set("ci", {"models": ["o3"]})
    client = (await clients.all())["ci"].client("ci")
    assert (client.key_hash, client.weight, client.models) == (HASH, 2.0, ("o3",))
    await clients.set("ci", {"weight": 1})  # the default
    assert (await clients.all())["ci"].options == {"models": ["o3"]}


async def test_an_option_that_makes_no_sense_changes_nothing(clients):
    await clients.add("ci", HASH)
    for wrong in ({"weight": 0}, {"priority": "urgent"}, {"expires_on": "tomorrow"}, {"wieght": 1}):
        with pytest.raises(ValidationError):
            await clients.set("ci", wrong)
    assert (await clients.all())["ci"].options == {}


async def test_of_changes_at_the_same_time_none_is_lost(clients):
    await clients.add("ci", HASH)
    changes = [{"weight": 3.0}, {"notes": "n"}, {"models": ["o3"]}, {"name": "CI"}]
    await asyncio.gather(*(clients.set("ci", change) for change in changes))
    assert (await clients.all())["ci"].options == {"weight": 3.0, "notes": "n", "models": ["o3"], "name": "CI"}


async def test_what_is_not_there_cannot_be_changed(clients):
    assert await clients.set("nobody", {"weight": 2}) is None
    assert await clients.rotate("nobody", HASH, 60.0) is None


async def test_a_rotated_client_has_two_keys_until_the_old_one_ends(clients):
    await clients.add("ci", HASH, ClientOptions(weight=2.0))
    before = time.time()
    record = await clients.rotate("ci", OTHER, 3600.0)
    assert record is not None
    assert (record.hash, record.old_hash, record.options) == (OTHER, HASH, {"weight": 2.0})
    assert before + 3600 <= record.old_until <= time.time() + 3600
    directory = ClientDirectory(clients, lambda: None)
    await directory.refresh()
    assert directory.hashes == {HASH: "ci", OTHER: "ci"}
    assert directory.old_keys == {HASH: record.old_until}


async def test_a_store_that_forgot_its_clients_gets_them_back_as_they_were(store, clients):
    await clients.add("ci", HASH, ClientOptions(weight=2.0))
    await clients.rotate("ci", OTHER, 3600.0)
    await clients.suspend("ci", "by the operator")
    directory = ClientDirectory(clients, lambda: None)
    await directory.refresh()
    known = await clients.all()
    await store.client.delete("qp:{test}:clients", "qp:{test}:suspended")
    await directory.restore()
    assert await clients.all() == known
    assert (await clients.suspended())["ci"].reason == "by the operator"


async def test_a_client_of_an_earlier_version_has_the_defaults_and_any_name(store, clients):
    await store.client.hset("qp:{test}:clients", "日本 1", f'{{"hash":"{HASH}","added":1764403200.5}}')
    directory = ClientDirectory(clients, lambda: None)
    await directory.refresh()
    assert directory.hashes == {HASH: "日本 1"}
    assert directory.clients["日本 1"].weight == 1.0


async def test_a_client_whose_rights_are_not_understood_has_none(store, clients):
    await clients.add("ci", HASH)
    await store.client.hset("qp:{test}:clients", "later", f'{{"hash":"{OTHER}","added":1,"options":{{"quota":1}}}}')
    directory = ClientDirectory(clients, lambda: None)
    await directory.refresh()
    assert set(directory.clients) == {"ci"}
    assert directory.unreadable == {"later"}
    assert directory.hashes == {HASH: "ci", OTHER: "later"}  # known, or callers without a key might come in
    await directory.restore()  # and it is not forgotten
    assert set(await clients.all()) == {"ci", "later"}
