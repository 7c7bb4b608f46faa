"""Keys that are added at run time get ids of their own, also when two secrets have the same default one."""

from __future__ import annotations

import pytest
from quotapool.keys.sources import KeySources
from quotapool.keys.vault import Vault
from quotapool.observe.redaction import Redactor
from quotapool.operators.importer import Importer
from quotapool.operators.key_file import Line
from quotapool.operators.keys import KeyEntry, KeyOperations
from quotapool.operators.overview import Overview
from quotapool.settings import Settings

from tests.fakes.calls import counted_calls
from tests.fakes.connect import connect
from tests.fakes.store import ledger_on

# Both SHA-256 begin with 0c0fbc87; the first goes on with e5c516c5, the second with cfdf899f.
FIRST, SECOND = "sk-proj-collision-00082599", "sk-proj-collision-00084618"


@pytest.fixture
async def operations(valkey_url):
    """Makes the operations of a pool with these configured secrets, by id."""
    store = connect(valkey_url)

    async def made(configured: dict[str, str] | None = None) -> KeyOperations:
        keys = [{"id": name, "secret": secret} for name, secret in (configured or {}).items()]
        settings = Settings.model_validate({"keys": keys, "master_key": "the-master-key-of-this-test-0001"})
        sources = KeySources(Vault(store, "default"), settings)
        await sources.read()
        return KeyOperations(Overview(settings, ledger_on(store)), sources, Redactor())

    yield made
    await store.close()


async def imported(operations: KeyOperations, *secrets: str, replace: bool = False) -> dict[str, int]:
    lines = [Line(number, KeyEntry(secret)) for number, secret in enumerate(secrets, start=1)]
    importer = Importer(operations, check=False, dry_run=False, replace=replace, on_progress=lambda: None)
    report = await importer.run(lines, at_once=1, per_second=1_000)
    await operations.sources.read()
    return dict(report.counts)


async def test_an_import_gives_the_second_of_two_with_one_default_id_a_longer_one(operations):
    keys = await operations()
    assert await imported(keys, FIRST, SECOND, FIRST) == {"added": 2, "duplicate": 1}
    assert set(keys.sources.contents.records) == {"key-0c0fbc87", "key-0c0fbc87cfdf899f"}
    # and a repetition finds both
    assert await imported(keys, SECOND, FIRST) == {"unchanged": 2}


async def test_an_import_that_may_replace_never_replaces_a_key_of_another_secret_by_a_default_id(operations):
    keys = await operations()
    await imported(keys, FIRST)
    assert await imported(keys, SECOND, replace=True) == {"added": 1}
    assert len(keys.sources.contents.records) == 2


async def test_an_import_into_a_store_that_was_emptied_meanwhile_costs_none_of_the_keys_that_were_there(operations):
    keys = await operations()
    await imported(keys, FIRST)
    await keys.overview.ledger.store.client.flushall()
    assert await imported(keys, SECOND) == {"added": 1}
    assert len((await keys.sources.vault.read()).records) == 2


async def test_a_key_that_is_added_gives_way_to_one_of_the_configuration(operations):
    keys = await operations({"key-0c0fbc87": FIRST})
    assert await keys.add(KeyEntry(SECOND), check=False) == ("key-0c0fbc87cfdf899f", "added")


async def test_an_import_into_a_large_configuration_takes_work_in_proportion(operations):
    """Each line is looked up among the configured keys, instead of compared with each of them."""
    keys = await operations({f"key-{n}": f"sk-proj-configured-{n}" for n in range(5_000)})
    entries = [Line(n, KeyEntry(f"sk-proj-configured-{n}")) for n in range(2_000)]
    importer = Importer(keys, check=False, dry_run=True, replace=False, on_progress=lambda: None)
    with counted_calls() as calls:
        report = await importer.run(entries, at_once=1, per_second=1_000)
    assert report.counts == {"configured": 2_000}
    assert calls.number < 300 * len(entries)  # 147 where this was measured
