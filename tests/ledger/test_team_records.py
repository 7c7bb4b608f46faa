"""Teams in the store: kept as they were given, changed one option at a time, given back to a store that forgot them."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import ValidationError
from quotapool.ledger.clients import ClientDirectory, ClientStore
from quotapool.settings import ClientOptions
from quotapool.settings.rules import RuleOptions

from tests.fakes.connect import connect
from tests.fakes.store import ledger_on

HASH = "a" * 64
RED = RuleOptions.model_validate(
    {"name": "Red", "limits": {"rpm": 60, "tpm": "2M"}, "budgets": [{"usd": 100, "per": "month"}]}
)


@pytest.fixture
async def store(valkey_url):
    real = connect(valkey_url)
    yield real
    await real.close()


@pytest.fixture
def clients(store):
    return ClientStore(store, "test")


async def test_a_team_is_kept_as_it_was_given(clients):
    assert await clients.teams.add("red", RED)
    assert not await clients.teams.add("red", RuleOptions())
    assert (await clients.teams.all())["red"].team() == RED
    assert await ClientStore(clients._store, "staging").teams.all() == {}


async def test_each_limit_is_an_option_by_itself_and_budgets_are_one(clients):
    await clients.teams.add("red", RED)
    await clients.teams.set("red", {"limits": {"rpm": None, "rpd": "1k"}})
    team = (await clients.teams.all())["red"].team()
    assert (team.limits.rpm, team.limits.tpm, team.limits.rpd) == (None, 2_000_000.0, 1000.0)
    assert team.budgets == RED.budgets
    await clients.teams.set("red", {"budgets": [{"requests": 5, "per": "day"}]})
    assert [budget.rule.id for budget in (await clients.teams.all())["red"].team().budgets] == ["requests/day"]


async def test_the_limits_of_a_client_are_changed_one_by_one_too(clients):
    await clients.add("app", HASH, ClientOptions.model_validate({"limits": {"rpm": 60, "concurrent": 4}}))
    await clients.set("app", {"limits": {"rpm": None}})
    assert (await clients.all())["app"].options == {"limits": {"concurrent": 4.0}}


@pytest.mark.parametrize("wrong", [{"limits": {"rpm": 0}}, {"budgets": [{"usd": 1}]}, {"team": "blue"}])
async def test_what_makes_no_sense_changes_nothing(clients, wrong):
    await clients.teams.add("red", RED)
    with pytest.raises(ValidationError):
        await clients.teams.set("red", wrong)
    assert (await clients.teams.all())["red"].team() == RED


async def test_of_changes_at_the_same_time_none_is_lost(clients):
    await clients.teams.add("red", RuleOptions())
    changes = [{"limits": {name: 7}} for name in ("rpm", "tpm", "rpd", "tpd")]
    await asyncio.gather(*(clients.teams.set("red", change) for change in changes))
    assert (await clients.teams.all())["red"].options == {"limits": dict.fromkeys(("rpm", "tpm", "rpd", "tpd"), 7.0)}


async def test_each_change_raises_the_pools_version(store, clients):
    versions: list[int] = []
    ledger = ledger_on(store, on_version=lambda: versions.append(ledger.registry.version))
    await clients.teams.add("red", RED)
    await ledger.heartbeat()
    await clients.teams.set("red", {"notes": "n"})
    await ledger.heartbeat()
    await clients.teams.remove("red")
    await ledger.heartbeat()
    assert versions == [1, 2, 3]


async def test_one_of_the_same_name_begins_anew(store, clients):
    await clients.teams.add("red", RED)
    await clients.add("app", HASH)
    for name in ("t/red", "c/app"):
        await store.client.set(f"qp:{{test}}:rules:{name}", b"used")
    assert await clients.teams.remove("red")
    assert await clients.revoke("app")
    assert await store.client.keys("*:rules:*") == []

    # What a worker wrote that had not heard of it yet.
    for name in ("t/red", "c/app"):
        await store.client.set(f"qp:{{test}}:rules:{name}", b"used")
    await clients.teams.add("red", RED)
    await clients.add("app", HASH)
    assert await store.client.keys("*:rules:*") == []

    # A name that is taken stays as it was.
    await store.client.set("qp:{test}:rules:t/red", b"used")
    assert not await clients.teams.add("red", RED)
    assert await store.client.get("qp:{test}:rules:t/red") == b"used"


async def test_a_directory_tells_which_subjects_were_made_again(clients):
    seen = []
    directory = ClientDirectory(clients, lambda: seen.append(directory.renewed))
    await clients.teams.add("red", RED)
    await clients.add("app", HASH)
    await directory.refresh()
    await clients.teams.set("red", {"notes": "the same team"})
    await directory.refresh()
    await clients.teams.remove("red")
    await clients.teams.add("red", RED)
    await clients.revoke("app")
    await clients.add("app", HASH)
    await directory.refresh()
    assert seen == [frozenset(), frozenset(), {"t/red", "c/app"}]


async def test_a_store_that_forgot_its_teams_gets_them_back(store, clients):
    await clients.teams.add("red", RED)
    await clients.add("app", HASH, ClientOptions(team="red"))
    directory = ClientDirectory(clients, lambda: None)
    await directory.refresh()
    known = await clients.teams.all(), await clients.all()
    await store.client.delete("qp:{test}:clients", "qp:{test}:teams")
    await directory.restore()
    assert (await clients.teams.all(), await clients.all()) == known


async def test_a_team_of_a_newer_version_is_none_but_not_forgotten(store, clients):
    await store.client.hset("qp:{test}:teams", "later", '{"added":1,"options":{"quota":1}}')
    directory = ClientDirectory(clients, lambda: None)
    await directory.refresh()
    assert (directory.teams, set(directory.team_records)) == ({}, {"later"})
