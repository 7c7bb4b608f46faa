"""What a reserve costs in a pool of 10, 1,000 and 10,000 keys: the store's time and the proxy's own.

A request picks its candidates, reserves, and settles, as `proxy/admission.py` and `proxy/pipeline.py` do it; each key
is an account of its own, and all have been used before, so that the store holds a bucket for each. Sixty-four requests
are under way at a time. Once with room everywhere, and once with one budget in ten left, where refusals bring hints.

    python benchmarks/reserve_cost.py                     # the table, and the ratios to the smallest pool
    python benchmarks/reserve_cost.py --calls 20000 --rounds 5

The store's time is `INFO commandstats`' for EVALSHA; the proxy's is this process's CPU time, the store's client
included. Of several rounds, taken in turns, the fastest counts: whatever else the machine does only adds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import random
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from proxy.admission import Admission, NoRoom, Want
from proxy.domain.pool import Key
from proxy.domain.quantities import Cost
from proxy.ledger.connection import connect
from proxy.ledger.ledger import Ledger
from proxy.ledger.valkey_process import valkey_binary
from proxy.roster import Roster
from proxy.settings import Settings

GROUP = "gpt-4o"
AT_ONCE = 64
POOLS = (10, 1_000, 10_000)
TARGET = 1.2
SCENES = ("room", "short")


class Nobody:
    """All observers, with nothing to say."""

    def __getattr__(self, _: str):
        return lambda *_, **__: None


@dataclass
class Figures:
    """Microseconds a request, the least of all rounds; `granted`: the share of requests that found room."""

    store_us: float = float("inf")
    proxy_us: float = float("inf")
    granted: float = 0.0


@dataclass
class Bench:
    """One pool of `keys` keys in one store."""

    keys: int
    scene: str
    url: str
    figures: Figures = field(default_factory=Figures)

    async def open(self) -> None:
        secrets = {f"k{n}": f"acct-{n}" for n in range(self.keys)}
        # Room: limits nobody reaches. Short: a tenth of the requests of one round, for the whole pool and a day.
        limits = {"rpm": 1e9, "tpm": 1e12} if self.scene == "room" else {"rpm": 60_000, "tpm": 1e12}
        self.settings = Settings.model_validate({"limits": {"default": limits}})
        self.store = connect(self.url, timeout_s=5.0)
        observer = Nobody()
        pool = f"bench-{self.scene}-{self.keys}"
        self.ledger = Ledger(self.store, pool, patience_s=30.0, observer=observer, on_headroom=self.heard)
        known = [Key(key, account, f"fp-{key}") for key, account in secrets.items()]
        self.roster = Roster(self.ledger, self.settings, known, observer)
        self.admission = Admission(self.roster, self.ledger, max_waiting=0, observer=observer)
        await self.ledger.begin_epoch(reseeded=False)
        await self.roster.refresh()
        await self.touch_all()

    def heard(self, account: str, group: str, share: float) -> None:
        self.roster.pool.heard(account, group, share, time.time())

    async def touch_all(self) -> None:
        """Use each account once, as a pool that has been at work has; where it is short, nine in ten to the end."""
        rng = random.Random(1)
        asking = []
        for key in self.roster.pool.keys.values():
            candidate = self.roster.candidate(key, GROUP)
            empty = self.scene == "short" and rng.random() < 0.9
            asking.append(self.ledger.reserve(GROUP, Cost(58_000 if empty else 1, 10), [candidate]))
            if len(asking) == AT_ONCE:
                await asyncio.gather(*asking)
                asking.clear()
        await asyncio.gather(*asking)
        for account in list(self.roster.pool.accounts)[:: max(1, self.keys // 1_000)]:
            self.heard(account, GROUP, 0.5)

    async def one(self) -> bool:
        # In the short pool each asks for ten seconds of an account's refill: the full ones give, the others refuse.
        cost = Cost(1, 500) if self.scene == "room" else Cost(10_000, 500)
        want = Want(GROUP, GROUP, cost, replayable=True, max_wait_s=0.0)
        try:
            granted = await self.admission.admit(want)
        except NoRoom:
            return False
        if self.scene == "room":
            self.ledger.settle(granted, unused_tokens=100)
        else:
            self.ledger.give_back(granted)  # so that the pool stays as it is
        return True

    async def round(self, calls: int) -> None:
        async def worker(count: int) -> int:
            return sum([await self.one() for _ in range(count)])

        await worker(200)  # connections, caches
        await self.ledger.flush()
        await self.store.client.execute_command("CONFIG", "RESETSTAT")
        gc.collect()
        gc.disable()  # its pauses are the pool's size, but not a request's cost
        began = time.process_time()
        found = await asyncio.gather(*(worker(calls // AT_ONCE) for _ in range(AT_ONCE)))
        await self.ledger.flush()
        spent = time.process_time() - began
        gc.enable()
        stats = await self.store.client.info("commandstats")
        done = calls // AT_ONCE * AT_ONCE
        self.figures.store_us = min(self.figures.store_us, stats["cmdstat_evalsha"]["usec"] / done)
        self.figures.proxy_us = min(self.figures.proxy_us, spent * 1e6 / done)
        self.figures.granted = sum(found) / done


@contextlib.asynccontextmanager
async def own_store() -> AsyncIterator[str]:
    """A Valkey of this benchmark's own, without persistence."""
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory, "s")
        process = await asyncio.create_subprocess_exec(
            *(str(valkey_binary()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"),
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            while not socket.exists():
                await asyncio.sleep(0.01)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            await process.wait()


async def measure(calls: int, rounds: int) -> dict[str, list[Bench]]:
    async with own_store() as url:
        found = {scene: [Bench(keys, scene, url) for keys in POOLS] for scene in SCENES}
        for benches in found.values():
            for bench in benches:
                await bench.open()
            for _ in range(rounds):
                for bench in benches:
                    await bench.round(calls)
            for bench in benches:
                await bench.store.close()
        return found


def table(found: dict[str, list[Bench]]) -> list[str]:
    lines = [f"{'scene':<8}{'keys':>8}{'store µs':>12}{'ratio':>8}{'proxy µs':>12}{'ratio':>8}{'granted':>10}"]
    for scene, benches in found.items():
        least = benches[0].figures
        for bench in benches:
            f = bench.figures
            store, proxy = f.store_us / least.store_us, f.proxy_us / least.proxy_us
            lines.append(
                f"{scene:<8}{bench.keys:>8,}{f.store_us:>12.1f}{store:>8.2f}{f.proxy_us:>12.1f}{proxy:>8.2f}"
                f"{f.granted:>10.0%}"
            )
    return lines


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--calls", type=int, default=6_400, help="requests a round")
    asked.add_argument("--rounds", type=int, default=4, help="rounds of each pool; the fastest counts")
    options = asked.parse_args()
    found = asyncio.run(measure(options.calls, options.rounds))
    print("\n".join(table(found)))
    room = found["room"]
    worst = max(
        max(b.figures.store_us / room[0].figures.store_us, b.figures.proxy_us / room[0].figures.proxy_us) for b in room
    )
    print(f"\nwith room, the costliest is {worst:.2f} times the smallest pool's (to be at most {TARGET})")


if __name__ == "__main__":
    main()
