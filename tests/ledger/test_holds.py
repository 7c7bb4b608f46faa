"""What is held of a client's rules beside any account's budget: as a request's, without an account."""

from __future__ import annotations

import asyncio
from datetime import UTC

import pytest
from quotapool.domain.periods import Per
from quotapool.domain.quantities import Cost
from quotapool.domain.rules import Kind, Measure, Mode, Rule
from quotapool.ledger.grants import Blocked, Granted, Hold
from quotapool.ledger.rules import Charge, RuleSet, Standing
from quotapool.store.store import StoreUnavailable

from tests.fakes.connect import connect
from tests.fakes.store import StoreLog, candidate, ledger_on, unpack, wire

pytestmark = pytest.mark.usefixtures("virtual_time")


def tokens(limit: float, subject: str = "c/app", mode: Mode = Mode.HARD) -> Standing:
    return Standing(subject, Rule("tokens/day", Kind.BUDGET, Measure.TOKENS, limit, mode, per=Per.DAY), UTC)


def charge_of(amount: float, *standings: Standing) -> Charge:
    return Charge(RuleSet(standings), [amount] * len(standings))


async def hold(ledger, amount: float, *standings: Standing) -> Hold:
    answer = await ledger.holds.take(charge_of(amount, *standings))
    assert isinstance(answer, Hold)
    return answer


async def stored(ledger, subject: str = "c/app") -> tuple[float, float]:
    """(used, held) as the store has them."""
    await ledger.flush()
    counters, held = unpack(await ledger.store.client.get(f"{ledger.prefix}:rules:{subject}"))
    held_now = sum(worker[2].get("tokens/day", 0) for worker in held.values()) if held else 0
    return (counters or {}).get("tokens/day", [0])[0], held_now


@pytest.fixture
async def ledger(valkey_url):
    store = connect(valkey_url)
    made = ledger_on(store)
    await made.registry.begin_epoch(reseeded=False)
    await made.heartbeat()
    yield made
    await made.flush()
    await store.close()


async def test_a_hold_takes_of_the_rules_and_of_no_account(ledger):
    held = await hold(ledger, 60, tokens(100), tokens(80, "t/all"))
    assert await stored(ledger) == await stored(ledger, "t/all") == (0, 60)
    assert await ledger.store.client.exists(f"{ledger.prefix}:buckets") == 0
    ledger.holds.settle(held, [25, 25])
    assert await stored(ledger) == await stored(ledger, "t/all") == (25, 0)


async def test_requests_and_holds_are_counted_together(ledger):
    of_100 = tokens(100)
    request = await ledger.reserve("gpt-4o", Cost(0), [candidate("a")], charge=charge_of(50, of_100))
    assert isinstance(request, Granted)
    await hold(ledger, 50, of_100)
    blocked = await ledger.holds.take(charge_of(1, of_100))
    assert isinstance(blocked, Blocked)
    assert [(rule.used, rule.held, rule.amount, rule.wait_s) for rule in blocked.rules] == [(0, 100, 1, 0)]
    # And the other way round
    answer = await ledger.reserve("gpt-4o", Cost(0), [candidate("a")], charge=charge_of(1, of_100))
    assert isinstance(answer, Blocked)


async def test_all_rules_are_held_or_none_is(ledger):
    own, team = tokens(100), tokens(15, "t/all")
    await hold(ledger, 10, own, team)
    assert isinstance(await ledger.holds.take(charge_of(10, own, team)), Blocked)
    assert await stored(ledger) == (0, 10)


async def test_a_rule_without_force_is_held_beyond_its_limit(ledger):
    held = await hold(ledger, 60, tokens(50, mode=Mode.SOFT))
    assert [standing.rule.id for standing in held.charge.exceeded] == ["tokens/day"]


async def test_what_is_let_go_leaves_nothing_and_counts_once(ledger):
    held = await hold(ledger, 60, tokens(100))
    ledger.holds.let_go(held)
    ledger.holds.settle(held, [60])
    ledger.holds.let_go(held)
    assert await stored(ledger) == (0, 0)


async def test_less_than_one_may_be_used_of_what_is_held(ledger):
    of_2 = tokens(2)
    for _ in range(4):
        ledger.holds.settle(await hold(ledger, 1, of_2), [0.25])
    assert await stored(ledger) == (1.0, 0)


async def test_a_hold_of_an_ended_day_charges_the_next_one_nothing(ledger, virtual_time):
    of_100 = tokens(100)
    held = await hold(ledger, 60, of_100)
    virtual_time.advance(86_400)
    await ledger.heartbeat()
    ledger.holds.let_go(await hold(ledger, 1, of_100))  # the first of the new day
    ledger.holds.settle(held, [60])
    assert await stored(ledger) == (0, 0)


async def test_a_hold_whose_caller_leaves_while_it_is_under_way_is_let_go(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url, timeout_s=0.1)
        ledger = ledger_on(store)
        await ledger.registry.begin_epoch(reseeded=False)
        of_100 = tokens(100)
        await hold(ledger, 1, of_100)
        network.lose(1, "hang", only=lambda command: b"EVALSHA" in command)
        leaving = asyncio.ensure_future(ledger.holds.take(charge_of(60, of_100)))
        while not network.lost:
            await asyncio.sleep(0.000_02)
        leaving.cancel()
        assert await stored(ledger) == (0, 1)
        await store.close()


async def test_a_caller_that_leaves_in_the_same_turn_as_the_answer_lets_it_go(valkey_url):
    store = connect(valkey_url)

    def leave() -> None:  # called as the first answer brings the pool's version, right after the answer was set
        leaving.cancel()

    ledger = ledger_on(store, on_version=leave)
    await ledger.registry.begin_epoch(reseeded=False)
    leaving = asyncio.ensure_future(ledger.holds.take(charge_of(60, tokens(100))))
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert await stored(ledger) == (0, 0)
    await store.close()


async def test_a_caller_that_leaves_before_the_batch_is_sent_has_no_effect(valkey_url):
    log, store = StoreLog(), connect(valkey_url)
    ledger = ledger_on(store, observer=log)
    leaving = asyncio.ensure_future(ledger.holds.take(charge_of(60, tokens(100))))
    await asyncio.sleep(0)
    leaving.cancel()
    await ledger.flush()
    assert log.batches == []
    await store.close()


# ---- the store is away


async def test_without_a_share_nothing_is_held_while_the_store_is_away(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url)
        ledger = ledger_on(store, patience_s=0.1)
        await ledger.registry.begin_epoch(reseeded=False)
        network.lose(0, "down")
        network.cut()
        with pytest.raises(StoreUnavailable):
            await ledger.holds.take(charge_of(60, tokens(100)))
        network.heal()
        assert await stored(ledger) == (0, 0)  # its batch was in doubt, was done, and the hold was let go
        await store.close()


async def test_the_share_is_held_while_the_store_is_away_and_is_paid_when_it_is_back(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as network:
        store = connect(network.url)
        ledger = ledger_on(store, patience_s=0.1, serve_alone=True)
        await ledger.registry.begin_epoch(reseeded=False)
        await ledger.heartbeat()
        of_100 = tokens(100)
        before = await hold(ledger, 40, of_100)
        network.lose(0, "down")
        network.cut()
        held = await hold(ledger, 50, of_100)
        assert held.local
        assert isinstance(await ledger.holds.take(charge_of(20, of_100)), Blocked)  # 40 and 50 are held
        ledger.holds.settle(held, [30])
        later = await hold(ledger, 30, of_100)
        assert isinstance(await ledger.holds.take(charge_of(1, of_100)), Blocked)
        network.heal()
        async with asyncio.timeout(5):
            while ledger._batches.away:
                await asyncio.sleep(0.005)
        await ledger.flush()
        # Held by the share, settled with the store: what was used counts there, and nothing stays held.
        ledger.holds.settle(later, [7])
        ledger.holds.settle(before, [5])
        assert await stored(ledger) == (30 + 7 + 5, 0)
        await store.close()
