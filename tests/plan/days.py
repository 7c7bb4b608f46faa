"""A day of a pool, lived by the real engine: request path, queues and scripts on a real store, in virtual time, before
an upstream with the simulator's own limiter. Its requests are recorded as the product does it, in the ring.

    calls = day(seed=1, hours=24)
    lived = await live(open_pool, calls, Upstreams.of(4, rpm=500, tpm=30_000))
    lived.demand, lived.waits, lived.refused, lived.pico
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from quotapool.domain.bucket import DIMENSIONS
from quotapool.domain.quantities import Limits
from quotapool.domain.request_record import RequestRecord
from quotapool.observe.kept_request import KeptRequest
from quotapool.observe.redaction import Redactor
from quotapool.observe.request_ring import RequestRing
from quotapool.observe.request_store import RequestStore
from quotapool.openai.head import Header
from quotapool.plan.demand import UNSEEN, Demand
from quotapool.plan.outcome import Waits
from quotapool.plan.scenario import PlanAccount, PlanClient, Scenario, corrects
from quotapool.plan.sources import ring as kept_requests
from quotapool.plan.sources.record import Collector, Known, Record
from quotapool.simulator.buckets import Budget, Gauge
from quotapool.simulator.config import Limits as UpstreamLimits
from quotapool.upstream.interface import Body

from tests.fakes.edge import Client, FakeAnswer, Reply, chat_answer, chat_body, error
from tests.fakes.heads import text
from tests.fakes.house import House

PROMPT_PICO, COMPLETION_PICO = 2_500_000, 10_000_000  # a token: $2.50 and $10 a million
_WAY_S = 0.003, 0.04  # from us to upstream
_KNOWN = Known(lambda model: model, lambda _client: 30.0, {}, lambda *_: None)

# ---- what clients ask for


@dataclass(frozen=True, slots=True)
class Call:
    """`at`: seconds from the day's beginning; `prompt` and `completion`: tokens that it really uses."""

    at: float
    client: str
    model: str
    reserved: int
    prompt: int
    completion: int
    took_s: float

    @property
    def pico(self) -> int:
        return self.prompt * PROMPT_PICO + self.completion * COMPLETION_PICO


@dataclass(frozen=True, slots=True)
class Habit:
    """How one client asks. `a_minute`: requests, on average; `burst`: so many at once. `reserved`: from and to."""

    client: str
    model: str
    a_minute: float
    reserved: tuple[int, int]
    burst: int = 1
    took_s: tuple[float, float] = (0.5, 8.0)
    evening: float = 0.8  # how far the day's curve swings


def day(habits: Sequence[Habit], seed: int, hours: float = 24.0) -> list[Call]:
    """Requests by chance, most in the middle of the day, fewest at its ends."""
    calls: list[Call] = []
    for number, habit in enumerate(habits):
        rng = random.Random(f"{seed} {number}")
        at, span = 0.0, hours * 3600
        most = habit.a_minute / 60 / habit.burst * (1 + habit.evening)
        while (at := at + rng.expovariate(most)) < span:
            now = 1 - habit.evening * math.cos(2 * math.pi * at / span)
            if rng.random() * (1 + habit.evening) > now:
                continue
            for _ in range(habit.burst):
                reserved = rng.randint(*habit.reserved)
                completion = round(reserved * rng.uniform(0.1, 0.9))
                prompt = rng.randint(20, 200)
                took_s = rng.uniform(*habit.took_s)
                calls.append(Call(at, habit.client, habit.model, reserved, prompt, completion, took_s))
    return sorted(calls, key=lambda call: call.at)


# ---- upstream


@dataclass(frozen=True)
class Upstreams:
    """Accounts and their limits, of every model alike. `corrects`: charges what was used in the end."""

    accounts: Mapping[str, UpstreamLimits]
    corrects: bool = False

    @classmethod
    def of(cls, accounts: int, *, corrects: bool = False, **limits: int) -> Upstreams:
        return cls({f"a{n}": UpstreamLimits(**limits) for n in range(1, accounts + 1)}, corrects)

    def and_also(self, **accounts: UpstreamLimits) -> Upstreams:
        return replace(self, accounts={**self.accounts, **accounts})

    def without(self, account: str) -> Upstreams:
        return replace(self, accounts={name: of for name, of in self.accounts.items() if name != account})


class _LimitedUpstream:
    """Implements `Upstream`: the simulator's limiter, and the answers that the day's calls have."""

    def __init__(self, of: Upstreams, house: House, calls: Sequence[Call]) -> None:
        self._of = of
        self._keys = {f"Bearer {secret}": house.account_of(key) for key, secret in house.secrets.items()}
        self._calls = calls
        self._rng = random.Random(0)
        self._budgets: dict[tuple[str, str], Budget] = {}
        self.open = 0
        self.refused = 0

    def share(self, other: _LimitedUpstream) -> None:
        """Two workers have one upstream."""
        self._budgets = other._budgets

    async def send(self, method: str, target: str, headers: Sequence[Header], body: Body) -> FakeAnswer:
        account = self._keys[dict(text(headers))["Authorization"]]
        call = self._calls[int(json.loads(body)["messages"][0]["content"])]
        await asyncio.sleep(self._rng.uniform(*_WAY_S))
        budget = self._budgets.get((account, call.model))
        if budget is None:
            limits = self._of.accounts[account]
            budget = self._budgets[account, call.model] = Budget(limits, time.monotonic())
        refusal = budget.admit(call.reserved, time.monotonic())
        rates = _rate_headers(budget.gauges(time.monotonic()))
        if refusal is not None:
            self.refused += 1
            wait_ms = f"{(refusal.wait_s or 1.0) * 1000:.0f}"
            reply = error(429, "rate_limit_exceeded", f"Rate limit reached on {refusal.dimension.phrase}.", "tokens")
            return self._answer(reply.named(retry_after_ms=wait_ms), rates)
        await asyncio.sleep(call.took_s)
        if self._of.corrects:
            budget.correct(call.reserved, call.prompt + call.completion, time.monotonic())
        return self._answer(chat_answer(call.prompt, call.completion), rates)

    def _answer(self, reply: Reply, rates: Mapping[str, str]) -> FakeAnswer:
        self.open += 1
        return FakeAnswer(self, reply.named(**rates))  # type: ignore[arg-type]  # it counts what is open, too

    async def close(self) -> None:
        """Nothing is open."""


def _rate_headers(gauges: Sequence[Gauge]) -> dict[str, str]:
    found = {}
    for gauge in gauges:
        for name, value in (("limit", gauge.limit), ("remaining", gauge.remaining), ("reset", f"{gauge.reset_s:.3f}s")):
            found[f"x_ratelimit_{name}_{gauge.kind}"] = str(value)
    return found


# ---- the day


@dataclass
class Lived:
    """What was measured, and what was recorded: `record` is the ring as `plan` reads it. `scenario`: the pool as the
    store shows it in the end."""

    demand: list[Demand] = field(default_factory=list)
    record: Record | None = None
    seconds: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)
    pico: int = 0
    refused_upstream: int = 0
    scenario: Scenario = field(default_factory=lambda: Scenario(()))

    @property
    def waits(self) -> Waits:
        return Waits.of(array("f", self.seconds))


async def live(
    open_pool: Any,
    calls: Sequence[Call],
    upstreams: Upstreams,
    *,
    workers: int = 1,
    clients: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Lived:
    """`clients`: options by id. Every worker is a process of its own to the store, as in the product."""
    names = sorted({call.client for call in calls})
    written = [{"id": name, "key": f"qp-client-{name:-<20}", **(clients or {}).get(name, {})} for name in names]
    options = {"limits": {}, "clients": written, "sticky": False, **options}
    houses = [await open_pool(dict.fromkeys(upstreams.accounts, 1), **options) for _ in range(workers)]
    ups = [_LimitedUpstream(upstreams, house, calls) for house in houses]
    for house, up in zip(houses, ups, strict=True):
        up.share(ups[0])
        house.configure(upstream=up)
    store = RequestStore(houses[0].store, houses[0].settings.pool)
    ring = RequestRing(store, 1_000_000, word=Redactor().word, dropped=lambda _: None)
    sending = asyncio.create_task(ring.run())
    lived, rng, tasks = Lived(), random.Random(1), set[asyncio.Task[None]]()
    began, wall = time.monotonic(), time.time()
    for number, call in enumerate(calls):
        delay = began + call.at - time.monotonic()
        if delay > 0:
            await asyncio.sleep(delay)
        task = asyncio.create_task(_ask(rng.choice(houses), ring, lived, number, call))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    while tasks:
        await asyncio.wait(tasks)
    sending.cancel()
    await ring.close()
    kept = [one async for one in _all_of(store)]
    assert len(kept) == len(calls)
    lived.demand = sorted((demand_of(one) for one in kept), key=lambda one: one.at)
    into = Collector()
    for one in kept:
        kept_requests.take(one, _KNOWN, into)
    lived.record = into.record("The ring")
    lived.refused_upstream = sum(up.refused for up in ups)
    lived.scenario = await _scenario(houses[0], workers)
    assert wall <= lived.demand[0].at
    return lived


async def _ask(house: House, ring: RequestRing, lived: Lived, number: int, call: Call) -> None:
    body = {"messages": [{"role": "user", "content": str(number)}]}
    client = Client(chat_body(call.model, call.reserved, **body), key=f"qp-client-{call.client:-<20}")
    record = RequestRecord(f"qp_{number}", time.monotonic(), client.method)
    await house.serve(client, record)
    record.ended = time.monotonic()
    record.status = client.status
    if client.status == 200:
        lived.seconds.append(record.queued_s)
        record.pico = call.pico
        lived.pico += call.pico
    else:
        record.code = client.error["code"]
        lived.refused[record.code] += 1
    ring.keep(record, record.total_s, record.overhead_s)


async def _all_of(store: RequestStore) -> Any:
    for one in await store.latest(1_000_000):
        yield one


def demand_of(kept: KeptRequest) -> Demand:
    asked = kept.asked_for
    assert asked is not None
    tokens = kept.prompt + kept.completion if kept.certainty == "exact" else UNSEEN
    took_s = kept.attempts[-1].took_us / 1e6 if kept.attempts else 0.0
    pico = kept.pico if tokens >= 0 else None
    return Demand(kept.at, kept.client, kept.model, "", asked.tokens, tokens, 0, took_s, pico, asked.priority)


async def _scenario(house: House, workers: int) -> Scenario:
    _, buckets = await house.ledger.stored.all()
    limits: dict[str, dict[str, Limits]] = {}
    charging: dict[str, dict[str, bool]] = {}
    for (account, group), bucket in buckets.items():
        learned = {d.value: x for d, x in zip(DIMENSIONS, bucket.learned, strict=True) if 0 <= x < math.inf}
        limits.setdefault(account, {})[group] = Limits(**learned)
        if (known := corrects(bucket)) is not None:
            charging.setdefault(account, {})[group] = known
    settings = house.settings
    return Scenario(
        tuple(
            PlanAccount(name, limits[name], tuple(key.id for key in account.keys), corrects=charging.get(name, {}))
            for name, account in house.roster.pool.accounts.items()
        ),
        {client.id: PlanClient(client.weight, client.max_wait) for client in settings.clients},
        max_wait_s=settings.queue.max_wait,
        max_waiting=settings.queue.max_waiting,
        batch_leaves=settings.queue.batch_leaves,
        processes=workers,
    )
