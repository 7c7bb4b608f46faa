"""Entries in the store: kept, found by every process of the pool, and given to nobody else."""

from __future__ import annotations

import asyncio
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.cache.calls import LONGEST_TEXT, Release, key_of, keys_of, prefix_of
from quotapool.cache.entry import Entry, Form
from quotapool.cache.puts import MOST_ENTRY
from quotapool.cache.store import LEAD, LED, MISSING, Found
from redis.crc import key_slot

from tests.fakes.caches import PREFIX, entry, name, processes, served

ONE, OTHER = name(1), name(2)


@pytest.fixture
async def pair(valkey_url):
    async with processes(valkey_url) as made:
        yield made


async def test_an_entry_is_found_by_every_process(pair):
    one, other = pair
    assert await one.ask(ONE) == LEAD
    await one.keep(ONE, entry(7))
    assert served(await one.ask(ONE)) == served(await other.ask(ONE)) == entry(7)
    assert await other.ask(OTHER, lead=False) == MISSING
    assert one.failed == one.unkept == other.failed == []


async def test_a_later_entry_replaces_an_earlier_one(pair):
    one, other = pair
    for n in range(3):
        await one.keep(ONE, entry(n, 100 + 50 * n))
        assert served(await other.ask(ONE)) == entry(n, 100 + 50 * n)
    assert (await one.stats()).entries == 1


SIZES = [1, 2_000, 16_383, 16_384, LONGEST_TEXT - 300, LONGEST_TEXT, 1_000_000, MOST_ENTRY]


@pytest.mark.parametrize("content", [lambda size: b"ab" * (size // 2), os.urandom], ids=["text", "noise"])
@pytest.mark.parametrize("size", SIZES)
async def test_of_any_size_up_to_8_mb(pair, size, content):
    one, other = pair
    kept = Entry(Form.EVENTS, content(size), "text/event-stream", "gpt-4o")
    assert await one.ask(ONE) == LEAD
    await one.keep(ONE, kept)
    assert served(await other.ask(ONE)) == kept
    assert one.unkept == []


async def test_the_store_itself_forgets_an_entry_when_it_ends(pair):
    one, _ = pair
    await one.keep(ONE, entry(1), ttl_s=600)
    await one.keep(OTHER, Entry(Form.JSON, os.urandom(1_000_000)), ttl_s=600)
    keys = await one.store.client.keys(f"{PREFIX}:e:*")
    assert len(keys) == 2
    left = [await one.store.client.pttl(key) for key in keys]
    assert all(500_000 < ms <= 599_500 for ms in left)


async def test_a_longer_answer_is_not_kept_and_its_lease_is_given_back(pair):
    one, other = pair
    assert await one.ask(ONE) == LEAD
    await one.keep(ONE, Entry(Form.JSON, b"x" * (MOST_ENTRY + 1)))
    assert one.unkept == ["too_large"]
    assert await other.ask(ONE) == LEAD


async def test_what_is_on_its_way_is_bounded(pair):
    one, other = pair
    await one.ask(OTHER)
    for n in range(10):  # of 4 MB each, in one turn of the loop: 7 are less than 32 MB
        one.put(name(n), Entry(Form.JSON, os.urandom(4 * 2**20)), ttl_s=60, client="app")
    assert one.unkept == ["busy"] * 3
    await one.settled()
    found = [isinstance(await other.ask(name(n), lead=False), Found) for n in range(10)]
    assert found == [True] * 7 + [False] * 3
    await one.keep(name(9), entry(9))  # and there is room again
    assert served(await other.ask(name(9))) == entry(9)


async def test_all_of_one_turn_goes_out_in_one_call(pair, monkeypatch):
    one, _ = pair
    calls = []
    evalsha_batch = one.store.evalsha_batch

    async def counted(*args, **options):
        calls.append(args)
        return await evalsha_batch(*args, **options)

    monkeypatch.setattr(one.store, "evalsha_batch", counted)
    assert await asyncio.gather(*(one.ask(name(n)) for n in range(64))) == [LEAD] * 64
    assert len(calls) == 1
    for n in range(64):
        one.put(name(n), entry(n), ttl_s=60, client="app")
    await one.settled()
    assert len(calls) == 2
    outcomes = await asyncio.gather(*(one.ask(name(n)) for n in range(200)))
    assert [served(outcome) for outcome in outcomes[:64]] == [entry(n) for n in range(64)]
    assert outcomes[64:] == [LEAD] * 136
    assert len(calls) == 6  # 200 are four calls


async def test_answers_of_many_long_entries_come_in_several_calls(pair):
    one, other = pair
    await one.ask(ONE)
    kept = [Entry(Form.JSON, os.urandom(60_000)) for _ in range(64)]  # 3.8 MB
    for n, each in enumerate(kept):
        one.put(name(n), each, ttl_s=60, client="app")
    await one.settled()
    assert [served(outcome) for outcome in await asyncio.gather(*(other.ask(name(n)) for n in range(64)))] == kept


async def test_items_are_found_in_their_order(pair):
    one, other = pair
    await one.ask(ONE, lead=False)
    chosen = random.Random(1).sample(range(2_048), 1_500)
    one.put_items([(name(n), entry(n)) for n in chosen], ttl_s=60, client="app")
    await one.settled()
    found = await other.look_up_items([name(n) for n in range(2_048)], max_age_s=None)
    assert [each and each.entry for each in found] == [entry(n) if n in chosen else None for n in range(2_048)]
    assert await other.look_up_items([], max_age_s=None) == []
    assert await other.ask(name(1), lead=False) != LED  # no lease is taken for items


async def test_an_item_is_not_found_if_it_is_long_damaged_or_too_old(pair):
    one, other = pair
    await one.keep(name(1), Entry(Form.JSON, os.urandom(LONGEST_TEXT)))
    await one.keep(name(2), entry(2))
    await one.keep(name(3), entry(3))
    await one.store.client.set(f"{PREFIX}:e:{key_of(name(3))}", b"\x01garbage")
    found = await other.look_up_items([name(n) for n in (1, 2, 3)], max_age_s=60)
    assert [each and each.entry for each in found] == [None, entry(2), None]
    assert other.damaged == 1
    assert await other.look_up_items([name(2)], max_age_s=0) == [None]


async def test_pools_and_other_master_keys_do_not_see_each_other(valkey_url):
    async with processes(valkey_url, 1) as [one], processes(valkey_url, 1, pool="other") as [elsewhere]:
        await one.keep(ONE, entry(1))
        assert await elsewhere.ask(ONE, lead=False) == MISSING
        assert (await elsewhere.stats()).entries == 0
        async with processes(valkey_url, 1, root=b"r" * 32) as [rotated]:
            # Its names are others; I take the same one, as if the two had met
            assert rotated.secrets.name("pool", "chat", b"{}") != one.secrets.name("pool", "chat", b"{}")
            assert await rotated.ask(ONE) == LEAD
            assert rotated.damaged == 1
            assert await one.ask(ONE, lead=False) == MISSING  # dropped
            assert (await one.stats()).entries == 0


@given(st.text(max_size=30))
def test_all_keys_of_a_pool_are_in_one_slot(pool):
    pool = pool.replace("{", "").replace("}", "") or "main"
    prefix = prefix_of(pool)
    slots = {
        key_slot(key.encode("utf-8", "replace"))
        for key in keys_of(prefix, [Release(key_of(name(n)), "") for n in range(9)])
    }
    assert len(slots) == 1


async def test_a_caller_that_leaves_takes_no_lease_with_it(pair):
    one, other = pair
    for n in range(200):
        task = asyncio.create_task(one.ask(name(n)))
        for _ in range(n % 5):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await one.settled()
    assert await asyncio.gather(*(other.ask(name(n)) for n in range(200))) == [LEAD] * 200


async def test_nor_if_it_leaves_in_the_turn_in_which_it_is_given_one(pair, monkeypatch):
    one, other = pair
    evalsha_batch = one.store.evalsha_batch

    async def answered(*args, **options):
        answer = await evalsha_batch(*args, **options)
        asyncio.get_running_loop().call_soon(task.cancel)  # before the caller goes on with it
        return answer

    monkeypatch.setattr(one.store, "evalsha_batch", answered)
    task = asyncio.create_task(one.ask(ONE))
    await asyncio.wait([task])
    assert task.cancelled()
    monkeypatch.undo()
    await one.settled()
    assert one._leases == {}
    assert await other.ask(ONE) == LEAD


async def test_closing_sends_what_waits_and_gives_leases_back(valkey_url):
    async with processes(valkey_url) as [one, other]:
        assert await asyncio.gather(*(one.ask(name(n)) for n in range(5))) == [LEAD] * 5
        one.put(name(0), entry(0), ttl_s=60, client="app")
        one.put(name(1), Entry(Form.JSON, os.urandom(100_000)), ttl_s=60, client="app")
        await one.close()
        assert served(await other.ask(name(0))) == entry(0)
        assert isinstance(await other.ask(name(1)), Found)
        assert await asyncio.gather(*(other.ask(name(n)) for n in range(2, 5))) == [LEAD] * 3


async def test_once_closed_it_opens_no_connection_for_requests_that_are_under_way(valkey_url):
    async with processes(valkey_url) as [one, other]:
        assert await one.ask(ONE) == LEAD
        await other.ask(ONE)
        await one.close()
        await one.store.close()
        connections = len(await other.store.client.client_list())
        one.put(ONE, entry(1), ttl_s=60, client="app")
        one.put(ONE, Entry(Form.JSON, os.urandom(100_000)), ttl_s=60, client="app")
        one.release(ONE)
        assert await one.ask(ONE) == await one.wait(ONE, max_age_s=None) == MISSING
        assert await one.look_up_items([ONE], max_age_s=None) == [None]
        await one.settled()
        assert one.unkept == ["store", "store"]
        assert len(await other.store.client.client_list()) == connections
        assert await other.ask(ONE) == LEAD
