"""Whatever is wrong with the store, requests are served as misses, soon, and it is counted."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from quotapool.cache.calls import key_of
from quotapool.cache.entry import Entry, Form
from quotapool.cache.store import LEAD, LOOK_UP_S, MISSING, Found
from quotapool.store.store import StoreLost, StoreRefused

from tests.fakes.caches import PREFIX, Process, entry, name, processes, served
from tests.fakes.connect import connect
from tests.fakes.store import pack, wire
from tests.fakes.valkey import start_valkey, stop_valkey

ONE, OTHER = name(1), name(2)
MB = 2**20
ENTRY_KEY = f"{PREFIX}:e:{key_of(ONE)}"


async def test_without_a_store_everything_is_a_miss_and_nothing_raises(tmp_path):
    store = connect(f"unix://{tmp_path}/nothing.sock")
    one = Process(store)
    assert await asyncio.gather(*(one.ask(name(n)) for n in range(100))) == [MISSING] * 100
    assert await one.look_up_items([ONE, OTHER], max_age_s=None) == [None, None]
    assert await one.wait(ONE, max_age_s=None) == MISSING
    one.put(ONE, entry(1), ttl_s=60, client="app")
    one.release(ONE)
    one.renew()
    await one.settled()
    assert one.failed == ["connect"]  # one call; the others did not have to try
    assert one.unkept == ["store"]
    for ask in (one.stats(), one.clear()):
        with pytest.raises(StoreLost):
            await ask
    await one.close()
    await store.close()


@pytest.mark.usefixtures("virtual_time")
async def test_a_store_that_hangs_costs_a_request_a_quarter_of_a_second_and_the_following_ones_nothing(
    valkey_url, virtual_time
):
    store = connect(valkey_url, timeout_s=0.25)
    one = Process(store, patience_s=LOOK_UP_S)
    await one.keep(ONE, entry(1))
    virtual_time.pause_store(10)
    started = virtual_time.monotonic()
    assert await asyncio.gather(*(one.ask(name(n)) for n in range(100))) == [MISSING] * 100
    assert virtual_time.monotonic() - started == pytest.approx(0.25, abs=0.01)
    for _ in range(20):
        assert await one.ask(ONE) == MISSING
        assert await one.look_up_items([ONE], max_age_s=None) == [None]
    assert virtual_time.monotonic() - started == pytest.approx(0.25, abs=0.01)
    assert one.failed == ["timeout"]
    await asyncio.sleep(1.1)  # one more request finds out whether it is back
    assert await one.ask(ONE) == MISSING
    assert one.failed == ["timeout", "timeout"]
    await asyncio.sleep(10)
    assert served(await one.ask(ONE)) == entry(1)
    await one.close()
    await store.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_process_that_is_held_up_does_not_take_the_store_for_slow(valkey_url, virtual_time, turns):
    """At whichever turn of the loop: before the call went out, before the answer came, before it was read."""
    store = connect(valkey_url)
    one = Process(store, patience_s=LOOK_UP_S)
    await one.ask(OTHER, lead=False)
    asked = [asyncio.create_task(one.ask(ONE)), asyncio.create_task(one.ask(name(3), lead=False))]
    for _ in range(turns):
        await asyncio.sleep(0)
    virtual_time.advance(0.4)
    assert await asked[0] == LEAD
    await asked[1]
    virtual_time.pause_store(10)  # and one that is slow is still noticed
    started = virtual_time.monotonic()
    late = asyncio.create_task(one.ask(name(4)))
    await asyncio.sleep(0)
    virtual_time.advance(0.4)
    assert await late == MISSING
    assert virtual_time.monotonic() - started == pytest.approx(0.41, abs=0.001)
    await one.close()
    await store.close()


@pytest.mark.usefixtures("virtual_time")
async def test_a_lease_that_was_given_too_late_is_given_back(valkey_url, virtual_time):
    store = connect(valkey_url)  # the connection would wait for longer than a request does
    one = Process(store, patience_s=LOOK_UP_S)
    await one.ask(OTHER, lead=False)
    virtual_time.pause_store(1)
    started = virtual_time.monotonic()
    assert await one.ask(ONE) == MISSING
    assert virtual_time.monotonic() - started == pytest.approx(0.25, abs=0.01)
    await one.settled()
    async with processes(valkey_url, 1) as [other]:
        assert await other.ask(ONE) == LEAD
    await one.close()
    await store.close()


async def test_a_store_that_is_killed_in_the_middle_and_comes_back_empty(tmp_path):
    process, url = start_valkey(tmp_path)
    store = connect(url)
    one = Process(store)
    await one.keep(ONE, entry(1))
    asked = [asyncio.create_task(one.ask(name(n))) for n in range(300)]
    one.put(OTHER, Entry(Form.JSON, os.urandom(MB)), ttl_s=60, client="app")
    await asyncio.sleep(0)
    stop_valkey(process)
    outcomes = await asyncio.gather(*asked)
    assert MISSING in outcomes
    assert all(outcome in {LEAD, MISSING} or isinstance(outcome, Found) for outcome in outcomes)
    await one.settled()
    process, url = start_valkey(tmp_path)
    try:
        one._calls._rests_until = 0.0  # as a second later
        outcomes = [await one.ask(name(n)) for n in (900, 901)]  # the first may meet the connection that was lost
        assert LEAD in outcomes
        one._calls._rests_until = 0.0
        await one.keep(ONE, entry(2))
        assert served(await one.ask(ONE)) == entry(2)
        await one.close()
        await store.close()
    finally:
        stop_valkey(process)


async def test_an_answer_that_is_lost_is_a_miss(valkey_url, tmp_path):
    async with wire(valkey_url, tmp_path) as between:
        store = connect(between.url)
        one = Process(store)
        await one.keep(ONE, entry(1))
        between.lose(1, only=lambda command: b"EVAL" in command)
        assert await one.ask(ONE) == MISSING
        assert one.failed == ["closed"]
        one._calls._rests_until = 0.0
        assert served(await one.ask(ONE)) == entry(1)
        await one.close()
        await store.close()


ANSWERS = [
    b"$-1\r\n",
    b"$0\r\n\r\n",
    b":1\r\n",
    b"$8\r\n00000000\r\n",
    b"$9\r\n00000001\x90\r\n",
    b"*1\r\n:1\r\n",
    b"-ERR something else\r\n",
    b"+" + b"9" * 40 + b"\r\n",
]


@pytest.mark.parametrize("answer", [*ANSWERS, b"$%d\r\n%b\r\n"], ids=repr)
async def test_an_answer_that_is_none_of_the_scripts_is_a_miss(valkey_url, tmp_path, answer):
    async with wire(valkey_url, tmp_path) as between:
        store = connect(between.url)
        one = Process(store)
        await one.keep(ONE, entry(1))
        if b"%d" in answer:  # of a call with two items
            head = pack([1.0, 0, [-1, -1], [], []])
            answer %= (8 + len(head), b"%08d" % len(head) + head)
        between.answer_instead = answer
        assert await one.ask(ONE) == MISSING
        assert len(one.failed) == 1
        one._calls._rests_until = 0.0
        await store.client.connection_pool.disconnect()
        assert served(await one.ask(ONE)) == entry(1)
        await one.close()
        await store.close()


@pytest.mark.parametrize(
    "text",
    [b"", b"\x01", b"\x01" + b"garbage" * 9, b"\x00" * 200, b"\xff" * 200, b'{"choices": []}'],
    ids=["empty", "short", "damaged", "zeros", "another version", "plain"],
)
async def test_a_damaged_entry_is_a_miss_that_is_counted_and_removed(valkey_url, text):
    async with processes(valkey_url) as [one, other]:
        await one.keep(ONE, entry(1))
        await one.store.client.set(ENTRY_KEY, text, keepttl=True)
        assert await other.ask(ONE) == LEAD  # in the same look-up: the request is not held up
        assert other.damaged == 1
        assert (await one.stats()).entries == 0
        await other.keep(ONE, entry(2))
        assert served(await one.ask(ONE)) == entry(2)


async def test_an_entry_in_the_place_of_another_one_is_a_miss(valkey_url):
    async with processes(valkey_url) as [one, other]:
        await one.keep(ONE, entry(1))
        await one.keep(OTHER, entry(2))
        await one.store.client.set(ENTRY_KEY, await one.store.client.get(f"{PREFIX}:e:{key_of(OTHER)}"), keepttl=True)
        assert await other.ask(ONE) == LEAD
        assert other.damaged == 1


@pytest.mark.usefixtures("virtual_time")
async def test_nobody_who_writes_to_the_store_makes_an_answer_last_longer(valkey_url):
    async with processes(valkey_url) as [one, other]:
        await one.keep(ONE, entry(1), ttl_s=60)
        about = pack([time.time(), time.time() + 3600, 0, 1000, 200, "app", "gpt-4o"])
        await one.store.client.hset(f"{PREFIX}:about", key_of(ONE), about)
        await one.store.client.persist(ENTRY_KEY)
        assert served(await other.ask(ONE)) == entry(1)
        await asyncio.sleep(60)
        assert await other.ask(ONE) == LEAD
        assert other.damaged == 1


ABOUTS = [b"", b"\xc1", b"\x01", pack([]), pack({"made": 1}), pack(["a"] * 7), pack([1.0] * 7), pack([1, 2, 3])]


@pytest.mark.parametrize("about", ABOUTS, ids=repr)
async def test_a_damaged_record_fails_no_call(valkey_url, about):
    async with processes(valkey_url) as [one, other]:
        await one.keep(ONE, entry(1))
        await one.keep(OTHER, entry(2))
        await one.store.client.hset(f"{PREFIX}:about", key_of(ONE), about)
        outcomes = await asyncio.gather(other.ask(ONE), other.ask(OTHER))
        assert outcomes[0] == LEAD
        assert served(outcomes[1]) == entry(2)
        await other.keep(ONE, entry(3))
        assert served(await one.ask(ONE)) == entry(3)
        assert other.failed == one.failed == []


async def test_a_key_of_another_type_fails_no_call(valkey_url):
    async with processes(valkey_url) as [one, other]:
        await one.keep(ONE, entry(1))
        await one.keep(OTHER, entry(2))
        client = one.store.client
        await client.delete(ENTRY_KEY)
        await client.hset(ENTRY_KEY, "a", "b")
        await client.hset(f"{PREFIX}:l:{key_of(ONE)}", "a", "b")
        outcomes = await asyncio.gather(other.ask(ONE), other.ask(OTHER))
        assert outcomes[0] == LEAD
        assert served(outcomes[1]) == entry(2)


async def test_a_store_that_refuses_the_script_is_asked_once_a_second(valkey_url):
    async with processes(valkey_url) as [one, other]:
        await one.store.client.set(f"{PREFIX}:about", "not a hash")
        assert [await one.ask(name(n)) for n in range(10)] == [MISSING] * 10
        assert one.failed == ["script"]
        with pytest.raises(StoreRefused):
            await other.clear()
        await one.store.client.delete(f"{PREFIX}:about")


async def test_an_entry_that_cannot_be_written_harms_no_other(valkey_url):
    async with processes(valkey_url) as [one, other]:
        await one.ask(ONE)
        one.put(ONE, entry(1, model="\ud800"), ttl_s=60, client="app")
        one.put(OTHER, entry(2), ttl_s=60, client="app")
        await one.settled()
        assert served(await other.ask(OTHER)) == entry(2)
        assert one.unkept == ["store"]
        assert one._puts.waiting == 0
        assert await other.ask(ONE) == LEAD
