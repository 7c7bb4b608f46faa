"""The store's clock is set forward or back: budgets go on as if nothing had happened, and nothing waits longer.

An account of 6,000 tokens a minute gains 100 a second, and a full bucket holds 5,880.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.domain.states import Record, State
from quotapool.domain.subject import Subject
from quotapool.ledger.batches import ledger_script
from quotapool.ledger.grants import Event, Granted, Observed, Refused

from tests.fakes.connect import connect
from tests.fakes.store import ClockedStore, candidate, granted, ledger_on, pack, unpack, wire
from tests.ledger.test_lua_follows_the_bucket import Both

pytestmark = pytest.mark.usefixtures("virtual_time")

GROUP = "gpt-4o"
A = candidate("a", Limits(tpm=6_000))
DAILY = candidate("d", Limits(rpm=10_000_000, rpd=86_400))
STEPS = pytest.mark.parametrize("by", [3600.0, -3600.0, 60.0, -60.0, 10.0, -5.0])


@pytest.fixture
async def ledgers(valkey_url):
    """Two replicas' ledgers, which know the store's clock."""
    stores = [connect(valkey_url) for _ in range(2)]
    made = [ledger_on(store) for store in stores]
    await made[0].registry.begin_epoch(reseeded=False)
    for one in made:
        await granted(one, "another", Cost(1), [candidate("z", Limits(rpm=1000))])
    yield made
    for one, store in zip(made, stores, strict=True):
        await one.flush()
        await store.close()


async def wait_of(ledger, tokens: int, who=A, **options) -> float | None:
    """Seconds that the store makes a request wait; 0: granted."""
    answer = await ledger.reserve(GROUP, Cost(1, tokens), [who], **options)
    return answer.wait_s if isinstance(answer, Refused) else 0.0


async def steps(ledger) -> list[list[float]]:
    raw = await ledger.store.client.get(f"{ledger.prefix}:steps")
    return unpack(raw) if raw else []


@STEPS
async def test_nothing_is_gained_and_nothing_stalls(ledgers, virtual_time, by):
    one, other = ledgers
    await granted(one, GROUP, Cost(1, 5_880), [A])
    virtual_time.set_store_clock(by)
    # I expect 1,000 tokens in ten seconds, whichever replica asks, and however often
    for seconds in range(10):
        for ledger in (other, one):
            assert await wait_of(ledger, 1_000) == pytest.approx(10 - seconds, abs=0.05)
        await asyncio.sleep(1)
    await asyncio.sleep(0.05)
    assert await wait_of(other, 1_000) == 0
    assert await wait_of(one, 1_000) == pytest.approx(10, abs=0.1)


@STEPS
async def test_a_step_there_and_back_again_gains_nothing_and_costs_no_more_than_the_time_between_two_looks(
    ledgers, virtual_time, by
):
    one, other = ledgers
    await granted(one, GROUP, Cost(1, 5_880), [A])
    for step in (by, -by, by):
        virtual_time.set_store_clock(step)
        await asyncio.sleep(1)
        await wait_of(other, 1_000)
    waits_s = await wait_of(one, 1_000)
    assert 7 - 0.05 <= waits_s <= 7 + 2 + 0.05
    await asyncio.sleep(waits_s + 0.05)
    assert await wait_of(one, 1_000) == 0


@STEPS
async def test_a_day_gets_no_longer_and_no_shorter(ledgers, virtual_time, by):
    one, _ = ledgers
    for _ in range(20):
        await granted(one, GROUP, Cost(4_000), [DAILY])
    virtual_time.set_store_clock(by)
    answer = await one.reserve(GROUP, Cost(10_000), [DAILY])
    assert isinstance(answer, Refused)
    assert answer.wait_s == pytest.approx(10_000 - 6_400 + 1.2, abs=1)


@STEPS
async def test_a_cool_down_gets_no_longer_and_no_shorter(ledgers, virtual_time, by):
    one, other = ledgers
    one.settle(await granted(one, GROUP, Cost(1, 10), [A]), cool_s=30)
    await one.flush()
    virtual_time.set_store_clock(by)
    assert await wait_of(other, 10) == pytest.approx(30, abs=0.05)
    await asyncio.sleep(20)
    assert await wait_of(one, 10) == pytest.approx(10, abs=0.05)
    await asyncio.sleep(10.05)
    assert await wait_of(other, 10) == 0


@STEPS
async def test_what_upstream_reports_is_followed_at_once(ledgers, virtual_time, by):
    one, _ = ledgers
    one.settle(await granted(one, GROUP, Cost(1, 10), [A]), observed=[Observed(Dimension.TPM, 6_000, 5_990)])
    await one.flush()
    virtual_time.set_store_clock(by)
    await asyncio.sleep(1)
    answer = await granted(one, GROUP, Cost(1, 10), [A])
    await asyncio.sleep(1)
    one.settle(answer, observed=[Observed(Dimension.TPM, 6_000, 0)])
    await one.flush()
    assert await wait_of(one, 1_000) > 5


async def test_a_claim_from_before_the_clock_was_set_back_is_over(ledgers, virtual_time):
    one, other = ledgers
    await granted(one, GROUP, Cost(1, 5_880), [A])
    assert await wait_of(one, 5_000, owner="large", arrived=time.monotonic() - 1)
    virtual_time.set_store_clock(-3600)
    assert await wait_of(other, 100) == pytest.approx(1, abs=0.05)
    await asyncio.sleep(1.05)
    assert await wait_of(other, 100) == 0


@pytest.mark.parametrize("by", [3600.0, -3600.0])
async def test_a_rest_is_no_longer_than_it_was_to_be(ledgers, virtual_time, by):
    one, other = ledgers
    key = Subject.of_key(A.key)
    record = Record(State.QUARANTINED, "insufficient_quota", 0.0, fingerprint=A.key_fingerprint)
    await one.registry.change_state(key, record, rest_s=60, fingerprint=A.key_fingerprint)
    virtual_time.set_store_clock(by)
    await wait_of(other, 10, candidate("b", Limits(rpm=1000)))  # by any batch it is noticed
    await asyncio.sleep(0.1)
    now = await one.registry.time()
    assert (await one.registry.records())[key].until - now <= 60
    await asyncio.sleep(61)
    answer = await granted(one, GROUP, Cost(1, 10), [A], may_try_resting=True)
    assert answer.is_trial
    assert isinstance(await other.reserve(GROUP, Cost(1, 10), [A], may_try_resting=True), Refused)  # one at a time


async def test_replicas_that_left_before_the_clock_was_set_back_are_not_counted(ledgers, virtual_time):
    one, other = ledgers
    await one.heartbeat()
    await other.heartbeat()
    virtual_time.set_store_clock(-3600)
    await asyncio.sleep(1)
    for _ in range(2):
        await one.heartbeat()
    assert one.replicas == 1


async def test_a_store_that_hung_is_no_clock_that_was_set(ledgers, virtual_time):
    one, other = ledgers
    await granted(one, GROUP, Cost(1, 5_880), [A])
    stale = one._expected_clock()
    # If a command was under way for a minute while the store hung, and its sender has left
    virtual_time.pause_store(50)
    await asyncio.sleep(50)
    script = ledger_script()
    await one.store.evalsha_batch(script, one.prefix, "left", pack([]), *stale, "")
    assert len(await steps(one)) == 1
    # I expect the next word of anybody who was there to put it right: 5,000 tokens have come meanwhile
    assert await wait_of(other, 4_900) == 0
    assert await steps(one) == []


async def test_replicas_whose_own_clocks_disagree_do_not_argue(ledgers):
    one, other = ledgers
    await granted(one, GROUP, Cost(1, 5_880), [A])
    one._clock_ahead -= 3600  # its machine slept, and its monotonic clock stood still
    waits = []
    for _ in range(8):
        for ledger in (one, other):
            waits.append(await wait_of(ledger, 5_880))
            await asyncio.sleep(1)
    assert waits == sorted(waits, reverse=True)
    assert waits[-1] == pytest.approx(58.8 - 15, abs=2)
    assert await steps(one) == []


async def test_what_is_owed_is_paid_though_the_clock_was_set_while_the_store_was_away(
    valkey_url, tmp_path, virtual_time
):
    for by in (3600, -3600):
        async with wire(valkey_url, tmp_path) as network:
            store, plain = connect(network.url), connect(valkey_url)
            who = candidate(f"d{by}", Limits(rpm=10_000_000, rpd=86_400))
            ledger = ledger_on(store, patience_s=0.05, serve_alone=True)
            await ledger.registry.begin_epoch(reseeded=False)
            await granted(ledger, GROUP, Cost(1), [who])
            network.lose(0, "down")
            network.cut()
            for _ in range(50):
                assert (await granted(ledger, GROUP, Cost(100), [who])).local
            virtual_time.set_store_clock(by)
            network.heal()
            async with asyncio.timeout(5):
                while ledger._batches.away:
                    await asyncio.sleep(0.01)
            await ledger.flush()
            _, buckets = await ledger_on(plain).stored.all()
            assert buckets[who.account, GROUP].charged[2] == pytest.approx(5_001, abs=10)
            await store.close()
            await plain.close()


@STEPS
async def test_the_script_follows_the_specification_through_a_step(valkey_url, virtual_time, by):
    store = ClockedStore.at(valkey_url)
    both = Both(store, "fresh")
    both.limits = Limits(rpm=600, tpm=60_000, rpd=10_000)
    await both.begin()
    seen = [(1, None, -0.2)]
    await both.reserve(Cost(1, 30_000))
    await both.exchange(Cost(1, 500), 0.5, 0.1, False, 20.0, seen, False, Event.NOTHING, False)
    virtual_time.set_store_clock(by)
    await asyncio.sleep(3)
    await granted(both.ledger, "another", Cost(1), [candidate("z")])
    for _, step in await steps(both.ledger):  # if it was set back, a bucket sees that by itself
        assert step == pytest.approx(by, abs=0.01)
        both.spec.move(step)
    before = both.open[0]
    await both.settle(0, 0.5, False, 0.0, seen, False, Event.SLOW_DOWN, False)
    assert isinstance(before[0], Granted)
    assert await both.reserve(Cost(1, 500)) == "refused"
    await asyncio.sleep(20)
    assert await both.reserve(Cost(1, 500)) == "granted"
    await store.close()
