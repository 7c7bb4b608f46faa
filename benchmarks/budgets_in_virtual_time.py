"""Hours of load on a pool in virtual time: does it use what it has, does upstream refuse, who waits for how long?

Two programs that share no code are played against each other: ours (the bucket's arithmetic, which is the
specification of the Lua script, the pick of accounts and the fair queue, all of `quotapool.domain`) and the simulated
upstream's own limiter (`quotapool.simulator.buckets`). Between them: network delays, answers of different lengths, two
ways of charging, other users of the same accounts, lost answers. The queue is served as `quotapool/pool/admission.py`
does it. All replicas share one ledger, so that one queue stands for any number of them.

    python benchmarks/budgets_in_virtual_time.py            # the tables of docs/budgets.md
    python benchmarks/budgets_in_virtual_time.py --seconds 36000 --seeds 3
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import itertools
import random
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from quotapool.domain.access import Use
from quotapool.domain.bucket import DIMENSIONS, Bucket, Evidence, Moment
from quotapool.domain.fair_queue import FairQueue
from quotapool.domain.pool import Key, Pool
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.simulator.buckets import Budget
from quotapool.simulator.config import Limits as UpstreamLimits

MODELLED = {Dimension.RPM: "requests", Dimension.TPM: "tokens"}
GROUP = "model"
HEADS, LONG_S, LONGEST_NAP_S, SHORTEST_NAP_S = 4, 0.25, 1.0, 0.002  # as in proxy/quotapool/pool/admission.py
HINTS = 8
MAX_WAITING = 1_000
WARM_UP_S = 120.0
TPM_SIZES = (500, 1_000, 2_000, 4_000)
SOMEBODY = "somebody"


@dataclass(frozen=True, slots=True)
class Case:
    """One run. Times in seconds.

    `load`: rpm (small requests), tpm (large ones) or mixed (chats, streams, embeddings, long contexts). `offered`: a
    share of the budget, at random moments; 0: always more than fits. `burst`: every twentieth arrival brings so many at
    once. `others`: the share of three accounts that somebody else takes. `lost`: the share of answers whose headers
    never reach us. `greedy`: twenty clients, one of which offers a hundred times what each other one does. `big`: every
    eighth account has limits so many times as high.
    """

    charging: str  # keep | correct
    load: str
    others: float = 0.0
    lost: float = 0.0
    offered: float = 0.0
    burst: int = 1
    greedy: bool = False
    accounts: int = 10
    big: int = 1
    rpm: int = 60
    tpm: int = 40_000
    seconds: float = 3600.0
    warm_up: float = WARM_UP_S
    delay: tuple[float, float] = (0.003, 0.04)
    seed: int = 1

    def size(self, account: int) -> int:
        return self.big if account % 8 == 0 else 1

    @property
    def size_of_all(self) -> int:
        return sum(map(self.size, range(self.accounts)))


@dataclass(frozen=True, slots=True)
class Request:
    estimate: int
    used: int
    first_byte: float
    duration: float


@dataclass(slots=True, eq=False)
class Waiter:
    request: Request
    arrived: float
    client: str


@dataclass(slots=True)
class Outcome:
    """Counts of the time after the warm-up. `asked` and `served`: requests by client."""

    admitted: int = 0
    refused: int = 0
    charged: float = 0.0
    tokens_of_others: float = 0.0
    requests_of_others: int = 0
    waits: list[float] = field(default_factory=list)
    asked: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    full: int = 0  # arrivals that found the queue full

    @property
    def share_refused(self) -> float:
        return self.refused / max(1, self.admitted + self.refused)

    def used(self, case: Case) -> float:
        """What was used of the refill of the dimension that binds, less what others took."""
        window = case.size_of_all * (case.seconds - case.warm_up) / 60
        if case.load == "rpm":
            return self.admitted / (window * case.rpm - self.requests_of_others)
        return self.charged / (window * case.tpm - self.tokens_of_others)

    def wait(self, quantile: float) -> float:
        waits = sorted(self.waits)
        return waits[int(len(waits) * quantile)] if waits else 0.0


def requests(load: str, rng: random.Random) -> Iterator[Request]:
    """Of all lengths; estimates are mostly above the usage, as they are where they come from max_tokens. But where an
    answer uses all of that, its prompt comes on top."""
    sizes: list[int] = []
    while True:
        sizes = sizes or rng.sample(TPM_SIZES, len(TPM_SIZES))  # each equally often, in any stretch of time
        part, kind = rng.uniform(0.05, 1.0), rng.random()
        if load == "rpm":
            estimate, part = rng.randint(50, 500), rng.uniform(0.2, 1.0)
        elif load == "tpm":
            estimate = sizes.pop()
            part = min(1.0, 1500 / estimate) + rng.randint(5, 200) / estimate
        elif kind < 0.15:  # embeddings
            yield Request(estimate := rng.randint(50, 500), estimate, 0.1, 0.1)
            continue
        elif kind < 0.2:  # a long context
            estimate, part = rng.randint(10_000, 30_000), rng.uniform(0.8, 1.0)
        else:
            estimate = rng.randint(200, 4000)
        duration = rng.choice((0.3, 1.0, 3.0, 10.0))
        yield Request(estimate, int(estimate * part), min(duration, 0.4) if rng.random() < 0.5 else duration, duration)


@lru_cache
def mean_tokens(charging: str, load: str) -> float:
    """What a request is charged on average."""
    sample = itertools.islice(requests(load, random.Random(0)), 200_000)
    return statistics.fmean(r.estimate if charging == "keep" else r.used for r in sample)


def capacity(case: Case) -> float:
    """Requests a second that all accounts together have room for."""
    return case.size_of_all / 60 * min(case.rpm, case.tpm / mean_tokens(case.charging, case.load))


class NextReady:
    """When each account may have room: the sorted set beside the buckets in the store."""

    def __init__(self) -> None:
        self._when: dict[str, float] = {}
        self._sorted: list[tuple[float, str]] = []

    def put(self, account: str, when: float) -> None:
        old = self._when.get(account)
        if old is not None:
            del self._sorted[bisect.bisect_left(self._sorted, (old, account))]
        self._when[account] = when
        bisect.insort(self._sorted, (when, account))

    def soonest(self) -> list[tuple[float, str]]:
        return self._sorted[:HINTS]


@dataclass(slots=True, eq=False)
class Part:
    """Accounts of which one call of the script can name any: all of them, unless the pool is sharded."""

    pool: Pool
    ready: NextReady = field(default_factory=NextReady)

    @classmethod
    def of(cls, names: Iterable[str]) -> Part:
        return cls(Pool(Key(name, name, "") for name in names))


class World:
    """All events of one run, in order of time."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.rng = random.Random(case.seed)
        names = [str(n) for n in range(case.accounts)]
        self.whole = Part.of(names)
        self.upstream = {
            name: Budget(UpstreamLimits(rpm=case.rpm * case.size(n), tpm=case.tpm * case.size(n)), 0.0)
            for n, name in enumerate(names)
        }
        for account in self.upstream.values():
            for limited in account.buckets:
                limited.level = 0.0
        self.ours = {name: Bucket(0.0) for name in names}
        self.written = Limits()
        self.line: FairQueue[Waiter] = FairQueue()
        self.arrivals = self.rng  # when requests come
        self.load = requests(case.load, self.arrivals)
        self.outcome = Outcome()
        self.events: list[tuple[float, int, str, tuple[Any, ...]]] = []
        self.order = itertools.count()
        self.now, self.look_at = 0.0, 1.0

    def at(self, delay: float, what: str, *arguments: Any) -> None:
        heapq.heappush(self.events, (self.now + delay, next(self.order), what, arguments))

    def run(self) -> Outcome:
        """From buckets that are empty upstream, which we do not know, to the end of the case's time."""
        case = self.case
        for name in list(self.upstream)[: 3 if case.others else 0]:
            self.at(self.rng.random(), "other", name)
        if case.offered:
            rate = case.offered * capacity(case)
            shares = {f"client {n}": 1 / 20 for n in range(1, 20)} if case.greedy else {}
            shares["greedy" if case.greedy else SOMEBODY] = 100 / 20 if case.greedy else 1.0
            for client, share in shares.items():
                self.at(0.0, "arrivals", client, rate * share)
        while self.now < case.seconds:
            if self.events and self.events[0][0] <= self.look_at:
                self.now, _, what, arguments = heapq.heappop(self.events)
                getattr(self, f"on_{what}")(*arguments)
            else:
                self.now = self.look_at
                self.look_at = self.now + self.serve()
        return self.outcome

    # ---- our side, as proxy/quotapool/pool/admission.py has it

    def join(self, client: str) -> None:
        waiter = Waiter(next(self.load), self.now, client)
        self.outcome.asked[client] += self.counts
        free = MAX_WAITING - len(self.line)
        if free <= 0 or self.line.waiting_of(client) >= max(1, 4 * free):
            self.outcome.full += self.counts
            return
        if not self.line:
            self.look_at = self.now
        self.line.add(client, waiter, cost=1 + waiter.request.estimate / 1000)

    def serve(self) -> float:
        """Serve whom the budgets have room for; the seconds until the next look."""
        while True:
            while not self.case.offered and len(self.line) < 2 * HEADS:
                self.join(SOMEBODY)
            claimed: set[str] = set()
            nap_s, moved = LONGEST_NAP_S, False
            for place, waiter in enumerate(self.line.first(HEADS)):
                wait = self.ask(waiter.request, claimed)
                if wait == 0:
                    self.line.served(waiter)
                    if self.counts:
                        self.outcome.waits.append(self.now - waiter.arrived)
                        self.outcome.served[waiter.client] += 1
                    moved = True
                    break
                nap_s = min(nap_s, wait)
                if place == 0 and wait < LONG_S:
                    break
            if not moved:
                return max(nap_s, SHORTEST_NAP_S)

    def ask(self, request: Request, claimed: set[str]) -> float:
        """As `ask_part`, of the pool."""
        return self.ask_part(self.whole, request, claimed)

    def ask_part(self, part: Part, request: Request, claimed: set[str]) -> float:
        """Reserve and send; or the seconds until some account has room, and a claim on the one that has it first."""
        cost, hints = Cost(1, request.estimate), list[str]()
        soonest, best, asked = LONGEST_NAP_S, "", set[str]()
        for _ in range(4):
            seats = part.pool.pick(GROUP, Use(GROUP), now=self.now, rng=self.rng, prefer=hints, exclude=claimed)
            for seat in seats:
                name = part.pool.key_at(seat).account
                bucket = self.ours[name]
                asked.add(name)
                bucket.refill(self.now, self.written)
                wait, _ = bucket.wait(cost, self.written)
                if wait <= 0:
                    self.send(part, name, bucket, request, cost)
                    return 0.0
                part.ready.put(name, self.now + wait)
                if wait < soonest:
                    soonest, best = wait, name
            unasked = [(at, name) for at, name in part.ready.soonest() if name not in asked and name not in claimed]
            if unasked:
                soonest = min(soonest, max(SHORTEST_NAP_S, unasked[0][0] - self.now))
            hints = [name for at, name in unasked if at <= self.now]
            if not hints:
                break
        if best:
            claimed.add(best)
        return max(soonest, 1e-6)

    def send(self, part: Part, name: str, bucket: Bucket, request: Request, cost: Cost) -> None:
        bucket.take(cost)
        again, _ = bucket.wait(cost, self.written)
        part.ready.put(name, self.now + again)
        level = min((bucket.level(i) or 0.0) / bucket.limit(i, self.written) for i in range(2))
        part.pool.note_headroom(part.pool.accounts[name].place, GROUP, level, self.now)
        moments = {d: bucket.moment(DIMENSIONS.index(d)) for d in MODELLED}
        delay = self.rng.uniform(*self.case.delay) + (0.15 if self.rng.random() < 0.02 else 0.0)
        self.at(delay, "arrival", name, request, self.now, moments)

    @property
    def counts(self) -> bool:
        return self.now > self.case.warm_up

    # ---- what happens

    def on_arrivals(self, client: str, rate: float) -> None:
        burst = self.case.burst if self.arrivals.random() < 0.05 else 1
        for _ in range(burst):
            self.join(client)
        mean = 1 + 0.05 * (self.case.burst - 1)
        self.at(self.arrivals.uniform(0.2, 1.8) * mean / rate, "arrivals", client, rate)

    def on_arrival(
        self, name: str, request: Request, reserved_at: float, moments: dict[Dimension, Moment | None]
    ) -> None:
        """The request reaches upstream."""
        refusal = self.upstream[name].admit(request.estimate, self.now)
        gauges = {gauge.kind: gauge for gauge in self.upstream[name].gauges(self.now)}
        heard = self.rng.random() >= self.case.lost
        back = Cost(1, request.estimate) if refusal else Cost(0)
        evidence = [
            Evidence(d, gauges[kind].limit, gauges[kind].remaining - back.of(d), moments[d])
            for d, kind in MODELLED.items()
        ]
        if refusal is not None:
            self.outcome.refused += self.counts
            self.at(0.01, "refused", name, request, reserved_at, evidence, refusal.wait_s or 1.0)
            return
        self.outcome.admitted += self.counts
        self.outcome.charged += self.counts * (request.used if self.case.charging == "correct" else request.estimate)
        if heard:
            self.at(request.first_byte + 0.01, "headers", name, reserved_at, evidence)
        self.at(request.duration, "done", name, request)
        self.at(request.duration + 0.01, "settled", name, request)

    def on_refused(
        self, name: str, request: Request, reserved_at: float, evidence: list[Evidence], wait: float
    ) -> None:
        bucket = self.ours[name]
        bucket.refill(self.now, self.written)
        bucket.follow(reserved_at, evidence, self.written)
        bucket.settle(Cost(0, request.estimate), 0.0)
        bucket.cool_until = max(bucket.cool_until, self.now + wait)

    def on_headers(self, name: str, reserved_at: float, evidence: list[Evidence]) -> None:
        bucket = self.ours[name]
        bucket.refill(self.now, self.written)
        bucket.follow(reserved_at, evidence, self.written)

    def on_done(self, name: str, request: Request) -> None:
        if self.case.charging == "correct":
            self.upstream[name].correct(request.estimate, request.used, self.now)

    def on_settled(self, name: str, request: Request) -> None:
        bucket = self.ours[name]
        bucket.refill(self.now, self.written)
        bucket.settle(Cost(0), request.estimate - request.used)

    def on_other(self, name: str) -> None:
        """Somebody else's request on the same account, unannounced."""
        tokens = 100 if self.case.load == "rpm" else 1000
        if self.upstream[name].admit(tokens, self.now) is None and self.counts:
            self.outcome.tokens_of_others += tokens
            self.outcome.requests_of_others += 1
        share = self.case.rpm if self.case.load == "rpm" else self.case.tpm / tokens
        self.at(self.rng.expovariate(self.case.others * share / 60), "other", name)


def jain(values: list[float]) -> float:
    """Jain's index of fairness: 1 where all get the same."""
    return sum(values) ** 2 / (len(values) * sum(value * value for value in values))


def cases(seconds: float, warm_up: float, seeds: int) -> Iterator[tuple[str, Case]]:
    """(what it shows, the case)."""
    both, every = ("keep", "correct"), range(1, seeds + 1)
    for charging, load, seed in itertools.product(both, ("rpm", "tpm", "mixed"), every):
        more = {"seconds": seconds, "warm_up": warm_up, "seed": seed}
        yield "more than fits", Case(charging, load, **more)
        yield "others take 30 % of three accounts", Case(charging, load, others=0.3, **more)
        yield "a fifth of the answers lost", Case(charging, load, lost=0.2, **more)
        yield "95 % offered", Case(charging, load, offered=0.95, **more)
    # What chance alone makes requests wait shows beside: no pool can do better than one account with all of its budget.
    whole = {"accounts": 1, "rpm": 600, "tpm": 400_000}
    for charging, seed in itertools.product(both, every):
        more = {"offered": 0.95, "seconds": seconds, "warm_up": warm_up, "seed": seed}
        yield "95 % offered, bursts of 30", Case(charging, "mixed", burst=30, **more)
        yield "95 % offered, bursts of 30, all in one account", Case(charging, "mixed", burst=30, **more, **whole)
        yield "95 % offered, all in one account", Case(charging, "mixed", **more, **whole)
    for charging in both:
        more = {"seconds": min(seconds, 300.0), "warm_up": warm_up}
        yield "1,000 accounts, more than fits", Case(charging, "tpm", accounts=1000, **more)


def row(what: str, case: Case, outcome: Outcome) -> str:
    """One line of the table; waits only where less was offered than fits."""
    waits = f"{outcome.wait(0.5):.2f} s | {outcome.wait(0.99):.2f} s" if case.offered else "|"
    return (
        f"| {what} | {case.load} | {case.charging} | {case.seed} | {outcome.admitted:,} | {outcome.used(case):.2%} "
        f"| {outcome.refused} | {outcome.share_refused:.3%} | {waits} |"
    )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--seconds", type=float, default=3600.0)
    asked.add_argument("--warm-up", type=float, default=WARM_UP_S, help="seconds that are not counted")
    asked.add_argument("--seeds", type=int, default=1)
    asked.add_argument("--only", default="", help="cases whose name has this in it, and no second table")
    options = asked.parse_args()
    print("| case | load | charging | seed | admitted | used | refused | share | wait p50 | wait p99 |")
    print("|---|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for what, case in cases(options.seconds, options.warm_up, options.seeds):
        if options.only in what:
            print(row(what, case, World(case).run()), flush=True)
    if options.only:
        return
    print("\nTwenty clients; one offers a hundred times what each of the nineteen does:\n")
    print("| charging | what the nineteen got of what they asked for | Jain's index among them | used |")
    print("|---|---:|---:|---:|")
    for charging in ("keep", "correct"):
        more = {"seconds": options.seconds, "warm_up": options.warm_up}
        case = Case(charging, "tpm", offered=0.9, greedy=True, **more)
        outcome = World(case).run()
        equals = [name for name in outcome.asked if name != "greedy"]
        share = sum(outcome.served[name] for name in equals) / sum(outcome.asked[name] for name in equals)
        fair = jain([outcome.served[name] / outcome.asked[name] for name in equals])
        print(f"| {charging} | {share:.2%} | {fair:.4f} | {outcome.used(case):.2%} |", flush=True)


if __name__ == "__main__":
    main()
