"""The configuration and the vault make one pool: what outranks what, and what is left when a master key is wrong."""

from __future__ import annotations

import asyncio

import pytest
from quotapool.keys.master_keys import NoMasterKey, first_master_key, master_keys, own_file
from quotapool.keys.seal import MasterKey
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import NewKey, Vault
from quotapool.settings import Settings
from quotapool.upstream.credentials import fingerprint

from tests.fakes.connect import connect

MASTER = "the-master-key-of-this-test-0001"


class RecordedLog:
    def __init__(self) -> None:
        self.messages: list[str] = []

    def warning(self, event: str) -> None:
        self.messages.append(event)

    error = warning


@pytest.fixture
async def store(valkey_url):
    store = connect(valkey_url)
    yield store
    await store.close()


@pytest.fixture
def vault(store):
    return Vault(store, "default")


def configured(**more) -> Settings:
    return Settings.model_validate({"redis": "redis://elsewhere:6379", "master_key": MASTER, **more})


def key(name: str, secret: str, **attributes) -> NewKey:
    return NewKey(name, secret, fingerprint(secret), {"account": name, **attributes})


async def merged(vault, settings: Settings, log: RecordedLog | None = None) -> tuple[dict[str, str], KeySources]:
    sources = KeySources(vault, settings, log=log or RecordedLog())
    await sources.read()
    return {k.id: k.secret.get_secret_value() for k in sources.merged().keys}, sources


async def test_stored_keys_join_the_configured_ones(vault):
    await vault.put([key("beta", "sk-beta-secret")], MasterKey(MASTER))
    keys, sources = await merged(vault, configured(keys=[{"id": "alpha", "secret": "sk-alpha-secret"}]))
    assert keys == {"alpha": "sk-alpha-secret", "beta": "sk-beta-secret"}
    assert sources.problem == ""
    # The merged configuration goes to all processes, without the master key.
    assert sources.merged().master_key is None


async def test_a_configured_key_outranks_a_stored_one_of_its_id_or_secret_and_that_is_logged_once(vault):
    await vault.put([key("alpha", "sk-stored-secret"), key("beta", "sk-alpha-secret")], MasterKey(MASTER))
    log = RecordedLog()
    keys, sources = await merged(vault, configured(keys=[{"id": "alpha", "secret": "sk-alpha-secret"}]), log)
    sources.merged()
    assert keys == {"alpha": "sk-alpha-secret"}
    assert log.messages == [
        "the key alpha is in the configuration and in the store; the configured one is used",
        "the stored key beta has the secret of the configured key alpha, which is used",
    ]


async def test_a_wrong_master_key_leaves_the_configured_keys_and_names_the_missing(vault):
    await vault.put([key("beta", "sk-beta-secret", account="acme")], MasterKey(MASTER))
    wrong = configured(keys=[{"id": "alpha", "secret": "sk-alpha"}], master_key="not-the-one-that-sealed-the-keys-00")
    log = RecordedLog()
    keys, sources = await merged(vault, wrong, log)
    assert keys == {"alpha": "sk-alpha"}
    assert sources.missing == {"beta": "acme"}
    assert "sealed with the master key" in sources.problem
    assert log.messages[0].endswith("Not served: 1 key")
    await sources.reload(configured(keys=[{"id": "alpha", "secret": "sk-alpha"}]))
    assert [k.id for k in sources.merged().keys] == ["alpha", "beta"]
    assert (sources.problem, sources.missing) == ("", {})


async def test_keys_once_opened_go_on_while_the_master_key_is_changed(vault):
    await vault.put([key("beta", "sk-beta-secret")], MasterKey(MASTER))
    _, sources = await merged(vault, configured())
    await vault.rotate([MasterKey(MASTER)], MasterKey("the-new-master-key-of-this-test-02"))
    await sources.read()
    assert [k.id for k in sources.merged().keys] == ["beta"]
    assert sources.problem
    assert sources.missing == {}


async def test_what_the_configuration_says_of_an_account_outranks_what_came_with_a_key(vault):
    accounts = {"acme": {"tier": "trial", "weight": 3.0}, "other": {"tier": "gone"}}
    await vault.put([key("beta", "sk-beta", account="acme")], MasterKey(MASTER), accounts=accounts)
    tiers = {"trial": {"rpm": 3}, "paid": {"rpm": 500}}
    _, sources = await merged(vault, configured(tiers=tiers, accounts={"acme": {"tier": "paid"}}))
    settings = sources.merged()
    assert (settings.accounts["acme"].tier, settings.accounts["acme"].weight) == ("paid", 3.0)
    assert settings.limits_for("acme", "gpt-4o").rpm == 500
    # A tier that is no longer configured is no reason to stop.
    assert settings.accounts["other"].tier is None


async def test_the_limits_of_a_merged_configuration_are_not_those_of_the_old_one(vault):
    settings = configured(tiers={"trial": {"rpm": 3}})
    assert settings.limits_for("acme", "gpt-4o").rpm is None  # this table is remembered
    await vault.put([key("beta", "sk-beta", account="acme")], MasterKey(MASTER), accounts={"acme": {"tier": "trial"}})
    _, sources = await merged(vault, settings)
    assert sources.merged().limits_for("acme", "gpt-4o").rpm == 3


async def test_a_watch_tells_of_changes_and_gives_a_store_without_memory_its_keys_back(vault, store, virtual_time):
    _, sources = await merged(vault, configured())
    changed = asyncio.Event()
    watching = asyncio.create_task(sources.watch(changed.set))
    await vault.put([key("beta", "sk-beta")], MasterKey(MASTER))
    await asyncio.wait_for(changed.wait(), 60)
    assert [k.id for k in sources.merged().keys] == ["beta"]
    await store.client.flushall()
    async with asyncio.timeout(60):
        while not (await vault.read()).records:
            await asyncio.sleep(0.1)
    watching.cancel()
    assert list((await vault.read()).records) == ["beta"]


async def test_a_key_that_is_added_to_an_emptied_store_before_anybody_noticed_costs_none_of_the_others(vault, store):
    both = [key("alpha", "sk-alpha"), key("beta", "sk-beta")]
    await vault.put(both, MasterKey(MASTER), accounts={"beta": {"weight": 2}})
    log = RecordedLog()
    _, sources = await merged(vault, configured(), log)
    _, another = await merged(vault, configured())
    for _ in range(2):  # also the second time, which is logged as well
        await store.client.flushall()
        await vault.put([key("gamma", "sk-gamma")], MasterKey(MASTER))
        await sources.read()
        await another.read()
        version = (await vault.read()).version
        for one in (sources, another):
            await one.read()
            assert {k.id: k.secret.get_secret_value() for k in one.merged().keys} == {
                "alpha": "sk-alpha",
                "beta": "sk-beta",
                "gamma": "sk-gamma",
            }
            assert one.contents.accounts == {"beta": {"weight": 2}}
        assert (await vault.read()).version == version  # they do not go on restoring
    assert log.messages == ["the store had lost the keys that were added at run time; they are restored"] * 2


async def test_keys_that_were_forgotten_or_sealed_anew_elsewhere_are_no_loss(vault):
    await vault.put([key("alpha", "sk-alpha"), key("beta", "sk-beta")], MasterKey(MASTER))
    log = RecordedLog()
    _, sources = await merged(vault, configured(), log)
    await vault.forget("alpha")
    await sources.read()
    await vault.rotate([MasterKey(MASTER)], MasterKey("the-new-master-key-of-this-test-02"))
    await sources.read()
    await vault.forget("beta")
    await sources.read()
    assert (sources.merged().keys, (await vault.read()).records) == ((), {})
    assert not any("restored" in message for message in log.messages)


# ---- which master key ----


def test_a_master_key_that_only_its_owner_can_read_is_created_for_an_embedded_store(tmp_path):
    settings = Settings(state_dir=tmp_path / "state")
    assert master_keys(settings) == []
    secrets = []
    made = first_master_key(settings, secrets.append)
    assert own_file(settings).stat().st_mode & 0o777 == 0o600
    assert secrets == [own_file(settings).read_text().strip()]
    assert [key.id for key in master_keys(settings)] == [made.id]
    assert first_master_key(settings).id == made.id


def test_none_is_created_for_a_shared_store(tmp_path):
    with pytest.raises(NoMasterKey, match="keys in a shared store need a master key"):
        first_master_key(Settings.model_validate({"redis": "redis://elsewhere:6379", "state_dir": tmp_path}))
    assert list(tmp_path.iterdir()) == []


def test_old_and_new_may_stand_in_one_file(tmp_path):
    file = tmp_path / "master"
    file.write_text(f"{MASTER}\n\nanother-master-key-of-this-test-2\n")
    settings = Settings.model_validate({"redis": "redis://elsewhere:6379", "master_key_file": file})
    assert [key.id for key in master_keys(settings)] == [
        MasterKey(MASTER).id,
        MasterKey("another-master-key-of-this-test-2").id,
    ]


@pytest.mark.parametrize("text", ["short", None])
def test_a_file_without_a_usable_key_is_refused_by_name_and_not_by_content(tmp_path, text):
    file = tmp_path / "master"
    if text:
        file.write_text(text)
    settings = Settings.model_validate({"redis": "redis://elsewhere:6379", "master_key_file": file})
    with pytest.raises(NoMasterKey, match="master key") as caught:
        master_keys(settings)
    assert "short" not in str(caught.value)
