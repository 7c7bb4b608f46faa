"""Keys added at run time: the store holds them sealed; without the master key nobody can read them or swap them."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from quotapool.keys.seal import MasterKey, SealBroken, new_master_key
from quotapool.keys.vault import NewKey, Vault, VaultChanged, VaultLocked

from tests.fakes.connect import connect

SECRET = "sk-proj-thisIsTheSecretOfAlpha0001"
MASTER = MasterKey("the-master-key-of-this-test-0001")
OTHER = MasterKey("another-master-key-of-this-test-2")


def key(name: str = "alpha", secret: str = SECRET, fingerprint: str = "", **attributes: str) -> NewKey:
    return NewKey(name, secret, fingerprint or f"print-of-{secret}"[-16:], {"account": name, **attributes})


@pytest.fixture
async def store(valkey_url):
    store = connect(valkey_url)
    yield store
    await store.close()


@pytest.fixture
def vault(store):
    return Vault(store, "default")


async def raw(store) -> dict[bytes, bytes]:
    """Every key of the server with all it holds."""
    client = store.client
    found = {}
    for name in await client.keys("*"):
        kind = await client.type(name)
        value = repr(await client.hgetall(name)) if kind == b"hash" else repr(await client.get(name))
        found[name] = value.encode() + b"\n" + (await client.dump(name))
    return found


async def opened(vault, *masters) -> dict[str, str]:
    contents = await vault.read()
    return {key.id: key.secret for key in vault.open(contents, masters)}


async def test_what_is_put_in_comes_out_with_the_master_key(vault):
    assert await vault.put([key(account="acme")], MASTER) == ["added"]
    (found,) = vault.open(await vault.read(), [OTHER, MASTER])
    assert (found.id, found.secret, found.attributes) == ("alpha", SECRET, {"account": "acme"})


async def test_the_raw_store_holds_no_secret_and_no_master_key(vault, store):
    secrets = [f"sk-proj-number{n:04d}-of-many-secrets" for n in range(20)]
    await vault.put([key(f"key-{n}", secret, f"print{n}") for n, secret in enumerate(secrets)], MASTER)
    everything = await raw(store)
    assert len(everything) >= 4
    for name, value in everything.items():
        for secret in (*secrets, "the-master-key-of-this-test-0001"):
            assert secret.encode() not in name + value
            assert secret[8:].encode() not in name + value


async def test_the_same_secret_is_sealed_differently_each_time():
    assert MASTER.seal(SECRET, "default", "alpha") != MASTER.seal(SECRET, "default", "alpha")


async def test_a_wrong_master_key_is_refused_clearly_and_changes_nothing(vault, store):
    await vault.put([key()], MASTER)
    before = await raw(store)
    with pytest.raises(VaultLocked, match=f"the store has 1 key, sealed with the master key {MASTER.id}"):
        vault.open(await vault.read(), [OTHER])
    with pytest.raises(VaultLocked, match="given: none"):
        vault.open(await vault.read(), [])
    with pytest.raises(VaultLocked):
        await vault.put([key("beta", "sk-another-secret", "p2")], OTHER)
    with pytest.raises(VaultLocked):
        await vault.rotate([OTHER], MasterKey(new_master_key()))
    assert await raw(store) == before
    assert await opened(vault, MASTER) == {"alpha": SECRET}


async def test_a_sealed_key_opens_under_its_own_name_pool_and_attributes_only(vault, store):
    await vault.put([key(), key("beta", "sk-the-secret-of-beta-0002", "p2")], MASTER)
    hash_ = "qp:{default}:vault"
    alpha = msgspec.msgpack.decode(await store.client.hget(hash_, "alpha"))
    beta = msgspec.msgpack.decode(await store.client.hget(hash_, "beta"))
    # Somebody with the store's password, and without the master key, swaps two secrets, and moves one to an account.
    await store.client.hset(hash_, "beta", msgspec.msgpack.encode({**beta, "sealed": alpha["sealed"]}))
    await store.client.hset(hash_, "alpha", msgspec.msgpack.encode({**alpha, "about": '{"account":"theirs"}'}))
    assert await opened(vault, MASTER) == {"alpha": "", "beta": ""}
    with pytest.raises(SealBroken):
        MASTER.open(MASTER.seal(SECRET, "default", "alpha", "{}"), "staging", "alpha", "{}")


async def test_adding_again_is_distinguished_from_adding(vault):
    await vault.put([key()], MASTER)
    assert await vault.put([key()], MASTER) == ["unchanged"]
    assert await vault.put([key(account="acme")], MASTER) == ["updated"]
    other = key("alpha", "sk-a-new-secret-of-alpha", "new")
    assert await vault.put([other], MASTER) == ["taken"]
    assert await opened(vault, MASTER) == {"alpha": SECRET}
    assert await vault.put([other], MASTER, replace=True) == ["replaced"]
    assert await opened(vault, MASTER) == {"alpha": "sk-a-new-secret-of-alpha"}
    # The old secret is free again, the new one is not.
    assert await vault.put([key("beta"), key("gamma", "sk-a-new-secret-of-alpha", "new")], MASTER) == [
        "added",
        "duplicate:alpha",
    ]


async def test_a_forgotten_key_leaves_nothing_behind_and_may_come_again(vault, store):
    await vault.put([key()], MASTER)
    assert await vault.forget("alpha", "nobody") == 1
    assert await store.client.hgetall("qp:{default}:vault:prints") == {}
    assert await vault.put([key("again")], MASTER) == ["added"]


async def test_every_change_is_counted_for_the_other_replicas(vault, store):
    assert await vault.version() is None
    pool = int(await store.client.get("qp:{default}:version") or 0)
    for change in (vault.put([key()], MASTER), vault.rotate([MASTER], OTHER), vault.forget("alpha")):
        before = await vault.version() or 0
        await change
        assert await vault.version() == before + 1
    assert int(await store.client.get("qp:{default}:version")) == pool + 3


async def test_rotation_seals_everything_again_and_the_old_key_opens_nothing(vault):
    await vault.put([key(f"key-{n}", f"sk-secret-number-{n}", f"p{n}") for n in range(700)], MASTER)
    added = {name: record.added for name, record in (await vault.read()).records.items()}
    assert await vault.rotate([MASTER], OTHER) == 700
    with pytest.raises(VaultLocked):
        await opened(vault, MASTER)
    found = await opened(vault, MASTER, OTHER)  # both are accepted while replicas change over
    assert found == {f"key-{n}": f"sk-secret-number-{n}" for n in range(700)}
    assert {name: record.added for name, record in (await vault.read()).records.items()} == added


async def test_a_rotation_that_meets_a_change_does_nothing_at_all(vault, store, monkeypatch):
    await vault.put([key()], MASTER)
    read = vault.read

    async def read_and_let_somebody_add():
        contents = await read()
        await Vault(store, "default").put([key("late", "sk-a-late-secret", "late")], MASTER)
        return contents

    monkeypatch.setattr(vault, "read", read_and_let_somebody_add)
    with pytest.raises(VaultChanged):
        await vault.rotate([MASTER], OTHER)
    monkeypatch.undo()
    assert await opened(vault, MASTER) == {"alpha": SECRET, "late": "sk-a-late-secret"}


async def test_a_store_that_lost_its_data_gets_the_sealed_keys_back(vault, store):
    await vault.put([key()], MASTER, accounts={"alpha": {"tier": "trial"}})
    contents = await vault.read()
    await store.client.flushall()
    assert await vault.version() is None
    await vault.restore(contents)
    assert await opened(vault, MASTER) == {"alpha": SECRET}
    assert (await vault.read()).accounts == {"alpha": {"tier": "trial"}}


@pytest.mark.parametrize("text", ["", "too short", "x" * 31])
def test_a_short_master_key_is_refused_without_being_repeated(text):
    with pytest.raises(ValueError, match="at least 32 characters") as caught:
        MasterKey(text)
    assert len(text) < 3 or text not in str(caught.value)


def test_nothing_shows_a_secret_in_passing():
    master = MasterKey(new_master_key())
    shown = repr([key(), master, Vault]) + str(key())
    with contextlib.suppress(SealBroken):
        master.open("%%%", "x")
    assert SECRET not in shown
