"""What a look-up and a new entry of the cache cost a worker and the store, by how many come in one turn of the loop.

CPU time of this process and of the store's main thread, sockets included, least of several rounds. Entries are 1,024
bytes long. A `miss` takes the lease; `put` stores the entry and gives the lease back. The last line: what one takes of
the store's memory, and of `max_size`.

    python benchmarks/cache_cost.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

from quotapool.cache.entry import Cost, Entry, Form
from quotapool.cache.secrets import CacheSecrets
from quotapool.cache.store import CacheStore, Found
from quotapool.store.store import Store, connect
from reserve_cost import own_store

AT_ONCE: Final = (1, 16, 64)
SIZE: Final = 1_024


def entry() -> Entry:
    """A chat's answer of SIZE bytes, in words that compress as prose does."""
    rng = random.Random(0)
    words = " ".join("".join(rng.choices("etaoinshrdlu", k=rng.randint(2, 9))) for _ in range(200))
    answer = {"id": "chatcmpl-1", "model": "gpt-4o", "choices": [{"message": {"role": "assistant", "content": words}}]}
    return Entry(Form.JSON, json.dumps(answer).encode()[:SIZE], "application/json", "gpt-4o", Cost(20, 200, 1_000_000))


async def store_us(store: Store) -> float:
    told = await store.client.info("cpu")
    return 1e6 * (told["used_cpu_user_main_thread"] + told["used_cpu_sys_main_thread"])


async def measured(store: Store, number: int, act: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Microseconds of this process and of the store for each of `number`."""
    before, started = await store_us(store), time.process_time()
    await act()
    mine = time.process_time() - started
    return 1e6 * mine / number, (await store_us(store) - before) / number


async def one_round(cache: CacheStore, store: Store, at_once: int, entries: int) -> dict[str, tuple[float, float]]:
    kept = entry()
    turns = [[b"%08d%08d" % (turn, n) for n in range(at_once)] for turn in range(entries // at_once)]

    async def look_up() -> None:
        for names in turns:
            await asyncio.gather(*(cache.look_up(name, max_age_s=None, lead=True) for name in names))

    async def put() -> None:
        for names in turns:
            for name in names:
                cache.put(name, kept, ttl_s=600, client="app")
            await cache.flush(5)

    costs = {}
    number = len(turns) * at_once
    for what, act in (("miss", look_up), ("put", put), ("hit", look_up)):
        costs[what] = await measured(store, number, act)
    last = await cache.look_up(turns[-1][-1], max_age_s=None, lead=False)
    assert isinstance(last, Found), "the entries were not kept"
    return costs


async def main(url: str, entries: int, rounds: int) -> None:
    store = connect(url, timeout_s=10.0)
    cache = CacheStore(store, "benchmark", CacheSecrets(bytes(32), "benchmark"), 2**30, patience_s=10.0)
    await cache.look_up(bytes(16), max_age_s=None, lead=False)
    print("| in one turn | | worker µs | store µs |\n|---|---|---|---|")
    for at_once in AT_ONCE:
        seen = []
        for _ in range(rounds):
            seen.append(await one_round(cache, store, at_once, entries))
            await cache.clear()
        for what in seen[0]:
            least = [min(costs[what][which] for costs in seen) for which in (0, 1)]
            print(f"| {at_once} | {what} | {least[0]:.1f} | {least[1]:.1f} |")
    before = (await store.client.info("memory"))["used_memory"]
    await one_round(cache, store, 64, 64 * -(-entries // 64))
    taken, stats = (await store.client.info("memory"))["used_memory"] - before, await cache.stats()
    print(f"an entry of {SIZE} bytes takes {taken / stats.entries:.0f} and counts {stats.bytes / stats.entries:.0f}")
    await cache.close()
    await store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=6_400)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    with own_store() as url:
        asyncio.run(main(url, asked.entries, asked.rounds))
