"""One process of all asks upstream: it has the lease until it stores the answer, gives the lease back, or is gone."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from quotapool.cache.calls import key_of
from quotapool.cache.store import LEAD, LEASE_S, LED, MISSING, RENEW_EVERY_S

from tests.fakes.caches import PREFIX, entry, name, processes, served
from tests.fakes.store import unpack

ONE = name(1)
RACES = 10_000


@pytest.fixture
async def pair(valkey_url):
    async with processes(valkey_url) as made:
        yield made


async def test_one_leads_and_all_others_are_led(pair):
    one, other = pair
    assert await one.ask(ONE) == LEAD
    assert await other.ask(ONE) == LED
    assert await one.ask(ONE) == LED  # in the same process, too
    assert await asyncio.gather(*(other.ask(ONE) for _ in range(100))) == [LED] * 100
    assert await other.ask(ONE, lead=False) == MISSING


async def test_asked_for_many_times_in_one_call_it_is_given_once(pair):
    one, other = pair
    outcomes = await asyncio.gather(*(one.ask(ONE) for _ in range(50)))
    assert sorted(map(str, outcomes)) == ["Lead()"] + ["Led()"] * 49
    one.release(ONE)
    await one.settled()
    assert await other.ask(ONE) == LEAD


async def test_with_an_entry_the_lease_is_given_back_in_the_same_step(pair):
    one, other = pair
    await one.ask(ONE)
    await one.keep(ONE, entry(1), ttl_s=60)
    assert served(await other.ask(ONE)) == entry(1)
    assert await other.clear() == 1
    assert await other.ask(ONE) == LEAD


async def test_who_asks_while_the_entry_is_on_its_way_does_not_lead(pair):
    one, other = pair
    for n in range(20):
        assert await one.ask(name(n)) == LEAD
        one.put(name(n), entry(n), ttl_s=60, client="app")
        asked = [asyncio.create_task(each.ask(name(n))) for each in (one, one, other)]  # goes before the entry
        outcomes = await asyncio.gather(*asked)
        assert all(outcome == LED or served(outcome) == entry(n) for outcome in outcomes)
        await one.settled()
        await other.settled()
        assert served(await one.ask(name(n))) == entry(n)
    assert one._leases == {}
    assert await one.store.client.keys(f"{PREFIX}:l:*") == []


async def test_a_lease_that_is_given_back_is_the_next_ones(pair):
    one, other = pair
    await one.ask(ONE)
    other.release(ONE)  # it is not the other's to give
    await other.settled()
    assert await other.ask(ONE) == LED
    one.release(ONE)
    await one.settled()
    assert await other.ask(ONE) == LEAD
    one.release(ONE)  # nor any longer the one's
    await one.settled()
    assert await one.ask(ONE) == LED


async def test_of_two_that_race_for_ten_thousand_leases_exactly_one_gets_each(pair):
    rng = random.Random(1)
    won = [0, 0]
    for first in range(0, RACES, 50):
        numbers = range(first, first + 50)
        asked = [(which, n) for which in (0, 1) for n in numbers]
        rng.shuffle(asked)
        outcomes = await asyncio.gather(*(pair[which].ask(name(n)) for which, n in asked))
        leaders: dict[int, list[int]] = {n: [] for n in numbers}
        for (which, n), outcome in zip(asked, outcomes, strict=True):
            assert outcome in {LEAD, LED}
            if outcome == LEAD:
                leaders[n].append(which)
        assert all(len(which) == 1 for which in leaders.values())
        for n, [which] in leaders.items():
            won[which] += 1
            pair[which].release(name(n))
    assert sum(won) == RACES
    assert min(won) > 0


@pytest.mark.parametrize("seed", range(4))
async def test_whatever_processes_do_in_whatever_order_no_two_lead_at_once(valkey_url, seed):
    """Asked, given back, stored, left, cleared: the holder that I note is the only one that ever is told to lead."""
    rng, holders = random.Random(seed), dict[int, int]()
    async with processes(valkey_url, 3) as made:

        async def act(which: int, n: int) -> None:
            mine, action = made[which], rng.choice(["ask"] * 4 + ["release", "put", "leave"])
            if action == "ask":
                if await mine.ask(name(n)) == LEAD:
                    assert n not in holders
                    holders[n] = which
            elif action == "leave":
                task = asyncio.create_task(mine.ask(name(n)))
                await asyncio.sleep(0)
                task.cancel()
                outcome = (await asyncio.gather(task, return_exceptions=True))[0]
                assert isinstance(outcome, asyncio.CancelledError)
            elif holders.get(n) == which:
                del holders[n]
                if action == "release":
                    mine.release(name(n))
                else:
                    mine.put(name(n), entry(n), ttl_s=60, client="app")
            elif action == "put":
                await mine.clear()

        for _ in range(150):
            for one in made:
                one.renew()
            await asyncio.gather(*(act(rng.randrange(3), rng.randrange(6)) for _ in range(12)))
        assert [one.failed for one in made] == [[], [], []]


async def test_a_killed_holders_lease_ends_within_three_seconds(pair):
    one, other = pair
    await one.ask(ONE)
    await one.store.close()  # as the system does for a process that was killed
    (key,) = await other.store.client.keys(f"{PREFIX}:l:*")
    assert 0 < await other.store.client.pttl(key) <= 3_000
    assert await other.ask(ONE) == LED
    await other.store.client.delete(key)  # as the store does then
    assert await other.ask(ONE) == LEAD


async def test_what_ended_meanwhile_is_not_taken_from_the_next_holder(pair):
    one, other = pair
    await one.ask(ONE)
    (key,) = await one.store.client.keys(f"{PREFIX}:l:*")
    await one.store.client.delete(key)  # the one was stopped for three seconds
    assert await other.ask(ONE) == LEAD
    await one.keep(ONE, entry(1))  # its answer is as good as any
    assert served(await other.ask(ONE)) == entry(1)
    await other.clear()
    assert await one.ask(ONE) == LED  # and the other's lease is still its own


async def test_a_lease_whose_answer_was_lost_is_given_to_the_same_process_again(pair):
    one, other = pair
    await one.ask(ONE)
    one._leases.clear()  # as if the answer had not come
    assert await other.ask(ONE) == LED
    assert await one.ask(ONE) == LEAD
    one.release(ONE)
    await one.settled()
    assert await other.ask(ONE) == LEAD


@pytest.mark.usefixtures("virtual_time")
class TestInTime:
    @pytest.fixture
    async def pair(self, virtual_store_url):
        async with processes(virtual_store_url) as made:
            yield made

    async def test_a_lease_is_prolonged_every_second_while_its_process_lives(self, pair):
        one, other = pair
        assert await asyncio.gather(*(one.ask(name(n)) for n in range(600))) == [LEAD] * 600
        running = asyncio.create_task(one.run())
        client = other.store.client
        keys = await client.keys(f"{PREFIX}:l:*")
        for key in keys:
            await client.pexpire(key, 60_000)
        await client.delete(*keys[:10])  # they had ended, and nobody had taken them
        await asyncio.sleep(RENEW_EVERY_S + 0.2)
        left = [await client.pttl(f"{PREFIX}:l:{key_of(name(n))}") for n in range(600)]
        assert all(0 < ms <= LEASE_S * 1000 for ms in left)
        running.cancel()

    async def test_who_waits_gets_the_entry_soon_after_it_was_stored(self, pair):
        one, other = pair
        await one.ask(ONE)
        waiting = asyncio.create_task(other.wait(ONE, max_age_s=None))
        await asyncio.sleep(5)
        assert not waiting.done()
        stored = time.monotonic()
        await one.keep(ONE, entry(1))
        assert served(await waiting) == entry(1)
        assert time.monotonic() - stored < 0.26

    async def test_a_short_answer_is_waited_for_shortly(self, pair):
        one, other = pair
        await one.ask(ONE)
        waiting = asyncio.create_task(other.wait(ONE, max_age_s=None))
        await asyncio.sleep(0.01)
        await one.keep(ONE, entry(1))
        started = time.monotonic()
        assert served(await waiting) == entry(1)
        assert time.monotonic() - started < 0.03

    async def test_all_who_wait_in_a_process_ask_the_store_together(self, pair, monkeypatch):
        one, other = pair
        await one.ask(ONE)
        words = list[int]()
        evalsha_batch = other.store.evalsha_batch

        async def counted(script, key, packed, *args, **options):
            words.append(len(unpack(packed)))
            return await evalsha_batch(script, key, packed, *args, **options)

        monkeypatch.setattr(other.store, "evalsha_batch", counted)
        waiting = [asyncio.create_task(other.wait(ONE, max_age_s=None)) for _ in range(1_000)]
        await asyncio.sleep(2)
        assert set(words) == {1}
        assert len(words) < 20
        await one.keep(ONE, entry(1))
        assert {served(await each) for each in waiting} == {entry(1)}

    async def test_one_of_those_who_wait_leads_if_the_lease_is_given_back_and_the_others_wait_on(self, pair):
        one, other = pair
        await one.ask(ONE)
        waiting = [asyncio.create_task(each.wait(ONE, max_age_s=None)) for each in pair for _ in range(5)]
        await asyncio.sleep(1)
        one.release(ONE)
        done, left = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        assert [task.result() for task in done] == [LEAD]
        await asyncio.sleep(1)
        assert not any(task.done() for task in left)
        leader = one if waiting.index(*done) < 5 else other
        await leader.keep(ONE, entry(1))
        assert {served(await task) for task in left} == {entry(1)}

    async def test_who_waits_can_leave_and_the_others_still_get_it(self, pair):
        one, other = pair
        await one.ask(ONE)
        waiting = [asyncio.create_task(other.wait(ONE, max_age_s=None)) for _ in range(3)]
        for task in waiting[:2]:  # the first of them asks for all
            await asyncio.sleep(0.1)
            task.cancel()
        await one.keep(ONE, entry(1))
        assert served(await waiting[2]) == entry(1)
        assert [task.cancelled() for task in waiting] == [True, True, False]

    async def test_who_waits_is_not_given_an_entry_that_is_too_old_for_it(self, pair):
        one, other = pair
        await one.keep(ONE, entry(1))
        await asyncio.sleep(10)
        assert await one.ask(ONE, max_age_s=5) == LEAD
        waiting = asyncio.create_task(other.wait(ONE, max_age_s=5))
        await asyncio.sleep(1)
        assert not waiting.done()
        await one.keep(ONE, entry(2))
        assert served(await waiting) == entry(2)
