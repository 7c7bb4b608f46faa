"""A client's budget in dollars under all that may go wrong: what is booked beside what upstream bills."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
from quotapool.simulator.billing import simulated_session_secret
from redis import Redis
from redis.exceptions import RedisError

from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until
from tests.fakes.valkey import start_valkey, stop_valkey
from tests.scenarios.bookkeeping import upstream_sum

KEY = "a-client-key-of-our-own"
PICO = 10**12
MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-4.1")
CHAT = "/chat/completions"


@dataclass(slots=True)
class Figures:
    """Dollars. `most_booked`: the most that was ever used and held at once."""

    limit: float
    booked: float
    billed: float
    held: float
    most_booked: float
    ends: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        return (
            f"limit ${self.limit:.6f}, booked ${self.booked:.6f} ({self.booked / self.limit:.2%}), "
            f"billed ${self.billed:.6f}, still held ${self.held:.6f}, most at once ${self.most_booked:.6f}, "
            f"answers {dict(self.ends)}, refusals {dict(self.refused)}"
        )


@dataclass(slots=True)
class Trial:
    """`replicas` proxies, `concurrent` requests at a time for `seconds` on a budget of `usd`."""

    usd: float
    seconds: float
    replicas: int = 4
    concurrent: int = 200
    worker_kills: int = 0
    store_kills: int = 0
    faults: bool = True
    seed: int = 1

    def run(
        self,
        start_simulator: Callable[..., Simulator],
        start_proxy: Callable[..., RunningProxy],
        directory: Path,
    ) -> Figures:
        simulator = start_simulator(8, "--rpm", "200000", "--tpm", "0", "--latency-ms", "30")
        persistent = ("--appendonly", "yes", "--appendfsync", "always")
        process, url = start_valkey(directory, *persistent)
        try:
            client = {"id": "app", "key": KEY, "budgets": [{"usd": self.usd, "per": "total"}], "max_wait": "2s"}
            config = pool_config(
                simulator, redis=url, clients=[client], finish_cut_streams=True, on_redis_loss="refuse"
            )
            proxies = [start_proxy(config) for _ in range(self.replicas)]
            ends, refused, most = Counter[str](), Counter[str](), [0.0]
            store = [process]

            async def everything() -> None:
                load = asyncio.create_task(self._load([proxy.base_url for proxy in proxies], ends, refused))
                watch = asyncio.create_task(self._watch(url, most))
                trouble = asyncio.create_task(self._trouble(simulator, proxies, store, directory, persistent))
                await load
                await trouble
                watch.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await watch

            asyncio.run(everything())
            wait_until(lambda: upstream_sum(simulator, "open_streams") == 0, "upstream's streams end", 30)
            wait_until(
                lambda: not any(proxy.total("quotapool_requests_in_flight") for proxy in proxies), "all ended", 30
            )
            if not self.worker_kills:
                wait_until(lambda: standing(url)[1] == 0, "nothing is held", 20)
            else:
                time.sleep(18)  # in which what the dead held comes back, with the next request
                asyncio.run(self._load([proxies[0].base_url], Counter(), Counter(), seconds=0.1, concurrent=1))
                wait_until(lambda: standing(url)[1] == 0, "nothing is held", 20)
            restarts = sum(proxy.total("quotapool_worker_restarts_total") for proxy in proxies)
            assert restarts == self.worker_kills, restarts
            booked, held = standing(url)
            figures = Figures(self.usd, booked, bill(simulator), held, max(most[0], booked + held), ends, refused)
            for proxy in proxies:
                assert proxy.stop() == 0
            return figures
        finally:
            stop_valkey(store[0])

    async def _load(
        self,
        urls: list[str],
        ends: Counter[str],
        refused: Counter[str],
        seconds: float | None = None,
        concurrent: int | None = None,
    ) -> None:
        until = time.monotonic() + (self.seconds if seconds is None else seconds)
        timeout = aiohttp.ClientTimeout(total=120)
        headers = {"Authorization": f"Bearer {KEY}"}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:

            async def one(number: int) -> None:
                rng = random.Random(self.seed * 1000 + number)
                while time.monotonic() < until:
                    await self._one(session, urls[number % len(urls)], rng, ends, refused)

            await asyncio.gather(*(one(n) for n in range(concurrent or self.concurrent)))

    async def _one(
        self, session: aiohttp.ClientSession, url: str, rng: random.Random, ends: Counter[str], refused: Counter[str]
    ) -> None:
        streams = rng.random() < 0.4
        leaves = streams and rng.random() < 0.3
        body = {
            "model": rng.choice(MODELS),
            "messages": [{"role": "user", "content": "word " * rng.randint(1, 400)}],
            "max_tokens": rng.randint(1, 400),
            "stream": streams,
        }
        try:
            async with session.post(url + CHAT, json=body) as answer:
                if leaves and answer.status == 200:
                    await answer.content.readany()
                    answer.close()
                    ends["left"] += 1
                    return
                whole = await answer.read()
                ends[str(answer.status)] += 1
                if answer.status != 200:
                    error = msgspec.json.decode(whole)["error"]
                    refused[str(error["code"])] += 1
                    await asyncio.sleep(0.2)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            ends[type(error).__name__] += 1
            await asyncio.sleep(0.2)

    async def _watch(self, url: str, most: list[float]) -> None:
        while True:
            with contextlib.suppress(RedisError):
                most[0] = max(most[0], sum(await asyncio.to_thread(standing, url)))
            await asyncio.sleep(0.05)

    async def _trouble(
        self,
        simulator: Simulator,
        proxies: list[RunningProxy],
        store: list,
        directory: Path,
        persistent: tuple[str, ...],
    ) -> None:
        """One after another, while there is something left of the budget."""
        what = ["worker"] * self.worker_kills + ["store"] * self.store_kills + ["fault"] * (8 if self.faults else 0)
        rng = random.Random(self.seed)
        rng.shuffle(what)
        for kind in what:
            await asyncio.sleep(0.4 * self.seconds / (len(what) + 1))
            if kind == "worker":
                pids = await asyncio.to_thread(rng.choice(proxies).worker_pids)
                os.kill(rng.choice(list(pids)), signal.SIGKILL)
            elif kind == "store":
                stop_valkey(store[0])
                store[0], _ = await asyncio.to_thread(start_valkey, directory, *persistent)
            else:
                name = rng.choice(["error_500", "insufficient_quota", "overloaded_503"])
                await asyncio.to_thread(simulator.fault, rng.randrange(8), name, count=30)


def standing(url: str) -> tuple[float, float]:
    """Dollars used of the client's budget, and held of it, as the store has them."""
    client: Redis = Redis.from_url(url, socket_timeout=2)
    try:
        raw = client.get("qp:{default}:rules:c/app")
        assert raw is None or isinstance(raw, bytes)
        if raw is None:
            return 0.0, 0.0
        counters, held = msgspec.msgpack.decode(raw)
        used = counters["usd/total"][0] if counters else 0.0
        amounts = sum(worker[2].get("usd/total", 0.0) for worker in held.values() if worker[2]) if held else 0.0
        return used / PICO, amounts / PICO
    finally:
        client.close()


def bill(simulator: Simulator) -> float:
    """Dollars that upstream bills all accounts."""
    total = 0.0
    for account in simulator.stats()["accounts"]:
        headers = {"Authorization": f"Bearer {simulated_session_secret(account['id'])}"}
        days = "start_date=2020-01-01&end_date=2100-01-01"
        status, text = fetch(f"{simulator.url}/v1/dashboard/billing/usage?{days}", headers=headers)
        assert status == 200, text
        total += msgspec.json.decode(text)["total_usage"] / 100
    return total
