"""Today's pool as the store and the settings have it: limits in force, who serves, and clients with their rules."""

from __future__ import annotations

import asyncio
from zoneinfo import ZoneInfo

import pytest
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.domain.rules import Kind
from quotapool.domain.states import OPERATOR, Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.wallet import PICO
from quotapool.ledger.grants import Observed
from quotapool.operators.overview import Overview
from quotapool.plan.demand import Demand
from quotapool.plan.read_pool import read_pool
from quotapool.plan.scenario import OTHERS
from quotapool.settings import Settings

from tests.fakes.connect import connect
from tests.fakes.store import candidate, granted, ledger_on

pytestmark = pytest.mark.usefixtures("virtual_time")

DEMAND = [Demand(1.0, "app", "gpt-4o"), Demand(2.0, "", "gpt-4o-2024-08-06", "gpt-4o"), Demand(3.0, "app", "o3")]
OPTIONS = {
    "keys": [
        {"id": "key-a", "account": "acme", "secret": "sk-proj-secret-a"},
        {"id": "key-b", "account": "acme", "secret": "sk-proj-secret-b"},
        {"id": "key-c", "account": "beta", "secret": "sk-proj-secret-c"},
        {
            "id": "key-d",
            "account": "own",
            "secret": "sk-proj-secret-d",
            "upstream": {"url": "https://own.example.com", "models": {"o3": "o3"}},
        },
    ],
    "accounts": {"acme": {"weight": 2, "burst": 10, "models": {"gpt-4o": {"tpm": "50k"}}}, "beta": {"rpd": 999}},
    "clients": [
        {
            "id": "app",
            "key": "a-client-key-of-the-app-1",
            "weight": 3,
            "max_wait": "5s",
            "team": "web",
            "limits": {"rpm": 60},
        }
    ],
    "teams": {"web": {"limits": {"tpm": "1M"}, "time_zone": "Europe/Berlin"}},
    "queue": {"max_wait": "20s", "max_waiting": 77, "batch_leaves": 0.2},
    "spend": {"daily_limit_usd": 50},
    "workers": 3,
}


@pytest.fixture
async def overview(valkey_url):
    store = connect(valkey_url)
    ledger = ledger_on(store)
    await ledger.registry.begin_epoch(reseeded=False)
    yield Overview(Settings.model_validate(OPTIONS), ledger)
    await ledger.flush()
    await store.close()


async def answered(overview: Overview, account: str, group: str, rpm: int, tpm: int) -> None:
    """Upstream answered this account, and named its limits."""
    ledger = overview.ledger
    grant = await granted(ledger, group, Cost(1, 10), [candidate(account)])
    ledger.settle(grant, observed=[Observed(Dimension.RPM, rpm, rpm - 1), Observed(Dimension.TPM, tpm, tpm - 10)])
    await ledger.flush()


async def test_a_limit_is_the_written_or_learned_one_in_force(overview):
    await answered(overview, "acme", "gpt-4o", 500, 100_000)
    await answered(overview, "beta", "gpt-4o", 300, 90_000)
    found = await read_pool(overview, DEMAND, seed=7)
    accounts = {account.id: account for account in found.scenario.accounts}
    assert accounts["acme"].limits["gpt-4o"] == Limits(rpm=500, tpm=50_000)  # what is written caps what is learned
    assert accounts["beta"].limits["gpt-4o"] == Limits(rpm=300, tpm=90_000, rpd=999)
    assert accounts["beta"].limits[OTHERS] == Limits(rpd=999)
    assert (accounts["acme"].keys, accounts["acme"].weight, accounts["acme"].burst_s) == (("key-a", "key-b"), 2.0, 10.0)
    assert accounts["own"].closed_to == {"gpt-4o", "gpt-4o-2024-08-06"}
    assert found.scenario.seed == 7


async def test_an_account_that_has_not_served_a_model_has_the_limits_of_most_others_and_that_is_said(overview):
    await answered(overview, "acme", "o3", 200, 40_000)
    found = await read_pool(overview, DEMAND, seed=1)
    accounts = {account.id: account for account in found.scenario.accounts}
    assert accounts["beta"].limits["o3"] == Limits(rpm=200, tpm=40_000, rpd=999)
    assert "2 accounts have not served o3 yet: what most others have is taken for the limits there" in found.assumed
    # Nobody has answered for the other model, and one limit of it is written.
    assert accounts["acme"].limits["gpt-4o"] == Limits(tpm=50_000)
    assert not any("no limit of gpt-4o" in one for one in found.assumed)


async def test_what_nothing_limits_is_said(overview):
    found = await read_pool(overview, [Demand(1.0, "", "tts-1")], seed=1)
    assert "no limit of tts-1 is known" not in "".join(found.assumed)  # beta has one per day
    only = Overview(Settings.model_validate({**OPTIONS, "accounts": {}}), overview.ledger)
    found = await read_pool(only, [Demand(1.0, "", "tts-1")], seed=1)
    assert found.assumed == ("no limit of tts-1 is known, so nothing waits for it (--limit ACCOUNT.tts-1.tpm=2M)",)


async def test_keys_that_cannot_serve_are_left_out(overview):
    registry = overview.ledger.registry
    for name in ("key-b", "key-c"):
        key = overview.roster.pool.keys[name]
        record = Record(State.DISABLED, "operator", 0.0, 0.0, by=OPERATOR, fingerprint=key.fingerprint)
        await registry.change_state(Subject.of_key(name), record, by=OPERATOR, fingerprint=key.fingerprint)
    found = await read_pool(overview, DEMAND, seed=1)
    assert {account.id: account.keys for account in found.scenario.accounts} == {"acme": ("key-a",), "own": ("key-d",)}
    assert "beta cannot serve now, and stays out" in found.assumed
    assert found.scenario.out == {"key-b", "key-c", "beta"}


async def test_clients_have_their_own_rules_and_their_teams(overview):
    scenario = (await read_pool(overview, DEMAND, seed=1)).scenario
    app = scenario.client("app")
    assert (app.weight, app.max_wait_s) == (3.0, 5.0)
    own, team = app.rules
    assert own.subject == "c/app"
    assert [(rule.id, rule.kind, rule.limit) for rule in own.rules] == [("rpm", Kind.RATE, 60.0)]
    assert (team.subject, team.rules[0].limit, team.zone) == ("t/web", 1e6, ZoneInfo("Europe/Berlin"))
    assert (scenario.max_wait_s, scenario.max_waiting, scenario.batch_leaves) == (20.0, 77, 0.2)
    assert (scenario.processes, scenario.daily_limit_pico) == (3, 50 * PICO)  # no proxy runs: as many as are configured


async def test_how_upstream_charges_is_what_its_answers_have_taught_and_others_of_it_are_alike(overview):
    # Given an upstream of `acme` that charges what was used: a request a second reserves 900 tokens and uses 100, and
    # 200 come back, so that right after a reservation it has all but these 900
    ledger = overview.ledger
    for _ in range(15):
        grant = await granted(ledger, "gpt-4o", Cost(1, 900), [candidate("acme")])
        seen = [Observed(Dimension.RPM, 500, 499), Observed(Dimension.TPM, 12_000, 11_100)]
        await asyncio.sleep(1)
        ledger.settle(grant, unused_tokens=800, observed=seen)
        await ledger.flush()
    found = await read_pool(overview, DEMAND, seed=1)
    charging = {account.id: account.corrects.get("gpt-4o") for account in found.scenario.accounts}
    assert charging == {"acme": True, "beta": True, "own": True}
    assert all("o3" not in account.corrects for account in found.scenario.accounts)
