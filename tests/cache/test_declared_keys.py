"""The cache's script touches only keys that it declares where a store insists on it, and works in a Cluster."""

from __future__ import annotations

import asyncio
import os
import random

from quotapool.cache.entry import Entry, Form
from quotapool.cache.store import LEAD

from tests.fakes.caches import PREFIX, Process, entry, name, processes, served
from tests.fakes.cluster import SlotMove, cluster
from tests.fakes.strict_store import strict_store

MB = 2**20


async def anything(made: list[Process], rng: random.Random) -> None:
    one, n = rng.choice(made), rng.randrange(400)
    action = rng.choice(["ask"] * 5 + ["put"] * 4 + ["items", "release", "renew", "clear", "long"])
    if action == "ask":
        await one.ask(name(n), max_age_s=rng.choice([None, 0.01]), lead=rng.random() < 0.8)
    elif action == "put":
        one.put(name(n), entry(n, rng.choice([100, 9_000])), ttl_s=rng.choice([0.01, 60]), client=rng.choice("ab"))
    elif action == "long":
        one.put(name(n), Entry(Form.JSON, os.urandom(100_000)), ttl_s=60, client="a")
    elif action == "items":
        await one.look_up_items([name(rng.randrange(400)) for _ in range(80)], max_age_s=None)
    elif action == "release":
        one.release(name(n))
    elif action == "renew":
        one.renew()
    else:
        await one.clear(client=rng.choice("ab"), model=rng.choice([None, "gpt-4o"]))


async def test_whatever_is_done_only_declared_keys_are_touched(valkey_url, tmp_path):
    async with strict_store(valkey_url, tmp_path) as strict, processes(strict.url, max_size=MB) as made:
        rng = random.Random(5)
        for _ in range(150):
            await asyncio.gather(*(anything(made, rng) for _ in range(8)))
        stats = await made[0].stats()
        assert stats.evicted > 0
        assert stats.expired > 0
        # Each process was refused once, at the first key that is read, and told the store its keys from then on
        assert set(strict.refused) == {f"{PREFIX}:clock"}
        assert len(strict.refused) <= 3
        assert [one.failed for one in made] == [[], []]


async def test_in_a_cluster_also_while_the_slot_moves(tmp_path):
    async with cluster(tmp_path) as nodes:
        first, second, *_ = nodes
        url = f"redis+cluster://127.0.0.1:{first},127.0.0.1:{second}"
        async with processes(url) as [one, other]:
            assert await one.ask(name(0)) == LEAD
            for n in range(40):
                await one.keep(name(n), entry(n))
            long = Entry(Form.JSON, os.urandom(MB))
            await one.keep(name(40), long)
            assert served(await other.ask(name(40))) == long
            move = SlotMove(nodes, f"{{{PREFIX[4:-1]}}}")
            move.begin()
            move.move_keys(20)
            during = [await other.ask(name(n), lead=False) for n in range(40)]  # found or missed, and nothing raised
            while move.move_keys():
                pass
            move.end()
            for each in (one, other):
                each._calls._rests_until = 0.0  # as a second later
                await each.ask(name(99), lead=False)
                each._calls._rests_until = 0.0
            assert [served(await other.ask(name(n))) for n in range(40)] == [entry(n) for n in range(40)]
            assert all(served(outcome) in {None, entry(n)} for n, outcome in enumerate(during))
            assert (await one.stats()).entries == 41
            assert await other.clear() == 41
