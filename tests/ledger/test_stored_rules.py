"""What operators read of a rule is what the script would tell the next request, at any later time."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from quotapool.domain.periods import Per
from quotapool.domain.quantities import Cost
from quotapool.domain.rules import Kind, Measure, Mode, Rule
from quotapool.ledger.grants import Granted
from quotapool.ledger.rules import Charge, RuleSet, Standing
from quotapool.ledger.stored_rules import StoredRules, zone_named

from tests.fakes.connect import connect
from tests.fakes.store import candidate, ledger_on

GROUP = "gpt-4o"
RPM = Rule("rpm", Kind.RATE, Measure.REQUESTS, 60, period_s=60.0)
SLOTS = Rule("concurrent", Kind.SLOTS, Measure.CONCURRENT, 3)
MINUTE = Rule("tokens/minute", Kind.BUDGET, Measure.TOKENS, 1000, per=Per.MINUTE)
TOTAL = Rule("usd/total", Kind.BUDGET, Measure.USD, 10_000, Mode.SOFT, per=Per.TOTAL)
RULES = [RPM, SLOTS, MINUTE, TOTAL]

pytestmark = pytest.mark.usefixtures("virtual_time")


@pytest.fixture
async def store(valkey_url):
    real = connect(valkey_url)
    yield real
    await real.close()


@pytest.fixture
async def ledger(store):
    one = ledger_on(store)
    await one.registry.begin_epoch(reseeded=False)
    await one.heartbeat()
    return one


def standings() -> list[Standing]:
    return [Standing("c/app", rule, UTC) for rule in RULES]


async def reserve(ledger, amounts) -> Granted:
    answer = await ledger.reserve(
        GROUP, Cost(0), [candidate("a")], charge=Charge(RuleSet(standings()), [float(amount) for amount in amounts])
    )
    assert isinstance(answer, Granted)
    return answer


async def levels(store):
    reading = await StoredRules(store, "test").read(["c/app"])
    return {level.rule.id: level for level in reading.levels("c/app", RULES, UTC)}, reading.now


async def seen_by_a_request(ledger) -> dict[str, tuple[float, float]]:
    """Used and held of each rule, as the script tells a request that takes nothing."""
    granted = await reserve(ledger, [0, 0, 0, 0])
    ledger.settle(granted, used=[0, 0, 0, 0])
    await ledger.flush()
    return {standing.rule.id: (standing.used, standing.held) for standing in granted.charge.standings}


@pytest.mark.parametrize("wait_s", [0.0, 7.0, 61.0, 3600.0])
async def test_a_level_is_what_the_next_request_is_told(store, ledger, wait_s):
    first = await reserve(ledger, [20, 1, 400, 4000])
    await reserve(ledger, [10, 1, 100, 2000])
    ledger.settle(first, used=[20.0, 0.0, 150.0, 1500.0])
    await ledger.flush()
    for _ in range(int(wait_s)):
        await asyncio.sleep(1)
        await ledger.heartbeat()
    found, _ = await levels(store)
    told = await seen_by_a_request(ledger)
    for rule in RULES:
        assert (found[rule.id].used, found[rule.id].held) == pytest.approx(told[rule.id], abs=0.01), rule.id
        assert found[rule.id].left == pytest.approx(rule.limit - sum(told[rule.id]), abs=0.01)


async def test_what_nobody_used_is_all_there(store, ledger):
    found, now = await levels(store)
    assert {name: (level.used, level.held, level.left) for name, level in found.items()} == {
        rule.id: (0.0, 0.0, rule.limit) for rule in RULES
    }
    assert found["rpm"].resets_at is found["concurrent"].resets_at is found["usd/total"].resets_at is None
    assert found["tokens/minute"].resets_at == pytest.approx(now - now % 60 + 60)


async def test_a_rate_resets_when_it_has_refilled(store, ledger):
    await reserve(ledger, [30, 0, 0, 0])
    found, now = await levels(store)
    assert found["rpm"].left == pytest.approx(30, abs=0.1)
    assert found["rpm"].resets_at == pytest.approx(now + 30, abs=0.1)


async def test_what_a_dead_worker_held_is_free_at_last(store, ledger):
    other = ledger_on(store)
    await other.heartbeat()
    await reserve(other, [1, 1, 700, 7000])
    assert (await levels(store))[0]["tokens/minute"].held == 700
    await asyncio.sleep(9)
    assert (await levels(store))[0]["usd/total"].held == 7000
    await asyncio.sleep(7)  # 16 s since its last sign of life
    await ledger.heartbeat()
    found, _ = await levels(store)
    assert [found[rule.id].held for rule in (SLOTS, MINUTE, TOTAL)] == [0, 0, 0]


async def test_a_lower_limit_leaves_nothing_and_never_less(store, ledger):
    await reserve(ledger, [1, 1, 800, 0])
    reading = await StoredRules(store, "test").read(["c/app"])
    lower = Rule("tokens/minute", Kind.BUDGET, Measure.TOKENS, 500, per=Per.MINUTE)
    (level,) = reading.levels("c/app", [lower], UTC)
    assert (level.held, level.left) == (800, 0)


async def test_days_and_months_end_in_their_zone(store, ledger):
    reading = await StoredRules(store, "test").read([])
    day = Rule("usd/day", Kind.BUDGET, Measure.USD, 1, per=Per.DAY)
    (level,) = reading.levels("c/app", [day], zone_named("Asia/Kathmandu"))
    assert level.resets_at is not None
    end = datetime.fromtimestamp(level.resets_at, ZoneInfo("Asia/Kathmandu"))
    assert (end.hour, end.minute, end.second) == (0, 0, 0)
    assert 0 < level.resets_at - reading.now <= 86_400


async def test_many_subjects_are_read_in_parts(store, ledger):
    await reserve(ledger, [1, 0, 0, 0])
    reading = await StoredRules(store, "test").read([*(f"c/{n}" for n in range(450)), "c/app"])
    assert set(reading.counters) == {"c/app"}
