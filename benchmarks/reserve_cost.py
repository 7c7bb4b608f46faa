"""What a reserve costs in a pool of 10, 1,000 and 10,000 keys: the store's time and the proxy's own.

A request picks its candidates, reserves, and settles, as `pool/admission.py` and `request/path.py` do it; each key
is an account of its own, and all have been used before, so that the store holds a bucket for each. Sixty-four requests
are under way at a time. Once with room everywhere, and once with room nowhere, when each is refused.

    python benchmarks/reserve_cost.py                     # the table, and the ratios to the smallest pool
    python benchmarks/reserve_cost.py --calls 20000 --rounds 5

The script's time is what `INFO commandstats` says of EVALSHA, by the clock on the wall; the store's is the CPU time of
its main thread, network included; the proxy's this process's CPU time, the store's client included. Of several rounds,
taken in turns, the fastest counts: whatever else the machine does only adds.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quotapool.domain.access import Use
from quotapool.domain.observer import Observer
from quotapool.domain.pool import Key
from quotapool.domain.quantities import Cost
from quotapool.ledger.budgets import Candidate, Granted, Ledger
from quotapool.pool.admission import Admission
from quotapool.pool.configuration import Configuration, Snapshot
from quotapool.pool.roster import Roster
from quotapool.pool.sync import RosterSync
from quotapool.pool.want import Want
from quotapool.settings import Settings
from quotapool.store.store import connect
from quotapool.store.valkey_process import valkey_binary
from quotapool.upstream.client import UpstreamClient
from quotapool.upstream.credentials import Credentials
from quotapool.upstream.interface import Timeouts

GROUP = "gpt-4o"
AT_ONCE = 64
POOLS = (10, 1_000, 10_000)
TARGET = 1.2
SCENES = ("room", "none")


@dataclass
class Figures:
    """Microseconds a request, the least of all rounds."""

    script_us: float = float("inf")
    store_us: float = float("inf")
    proxy_us: float = float("inf")

    @property
    def all(self) -> tuple[float, float, float]:
        return self.script_us, self.store_us, self.proxy_us


@dataclass
class Bench:
    """One pool of `keys` keys in one store."""

    keys: int
    scene: str
    url: str
    figures: Figures = field(default_factory=Figures)

    async def open(self) -> None:
        secrets = {f"k{n}": f"acct-{n}" for n in range(self.keys)}
        limits = {"rpm": 1e9, "tpm": 1e12} | ({} if self.scene == "room" else {"rpd": 99.5})
        self.settings = Settings.model_validate({"limits": {"default": limits}})
        self.store = connect(self.url, timeout_s=5.0)
        observer = Observer()
        pool = f"bench-{self.scene}-{self.keys}"
        self.ledger = Ledger(self.store, pool, patience_s=30.0, observer=observer, on_headroom=self.note_headroom)
        known = [Key(key, account, f"fp-{key}") for key, account in secrets.items()]
        self.roster = Roster(self.settings, known)
        self.sync = RosterSync(self.roster, self.ledger, observer)
        nobody = UpstreamClient("http://127.0.0.1:9", Timeouts(1.0, 1.0, 1.0))  # is not called
        snapshot = Snapshot(self.settings, tuple(known), Credentials(secrets), nobody, {}, {})
        self.admission = Admission(Configuration(snapshot), self.sync, self.ledger, observer)
        await self.ledger.registry.begin_epoch(reseeded=False)
        await self.sync.refresh()
        await self.touch_all()

    def note_headroom(self, candidate: Candidate, group: str, share: float) -> None:
        self.roster.pool.note_headroom(candidate.place, group, share, time.time())

    async def touch_all(self) -> None:
        """Use each account once, as a pool that has been at work has; where there is to be no room, to the end."""
        requests = 1 if self.scene == "room" else 99
        keys = list(self.roster.pool.keys.values())
        for start in range(0, len(keys), AT_ONCE):
            some = [self.roster.candidate(key, GROUP) for key in keys[start : start + AT_ONCE]]
            await asyncio.gather(*(self.ledger.reserve(GROUP, Cost(requests, 10), [candidate]) for candidate in some))

    async def one(self) -> None:
        want = Want(GROUP, Use(GROUP), Cost(1, 500), may_try_resting=True, max_wait_s=0.0)
        answer = await self.admission.admit(want)
        if isinstance(answer, Granted):
            self.ledger.settle(answer, unused_tokens=100)

    async def round(self, calls: int) -> None:
        async def worker(count: int) -> None:
            for _ in range(count):
                await self.one()

        await worker(200)  # connections, caches
        await self.ledger.flush()
        await self.store.client.execute_command("CONFIG", "RESETSTAT")
        gc.collect()
        gc.disable()  # its pauses are the pool's size, but not a request's cost
        store_began, began = await self.store_cpu_s(), time.process_time()
        await asyncio.gather(*(worker(calls // AT_ONCE) for _ in range(AT_ONCE)))
        await self.ledger.flush()
        spent = time.process_time() - began
        gc.enable()
        store_spent = await self.store_cpu_s() - store_began
        stats = await self.store.client.info("commandstats")
        done = calls // AT_ONCE * AT_ONCE
        self.figures.script_us = min(self.figures.script_us, stats["cmdstat_evalsha"]["usec"] / done)
        self.figures.store_us = min(self.figures.store_us, store_spent * 1e6 / done)
        self.figures.proxy_us = min(self.figures.proxy_us, spent * 1e6 / done)

    async def store_cpu_s(self) -> float:
        told = await self.store.client.info("cpu")
        return float(told["used_cpu_user_main_thread"]) + float(told["used_cpu_sys_main_thread"])


@contextlib.contextmanager
def own_store() -> Iterator[str]:
    """A Valkey of this benchmark's own, without persistence."""
    with tempfile.TemporaryDirectory() as directory:
        socket = Path(directory, "s")
        process = subprocess.Popen(
            [str(valkey_binary()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no"],
            stdout=subprocess.DEVNULL,
        )
        try:
            while not socket.exists():
                time.sleep(0.01)
            yield f"unix://{socket}"
        finally:
            process.terminate()
            process.wait()


async def measure(pools: Sequence[int], calls: int, rounds: int) -> dict[str, list[Bench]]:
    with own_store() as url:
        found = {scene: [Bench(keys, scene, url) for keys in pools] for scene in SCENES}
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
    """A row a pool, with each figure beside its ratio to the smallest pool's; microseconds a request."""
    names = ("script", "store", "proxy")
    lines = [f"{'room':<6}{'keys':>7}" + "".join(f"{name + ' µs':>12}{'ratio':>7}" for name in names)]
    for scene, benches in found.items():
        for bench in benches:
            cells = "".join(
                f"{us:>12.1f}{us / least:>7.2f}"
                for us, least in zip(bench.figures.all, benches[0].figures.all, strict=True)
            )
            lines.append(f"{scene:<6}{bench.keys:>7,}{cells}")
    return lines


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--keys", type=int, nargs="*", default=POOLS)
    asked.add_argument("--calls", type=int, default=6_400, help="requests a round")
    asked.add_argument("--rounds", type=int, default=4, help="rounds of each pool; the fastest counts")
    options = asked.parse_args()
    found = asyncio.run(measure(options.keys, options.calls, options.rounds))
    print("\n".join(table(found)))
    print()
    for scene, benches in found.items():
        least = benches[0].figures
        ratios = [
            max(bench.figures.store_us / least.store_us, bench.figures.proxy_us / least.proxy_us) for bench in benches
        ]
        print(f"{scene}: the costliest is {max(ratios):.2f} times the smallest pool's (to be at most {TARGET})")


if __name__ == "__main__":
    main()
