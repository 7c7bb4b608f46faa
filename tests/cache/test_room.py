"""All entries of a pool take at most so many bytes; the least recently used ones go first; the store evicts nothing."""

from __future__ import annotations

import os
import random

import pytest
import redis.asyncio
from quotapool.cache.calls import ASKED, ROOM, Drop, key_of
from quotapool.cache.entry import Entry, Form
from quotapool.cache.puts import charge_of
from quotapool.cache.store import Found

from tests.fakes.caches import PREFIX, Process, entry, name, processes, served
from tests.fakes.connect import connect
from tests.fakes.valkey import running_valkey

MB = 2**20


async def fill(one: Process, numbers: range, size: int, *, client: str = "app") -> None:
    await one.ask(name(10**6), lead=False)
    for n in numbers:
        one.put(name(n), Entry(Form.JSON, os.urandom(size), model="gpt-4o"), ttl_s=3600, client=client)
        if n % 50 == 49:
            await one.settled()
    await one.settled()


async def there(one: Process, numbers: range) -> list[int]:
    found = await one.look_up_items([name(n) for n in numbers], max_age_s=None)
    return [n for n, each in zip(numbers, found, strict=True) if each is not None]


async def index_of(one: Process) -> list[int]:
    """How many entries each part of the index has: all the same."""
    client = one.store.client
    keys = [key async for key in client.scan_iter(f"{PREFIX}:e:*", count=10_000)]
    parts = [await client.hlen(f"{PREFIX}:about")] + [await client.zcard(f"{PREFIX}:{k}") for k in ("used", "ends")]
    return [len(keys), *parts]


@pytest.mark.parametrize("size", [100, 1_000, 10_000, 200_000])
async def test_the_bound_holds_all_the_time(valkey_url, size):
    async with processes(valkey_url, max_size=4 * MB) as [one, other]:
        charge = charge_of(size + 100, PREFIX, "app", "gpt-4o")
        number = 2 * 4 * MB // charge + 70
        for first in range(0, number, 64):
            await fill(one if first % 128 else other, range(first, first + 64), size)
            stats = await one.stats()
            assert stats.bytes <= 4 * MB
        assert stats.bytes > 0.9 * 4 * MB  # no more goes than has to
        assert one.unkept == other.unkept == []
        assert stats.evicted > 0
        assert set(await index_of(one)) == {stats.entries}


async def test_what_was_used_last_stays(valkey_url):
    async with processes(valkey_url, max_size=MB) as [one, other]:
        await fill(one, range(200), 1_000)  # 200 x 2.2 kB are half of the room
        kept = range(0, 200, 10)
        assert await there(other, kept) == list(kept)
        await fill(one, range(1_000, 1_300), 1_000)
        assert await there(other, kept) == list(kept)
        assert len(await there(other, range(200))) < 200


async def test_an_entry_that_is_used_after_it_was_chosen_to_go_stays(valkey_url):
    async with processes(valkey_url, 1) as [one]:
        await fill(one, range(2), 1_000)
        used = [await one.store.client.zscore(f"{PREFIX}:used", key_of(name(n))) for n in range(2)]
        await one.store.client.zadd(f"{PREFIX}:used", {key_of(name(0)): used[0] + 1})  # as a hit a moment later does
        dropped: list[bool] = []
        await one._calls.send([Drop(key_of(name(n)), ROOM, f"{used[n]:.0f}", dropped.append) for n in range(2)])
        assert dropped == [False, True]
        assert await there(one, range(2)) == [0]
        assert (await one.stats()).evicted == 1


async def test_one_large_entry_takes_the_place_of_many_small_ones(valkey_url):
    async with processes(valkey_url, 1, max_size=4 * MB) as [one]:
        await fill(one, range(3_000), 100)
        large = Entry(Form.JSON, os.urandom(2 * MB))
        await one.keep(name(10**6), large)
        assert served(await one.ask(name(10**6))) == large
        assert (await one.stats()).bytes <= 4 * MB
        assert one.unkept == []


async def test_an_entry_that_is_larger_than_all_the_room_displaces_nothing(valkey_url):
    async with processes(valkey_url, 1, max_size=MB) as [one]:
        await fill(one, range(20), 1_000)
        await one.keep(name(100), Entry(Form.JSON, os.urandom(2 * MB)))
        assert one.unkept == ["too_large"]
        assert await there(one, range(20)) == list(range(20))


async def test_a_smaller_bound_is_reached_with_the_next_entries(valkey_url):
    async with processes(valkey_url, 1, max_size=4 * MB) as [one]:
        await fill(one, range(1_500), 1_000)
        one.resize(MB)
        for _ in range(40):
            one.renew()
            await one.settled()
        await one.keep(name(10**6), entry(1))
        assert served(await one.ask(name(10**6))) == entry(1)
        assert (await one.stats()).bytes <= MB


async def test_replacing_an_entry_counts_once(valkey_url):
    async with processes(valkey_url) as [one, other]:
        rng = random.Random(2)
        last = {}
        for n in range(300):
            last[n % 7] = rng.randrange(10_000)
            await fill((one, other)[n % 2], range(n % 7, n % 7 + 1), last[n % 7])
        stats = await one.stats()
        assert stats.entries == 7
        assert stats.bytes == pytest.approx(
            sum(charge_of(size + 80, PREFIX, "app", "gpt-4o") for size in last.values()), rel=0.02
        )


async def memory(url: str) -> int:
    """Bytes of all that the store keeps, without the buffers of connections."""
    async with redis.asyncio.Redis.from_url(url) as client:
        await client.client_kill_filter(_type="normal", skipme=True)
        return (await client.info("memory"))["used_memory"]


@pytest.mark.parametrize("size", [10, 150, 1_000, 1_250, 5_000, 11_000, 70_000, 300_000, 3 * MB])
async def test_the_store_takes_no_more_memory_than_is_counted(tmp_path, size):
    with running_valkey(tmp_path) as url:
        async with processes(url, 1, max_size=1024 * MB) as [one]:
            await fill(one, range(10), size)
            await one.clear()
            before = await memory(url)
            number = max(10, min(6_000, 20 * MB // size))
            await fill(one, range(number), size, client="a client's name")
        taken = await memory(url) - before
        async with processes(url, 1) as [one]:
            stats = await one.stats()
        assert stats.entries == number
        assert taken <= stats.bytes
        assert stats.bytes < 2 * taken  # nor is half of the room wasted


async def test_a_full_store_evicts_nothing_and_takes_no_entry_but_still_serves(tmp_path):
    with running_valkey(tmp_path, "--maxmemory-policy", "noeviction") as url:
        admin = connect(url)
        async with processes(url) as [one, other]:
            await admin.client.set("qp:{test}:budget", "1")
            await fill(one, range(20), 1_000)
            assert await one.ask(name(50)) != await other.ask(name(50))  # a lease
            await admin.client.config_set("maxmemory", 1)
            await one.keep(name(100), entry(100))
            await one.keep(name(101), Entry(Form.JSON, os.urandom(200_000)))
            assert one.unkept == ["full", "full"]
            assert await there(other, range(20)) == list(range(20))
            outcome = await other.ask(name(3))
            assert isinstance(outcome, Found)
            assert str(await other.ask(name(100))) == "Missing()"
            assert await admin.client.get("qp:{test}:budget") == b"1"
            await admin.client.config_set("maxmemory", 0)
            await one.keep(name(102), entry(102))
            assert served(await other.ask(name(102))) == entry(102)
        await admin.close()


async def test_of_a_batch_that_also_deletes_nothing_is_written_to_a_full_store(tmp_path):
    """After a deletion a script may write more than the store has room for; a full store must stay as it is."""
    with running_valkey(tmp_path) as url:
        async with processes(url) as [one, other]:
            for n in range(10):
                await one.ask(name(n))
            await one.keep(name(10), entry(10))
            await one.store.client.config_set("maxmemory", 1)
            one._calls.put(Drop(key_of(name(10)), ASKED))
            for n in range(5):
                one.release(name(n))
                one.put(name(5 + n), entry(n), ttl_s=60, client="app")
            await one.settled()
            assert one.unkept == ["full"] * 5
            assert await one.store.client.keys(f"{PREFIX}:e:*") == []
            assert await one.store.client.keys(f"{PREFIX}:l:*") == []
            assert other.failed == []
            await one.store.client.config_set("maxmemory", 0)


@pytest.mark.parametrize("part", ["about", "used", "ends", "sums", "shares"])
async def test_clearing_mends_an_index_of_which_somebody_has_deleted_a_part(valkey_url, part):
    async with processes(valkey_url, 1, max_size=MB) as [one]:
        await fill(one, range(400), 1_000)
        await one.store.client.delete(f"{PREFIX}:{part}")
        await one.clear()
        assert (await one.stats()).bytes == (await one.stats()).entries == 0
        await fill(one, range(1_000, 1_300), 1_000)
        assert (await one.stats()).entries == 300
        assert one.unkept == []
