"""Budgets begin a replay as they stood when the record began: what the store has by now, less what the record has."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

import pytest
from quotapool.domain.periods import Per
from quotapool.domain.quantities import Cost, Limits
from quotapool.domain.rules import Kind, Measure, Rule
from quotapool.domain.wallet import PICO
from quotapool.ledger.rules import Charge, RuleSet, Standing
from quotapool.money.spend_store import Entry, SpendBatch, SpendStore, new_batch_id
from quotapool.operators.overview import Overview
from quotapool.plan.demand import UNSEEN, Demand
from quotapool.plan.scenario import OTHERS, PlanAccount, PlanClient, Scenario, SubjectRules
from quotapool.plan.sources.record import Collector, Record
from quotapool.plan.used_before import with_used_before
from quotapool.settings import Settings

from tests.fakes.connect import connect
from tests.fakes.store import candidate, granted, ledger_on

pytestmark = pytest.mark.usefixtures("virtual_time")

OWN = (
    Rule("rpm", Kind.RATE, Measure.REQUESTS, 60, period_s=60.0),
    Rule("requests", Kind.BUDGET, Measure.REQUESTS, 1_000, per=Per.TOTAL),
    Rule("usd", Kind.BUDGET, Measure.USD, 9 * PICO, per=Per.TOTAL),
    Rule("big", Kind.BUDGET, Measure.TOKENS, 100_000, per=Per.TOTAL, models="gpt-4o*"),
    Rule("minute", Kind.BUDGET, Measure.TOKENS, 100_000, per=Per.MINUTE),
)
TEAM = (Rule("requests", Kind.BUDGET, Measure.REQUESTS, 1_000, per=Per.TOTAL),)
KNOWN = "budgets begin with what was used before: what the store has by now, less what the record has"
ENDED = "budgets whose period has ended since the record began are taken to have been unused then"


def pool(**more) -> Scenario:
    of_team = SubjectRules("t/web", TEAM)
    clients = {
        "app": PlanClient(rules=(SubjectRules("c/app", OWN), of_team)),
        "job": PlanClient(rules=(of_team,)),
        "free": PlanClient(),
    }
    return Scenario((PlanAccount("a", {OTHERS: Limits(rpm=500)}),), clients, **more)


def record(since: float) -> Record:
    """Two requests of `app`, one of `job` that its own team pays, and one that was refused."""
    into = Collector()
    into.add(Demand(since, "app", "gpt-4o-mini", tokens=300, pico=PICO))
    into.add(Demand(since + 1, "app", "o3", tokens=5_000, pico=2 * PICO))
    into.add(Demand(since + 2, "job", "o3", tokens=7, pico=PICO))
    into.add(Demand(since + 3, "app", "o3", tokens=UNSEEN), code="rate_limit_exceeded")
    return into.record("The ring")


@pytest.fixture
async def overview(valkey_url):
    store = connect(valkey_url)
    ledger = ledger_on(store)
    await ledger.registry.begin_epoch(reseeded=False)
    await ledger.heartbeat()
    keys = [{"id": "key-a", "account": "a", "secret": "sk-proj-secret-a"}]
    options = {"pool": "test", "keys": keys, "spend": {"daily_limit_usd": 9}}
    yield Overview(Settings.model_validate(options), ledger)
    await ledger.flush()
    await store.close()


async def use(overview: Overview, subject: str, rules: tuple[Rule, ...], *amounts: float) -> None:
    charge = Charge(RuleSet([Standing(subject, rule, UTC) for rule in rules]), [float(amount) for amount in amounts])
    grant = await granted(overview.ledger, "gpt-4o", Cost(0), [candidate("a")], charge=charge)
    overview.ledger.settle(grant, used=[float(amount) for amount in amounts])
    await overview.ledger.flush()


async def test_a_budget_was_used_by_what_the_record_does_not_have(overview):
    await use(overview, "c/app", OWN, 1, 12, 5 * PICO, 1_000, 9_000)
    await use(overview, "t/web", TEAM, 20)
    found, said = await with_used_before(overview, record(time.time() - 600), pool(), ends_now=True)
    own, team = found.client("app").rules
    assert own.used == {"requests": 10.0, "usd": 2.0 * PICO, "big": 700.0}  # a minute's has turned since
    assert team.used == {"requests": 17.0}
    assert found.client("job").rules == (team,)
    assert said == (KNOWN, ENDED)


async def test_it_was_unused_if_the_record_has_more_than_the_store(overview):
    found, _ = await with_used_before(overview, record(time.time() - 600), pool(), ends_now=True)
    assert set(found.client("app").rules[0].used.values()) == {0.0}


async def test_the_pools_day_was_paid_for_by_what_the_record_does_not_have(overview):
    noon = time.time() // 86_400 * 86_400 + 86_400 * 1.5
    await asyncio.sleep(noon - time.time())
    spend, batch = SpendStore(overview.ledger.store, overview.settings.pool), SpendBatch()
    batch.add(Entry("a", "key-a", "o3", "free", "exact", 7 * PICO), datetime.fromtimestamp(noon, UTC))
    assert await spend.send(batch, new_batch_id())
    limited = pool(daily_limit_pico=9 * PICO)
    found, said = await with_used_before(overview, record(noon - 600), limited, ends_now=True)
    assert found.spent_pico == 7 * PICO - 4 * PICO
    assert KNOWN in said
    found, said = await with_used_before(overview, record(noon - 86_400), limited, ends_now=True)
    assert found.spent_pico == 0
    assert ENDED in said


async def test_of_a_record_that_does_not_end_now_budgets_begin_unused_and_that_is_said(overview):
    await use(overview, "t/web", TEAM, 20)
    old = record(time.time() - 600)
    assert await with_used_before(overview, old, pool(), ends_now=False) == (
        pool(),
        ("budgets begin unused, since the record does not end now",),
    )


async def test_without_budgets_nothing_is_read_or_said_but_of_accounts_limits_by_the_day(overview):
    plain = Scenario((PlanAccount("a", {"o3": Limits(rpm=500, rpd=9_000)}), PlanAccount("b")))
    found, said = await with_used_before(overview, record(time.time()), plain, ends_now=True)
    assert found == plain
    assert said == (
        "accounts' limits by the day begin full: they refill all the time, so what they had then is not known",
    )
