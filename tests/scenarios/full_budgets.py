"""The figures of merit with real processes: what a pool at its limit uses, what upstream refuses, who waits how long.

Buckets are drained first, by offering far more than they hold; the window that is measured begins with nearly empty
ones. What was possible is the refill of the dimension that binds, less what others took.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.fakes.processes import Simulator

MODEL = "gpt-4o-mini"
ACCOUNTS, RPM, TPM = 10, 60, 40_000
COMPLETION_TOKENS = 1_500  # of an answer that its max_tokens does not cut shorter
SPEED = 400  # tokens a second
LATENCY_S = 0.15  # before the first byte
DRAIN_S, SETTLE_S = 25.0, 15.0
AFTER_THE_FLOOD_S = 60.0  # with 95 % offered, buckets are slow to gain room for one large request each
TPM_SIZES = (500, 1_000, 2_000, 4_000)
OTHERS_TOKENS = 1_000  # of each request by somebody else


@dataclass(frozen=True, slots=True)
class Case:
    """`bound`: rpm or tpm; `offered`: load as a share of the budget; `others`: the share of three accounts' tokens (or
    requests) that somebody else takes, unannounced."""

    bound: str
    charging: str = "keep"
    offered: float = 1.5
    others: float = 0.0
    seconds: float = 300.0
    max_wait: str = "10s"


@dataclass(slots=True)
class Ask:
    """One request of a client: when it was sent and its answer began (monotonic), and how that ended."""

    sent: float
    answered: float = 0.0
    status: int | str = 0


@dataclass(slots=True)
class Figures:
    """What the window showed. `left`: what the buckets held when it began, as a share of their limits. `waits`: seconds
    until the answer began, less upstream's own time, sorted."""

    used: float
    left: float
    attempts: int
    refused_upstream: int
    clients: Counter[int | str]
    waits: list[float]

    @property
    def share_refused(self) -> float:
        return self.refused_upstream / max(1, self.attempts)

    def wait(self, quantile: float) -> float:
        return self.waits[int(len(self.waits) * quantile)] if self.waits else 0.0

    def __str__(self) -> str:
        refused = f"{self.refused_upstream} of {self.attempts} ({self.share_refused:.3%})"
        waits = f"p50 {self.wait(0.5):.2f} s, p99 {self.wait(0.99):.2f} s"
        return (
            f"used {self.used:.2%} (began at {self.left:.1%}), upstream refused {refused}, wait {waits}, "
            f"clients saw {dict(self.clients)}"
        )


def start_upstream(case: Case) -> Simulator:
    """Ten accounts of one key each."""
    options = {
        "rpm": RPM,
        "tpm": TPM,
        "charging": case.charging,
        "latency-ms": LATENCY_S * 1000,
        "tokens-per-second": SPEED,
        "completion-tokens": COMPLETION_TOKENS,
    }
    return Simulator.start(ACCOUNTS, *(word for name, value in options.items() for word in (f"--{name}", str(value))))


def sizes(case: Case, rng: random.Random) -> Iterator[int]:
    """max_tokens, in a random order that brings each about equally often within any dozen requests: what is offered is
    then the same share of the budget in any minute. RPM-bound: small ones."""
    choice = tuple(range(50, 500, 75)) if case.bound == "rpm" else TPM_SIZES
    while True:
        yield from rng.sample(choice, len(choice))


def body_of(most: int, rng: random.Random) -> dict[str, Any]:
    """A chat with a prompt of some length; every second one a stream."""
    messages = [{"role": "user", "content": "x" * rng.randint(20, 800)}]
    return {"model": MODEL, "messages": messages, "max_tokens": most, "stream": rng.random() < 0.5}


def capacity(case: Case) -> float:
    """Requests a second that the budget has room for: a minute's limit by the mean cost of `body_of`."""
    if case.bound == "rpm":
        return ACCOUNTS * RPM / 60
    prompt = 140  # tokens: 410 letters on average, and what the message is wrapped in
    used = [min(most, COMPLETION_TOKENS) + prompt for most in TPM_SIZES]
    mean = sum(TPM_SIZES if case.charging == "keep" else used) / len(TPM_SIZES)
    return ACCOUNTS * TPM / 60 / mean


@dataclass
class Driver:
    """Clients that offer a load in open loop, and somebody else on three of the accounts."""

    case: Case
    urls: Sequence[str]
    simulator: Simulator
    asks: list[Ask] = field(default_factory=list)
    others: list[tuple[float, int]] = field(default_factory=list)  # (when, status)
    rng: random.Random = field(default_factory=lambda: random.Random(1))

    def __post_init__(self) -> None:
        self.sizes = sizes(self.case, self.rng)

    def run(self) -> Figures:
        return asyncio.run(self._run())

    async def _run(self) -> Figures:
        timeout = aiohttp.ClientTimeout(total=120)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            elsewhere = [asyncio.create_task(self._other(session, i)) for i in range(3 if self.case.others else 0)]
            tasks: set[asyncio.Task[None]] = set()
            rate = capacity(self.case)
            await self._offer(session, tasks, rate * 4, DRAIN_S, {"x-quotapool-max-wait": "0"})
            settle_s = SETTLE_S if self.case.offered > 1 else AFTER_THE_FLOOD_S
            await self._offer(session, tasks, rate * self.case.offered, settle_s, {})
            start, before = await self._look()
            await self._offer(session, tasks, rate * self.case.offered, self.case.seconds, {})
            end, after = await self._look()
            for task in elsewhere:
                task.cancel()
            await asyncio.wait(tasks)
        return self._figures(start, before, end, after)

    async def _look(self) -> tuple[float, list[dict[str, Any]]]:
        return time.monotonic(), (await asyncio.to_thread(self.simulator.stats))["accounts"]

    async def _offer(
        self,
        session: aiohttp.ClientSession,
        tasks: set[asyncio.Task[None]],
        rate: float,
        seconds: float,
        headers: dict[str, str],
    ) -> None:
        """Requests at somewhat random moments, `rate` a second."""
        until = due = time.monotonic()
        until += seconds
        while (due := due + self.rng.uniform(0.2, 1.8) / rate) < until:
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            task = asyncio.create_task(self._ask(session, self.urls[len(self.asks) % len(self.urls)], headers))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.sleep(max(0.0, until - time.monotonic()))

    async def _ask(self, session: aiohttp.ClientSession, url: str, headers: dict[str, str]) -> None:
        body = body_of(next(self.sizes), self.rng)
        ask = Ask(time.monotonic())
        self.asks.append(ask)
        try:
            async with session.post(f"{url}/chat/completions", json=body, headers=headers) as answer:
                ask.answered, ask.status = time.monotonic(), answer.status
                if not body["stream"]:
                    ask.answered -= min(body["max_tokens"], COMPLETION_TOKENS) / SPEED
                await answer.read()
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            ask.status = type(error).__name__

    async def _other(self, session: aiohttp.ClientSession, index: int) -> None:
        """Somebody else, with the account's own key."""
        tokens = OTHERS_TOKENS if self.case.bound == "tpm" else 100
        rate = self.case.others * (TPM / 60 / tokens if self.case.bound == "tpm" else RPM / 60)
        body = {"model": MODEL, "messages": [], "max_tokens": tokens}
        headers = {"Authorization": f"Bearer {self.simulator.secrets[index]}"}
        answers: set[asyncio.Task[None]] = set()

        async def one() -> None:
            moment = time.monotonic()
            async with session.post(f"{self.simulator.url}/v1/chat/completions", json=body, headers=headers) as answer:
                await answer.read()
                self.others.append((moment, answer.status))

        while True:
            await asyncio.sleep(self.rng.expovariate(rate))
            task = asyncio.create_task(one())
            answers.add(task)
            task.add_done_callback(answers.discard)

    def _figures(self, start: float, before: list[Any], end: float, after: list[Any]) -> Figures:
        others = Counter(status for moment, status in self.others if start <= moment < end)

        def grown(name: str) -> int:
            return sum(_total(late[name]) - _total(early[name]) for early, late in zip(before, after, strict=True))

        admitted, refused = grown("admitted") - others[200], grown("refused") - others[429]
        if self.case.bound == "rpm":
            kind, limit, taken, by_others = "requests", RPM, admitted, others[200]
        else:
            tokens = grown("charged_tokens" if self.case.charging == "keep" else "total_tokens")
            by_others = others[200] * OTHERS_TOKENS
            kind, limit, taken = "tokens", TPM, tokens - by_others
        left = sum(
            gauge["remaining"] for a in before for gauges in a["buckets"].values() for gauge in gauges
            if gauge["kind"] == kind
        )  # fmt: skip
        possible = ACCOUNTS * limit / 60 * (end - start) - by_others
        mine = [ask for ask in self.asks if start <= ask.sent < end]
        return Figures(
            taken / possible,
            left / ACCOUNTS / limit,
            admitted + refused,
            refused,
            Counter(ask.status for ask in mine),
            sorted(ask.answered - ask.sent - LATENCY_S for ask in mine if ask.status == 200),
        )


def _total(count: int | dict[str, int]) -> int:
    return sum(count.values()) if isinstance(count, dict) else count
