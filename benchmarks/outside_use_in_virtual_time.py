"""Hours of load on one account in virtual time, used by others too or not: is outside use named, when, and how exactly?

As in `budgets_in_virtual_time.py`, two programs that share no code are played against each other: our bucket's
arithmetic and what looks for outside use, and the simulated upstream's own limiter. Between them: network delays by
which requests overtake each other, pauses in which nothing is sent, lost headers, bursts, idle hours, several replicas.

    python benchmarks/outside_use_in_virtual_time.py             # the tables of docs/outside-use.md
    python benchmarks/outside_use_in_virtual_time.py --seeds 100 --hours 24 --only alarms
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import math
import random
import statistics
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from multiprocessing import Pool
from typing import Any

from quotapool.domain.bucket import DIMENSIONS, Bucket, Evidence
from quotapool.domain.outside_use import SLICE_S, Judgement, Slices
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.ledger.grants import Granted, Observed, candidate_of, written_limits
from quotapool.ledger.messages import evidence_of
from quotapool.outside.shared_tallies import Stored, rows_of, rows_packed
from quotapool.outside.tallies import OutsideTallies
from quotapool.outside.watch import OutsideWatch
from quotapool.simulator.buckets import Budget
from quotapool.simulator.config import Limits as UpstreamLimits

NAME = "acme", "model"
MINUTE_S = 60.0
NOTHING_WRITTEN = Limits()
CANDIDATE = candidate_of(
    account=NAME[0], key="key", account_fingerprint="", key_fingerprint="", written=written_limits(NOTHING_WRITTEN)
)
HOURS = (1.0, 0.3, 0.0, 1.3, 0.6, 0.1, 1.0, 0.5)  # of the load, quarter of an hour by quarter
LONG_DELAYS = ((0.02, 0.15), (0.003, 0.4))  # (share of requests, seconds): a lost packet, a new connection


@dataclass(frozen=True, slots=True)
class Case:
    """One run. Times in seconds.

    `load`: rpm (small requests), tpm (large ones) or mixed (chats, streams, embeddings, long contexts). `own`,
    `outside`: shares of the limit that binds; `outside_from`: when others begin. `burst`: every twentieth arrival
    brings so many at once. `uneven`: the load changes every quarter of an hour, to nothing at times. `lost`: the share
    of answers whose headers never reach us. `pauses`: every so often nothing is sent for up to `pause` seconds.
    `counts`: upstream counts so many times the tokens that we estimate. `outside_until`: when others end.
    """

    charging: str  # keep | correct
    load: str
    own: float
    outside: float = 0.0
    outside_from: float = 1800.0
    rpm: int = 500
    tpm: int = 200_000
    seconds: float = 2700.0
    burst: int = 1
    uneven: bool = False
    lost: float = 0.0
    replicas: int = 1
    pauses: float = 0.0
    pause: float = 2.0
    delay: tuple[float, float] = (0.003, 0.04)
    counts: float = 1.0
    outside_until: float = math.inf
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    estimate: int
    used: int
    first_byte: float
    duration: float


def request(load: str, rng: random.Random) -> Request:
    """Of all lengths, with estimates that are mostly above the usage."""
    kind, part = rng.random(), rng.uniform(0.05, 1.0)
    if load == "rpm":
        estimate, part = rng.randint(50, 500), rng.uniform(0.2, 1.0)
    elif load == "tpm":
        estimate = rng.choice((500, 1_000, 2_000, 4_000))
        part = min(1.0, 1_500 / estimate) * rng.uniform(0.5, 1.0)
    elif kind < 0.15:  # embeddings
        estimate = rng.randint(50, 500)
        return Request(estimate, estimate, 0.1, 0.1)
    elif kind < 0.2:  # a long context
        estimate, part = rng.randint(10_000, 30_000), rng.uniform(0.8, 1.0)
    else:
        estimate = rng.randint(200, 4_000)
    duration = rng.choice((0.3, 1.0, 3.0, 10.0))
    return Request(estimate, int(estimate * part), min(duration, 0.4) if rng.random() < 0.5 else duration, duration)


@lru_cache
def capacity(rpm: int, tpm: int, load: str, charging: str) -> float:
    """Requests a second that the limits have room for."""
    rng = random.Random(0)
    sample = (request(load, rng) for _ in range(50_000))
    tokens = statistics.fmean(one.estimate if charging == "keep" else one.used for one in sample)
    return min(rpm, tpm / tokens) / MINUTE_S


@dataclass(slots=True)
class Outcome:
    """`named_at`: when outside use was named, None: never; `found`: as it was told then. `requests`, `tokens`: what
    others really used a minute, as they were charged."""

    named_at: float | None = None
    found: Judgement | None = None
    ended_at: float | None = None
    requests: float = 0.0
    tokens: float = 0.0
    served: int = 0


class World:
    """All events of one run, in order of time."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.rng = random.Random(case.seed)
        self.upstream = Budget(UpstreamLimits(rpm=case.rpm, tpm=case.tpm), 0.0)
        self.ours = Bucket(0.0)
        self.waiting: deque[Request] = deque()
        self.replicas = [OutsideTallies() for _ in range(case.replicas)]
        self.watch = OutsideWatch()
        self.outcome = Outcome()
        self.events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self.order = itertools.count()
        self.now = self.paused_until = 0.0
        self.looks = False  # somebody waits for room
        self.capacity = capacity(case.rpm, case.tpm, case.load, case.charging)

    def at(self, delay: float, what: Callable[..., None], *arguments: Any) -> None:
        heapq.heappush(self.events, (self.now + delay, next(self.order), what, arguments))

    def run(self) -> Outcome:
        case = self.case
        self.at(0.0, self.arrive)
        self.at(SLICE_S, self.judge)
        if case.outside:
            self.at(case.outside_from, self.others)
        if case.pauses:
            self.at(self.rng.expovariate(1 / case.pauses), self.pause)
        while self.events and self.events[0][0] <= case.seconds:
            self.now, _, what, arguments = heapq.heappop(self.events)
            what(*arguments)
        minutes = (min(case.seconds, case.outside_until) - case.outside_from) / MINUTE_S
        self.outcome.requests /= minutes
        self.outcome.tokens /= minutes
        return self.outcome

    # ---- our side

    def arrive(self) -> None:
        case, rng = self.case, self.rng
        share = HOURS[int(self.now // 900) % len(HOURS)] if case.uneven else 1.0
        if share:
            count = case.burst if rng.random() < 0.05 else 1
            self.waiting.extend(request(case.load, rng) for _ in range(count))
            self.serve()
        mean = 1 + 0.05 * (case.burst - 1)
        self.at(rng.expovariate(self.capacity * case.own * max(share, 0.02) / mean), self.arrive)

    def look(self) -> None:
        self.looks = False
        self.serve()

    def serve(self) -> None:
        """In the order of arrival, as soon as there is room."""
        while self.waiting and not self.looks:
            cost = Cost(1, self.waiting[0].estimate)
            self.ours.refill(self.now, NOTHING_WRITTEN)
            wait, _ = self.ours.wait(cost, NOTHING_WRITTEN)
            if wait > 0:
                self.looks = True
                self.at(max(wait, 0.002), self.look)
                return
            self.ours.take(cost)
            self.send(self.waiting.popleft(), cost)

    def send(self, sent: Request, cost: Cost) -> None:
        rng, bucket = self.rng, self.ours
        moments = {
            d: m for d in (Dimension.RPM, Dimension.TPM) if (m := bucket.moment(DIMENSIONS.index(d))) is not None
        }
        learned = {d: bucket.learned[DIMENSIONS.index(d)] for d in moments}
        granted = Granted("", NAME[1], cost, CANDIDATE, self.now, 1.0, False, moments, learned)
        delay = rng.uniform(*self.case.delay) + sum(seconds for share, seconds in LONG_DELAYS if rng.random() < share)
        if self.now + delay < self.paused_until:
            delay = self.paused_until - self.now + rng.uniform(0, 0.01)
        self.at(delay, self.reach_upstream, sent, granted)

    def pause(self) -> None:
        self.paused_until = self.now + self.rng.uniform(0.1, 1.0) * self.case.pause
        self.at(self.rng.expovariate(1 / self.case.pauses), self.pause)

    def reach_upstream(self, sent: Request, granted: Granted) -> None:
        charge = int(sent.estimate * self.case.counts)
        refusal = self.upstream.admit(charge, self.now)
        gauges = {gauge.kind: gauge for gauge in self.upstream.gauges(self.now)}
        kinds = {Dimension.RPM: gauges["requests"], Dimension.TPM: gauges["tokens"]}
        observed = [Observed(d, gauge.limit, gauge.remaining) for d, gauge in kinds.items()]
        if refusal is not None:
            self.at(0.01, self.hear, observed, granted, refusal.wait_s or 1.0)
            return
        self.outcome.served += 1
        if self.rng.random() >= self.case.lost:
            self.at(sent.first_byte + 0.01, self.hear, observed, granted, 0.0)
        if self.case.charging == "correct":
            self.at(sent.duration, self.correct, charge, sent.used)
        self.at(sent.duration + 0.01, self.settle, sent)

    def hear(self, observed: list[Observed], granted: Granted, refused_s: float) -> None:
        refused, bucket = refused_s > 0, self.ours
        evidence = evidence_of(granted, observed, refused=refused)
        self.rng.choice(self.replicas).saw(granted, evidence)
        bucket.refill(self.now, NOTHING_WRITTEN)
        back = granted.cost if refused else Cost(0)
        rows = [
            Evidence(o.dimension, o.limit, o.remaining - back.of(o.dimension), granted.moments.get(o.dimension))
            for o in observed
        ]
        bucket.follow(granted.at, rows, NOTHING_WRITTEN)
        if refused:
            bucket.settle(Cost(0, back.tokens), 0.0)
            bucket.cool_until = max(bucket.cool_until, self.now + refused_s)

    def correct(self, estimate: int, used: int) -> None:
        self.upstream.correct(estimate, used, self.now)

    def settle(self, sent: Request) -> None:
        self.ours.refill(self.now, NOTHING_WRITTEN)
        self.ours.settle(Cost(0), sent.estimate - sent.used)

    # ---- others, behind our back

    def others(self) -> None:
        if self.now > self.case.outside_until:
            return
        sent = request(self.case.load, self.rng)
        if self.upstream.admit(sent.estimate, self.now) is None:
            self.outcome.requests += 1
            self.outcome.tokens += sent.estimate if self.case.charging == "keep" else sent.used
            if self.case.charging == "correct":
                self.at(sent.duration, self.correct, sent.estimate, sent.used)
        self.at(self.rng.expovariate(self.capacity * self.case.outside), self.others)

    # ---- who judges

    def judge(self) -> None:
        sums = Slices()
        for replica in self.replicas:
            for rows in rows_packed(replica.taken()):
                for _, _, slices in rows_of(rows):
                    sums.add(slices)
        self.watch.take({NAME: sums})
        for name, judged in list(self.watch.begun((), self.now)):
            self.watch.named[name] = Stored(judged.since, judged)
            if self.outcome.named_at is None:
                self.outcome.named_at, self.outcome.found = self.now, judged
        for name in list(self.watch.ended((), self.now)):
            del self.watch.named[name]
            self.outcome.ended_at = self.now
        self.at(SLICE_S, self.judge)


# ---- the tables

TIERS = ((500, 200_000), (60, 40_000), (10_000, 4_000_000))
QUIET = Case("keep", "mixed", 0.5)
NETWORKS = {
    "an even load": {},
    "bursts of 30, idle spans, a fifth of the headers lost": {"burst": 30, "uneven": True, "lost": 0.2},
    "the same in bursts of 10, 4 replicas, delays up to 100 ms, pauses of up to 2 s": {
        "burst": 10,
        "uneven": True,
        "lost": 0.2,
        "replicas": 4,
        "delay": (0.003, 0.1),
        "pauses": 600.0,
    },
}


def run(case: Case) -> Outcome:
    return World(case).run()


def named_cases(seeds: int) -> Iterator[tuple[tuple[object, ...], list[Case]]]:
    """(tier, load, charging, own load) and a case for each seed, with outside use of 20 %."""
    for tier, load, charging, own in itertools.product(
        TIERS, ("rpm", "tpm", "mixed"), ("keep", "correct"), (0.3, 0.6, 0.8, 0.95)
    ):
        base = Case(charging, load, own, outside=0.2, rpm=tier[0], tpm=tier[1])
        if tier[0] == 10_000:
            base = replace(base, outside_from=300.0, seconds=900.0)
        yield (tier, load, charging, own), [replace(base, seed=seed) for seed in range(1, seeds + 1)]


def alarm_cases(hours: float, seeds: int) -> Iterator[tuple[tuple[object, ...], list[Case]]]:
    """(tier, what the network does) and the cases: nobody else uses the account."""
    for tier, (what, options) in itertools.product(TIERS[:2], NETWORKS.items()):
        base = replace(QUIET, rpm=tier[0], tpm=tier[1], seconds=hours * 3600, **options)
        yield (
            (tier, what),
            [
                replace(base, load=load, charging=charging, own=own, seed=seed)
                for load, charging, own, seed in itertools.product(
                    ("rpm", "tpm", "mixed"), ("keep", "correct"), (0.3, 0.6, 0.95, 1.3), range(1, seeds + 1)
                )
            ],
        )


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--seeds", type=int, default=10)
    asked.add_argument("--hours", type=float, default=24.0, help="of each case without outside use")
    asked.add_argument("--only", default="", choices=("", "named", "alarms"))
    asked.add_argument("--tiers", type=int, default=3, help="only the first so many of the limits")
    asked.add_argument("--processes", type=int, default=2)
    options = asked.parse_args()
    tiers = TIERS[: options.tiers]
    with Pool(options.processes) as pool:
        if options.only != "alarms":
            print(
                "| RPM, TPM | load | charging | own load | named after: median | worst | within 5 min | told / true |"
            )
            print("|---|---|---|---:|---:|---:|---:|---|")
            for what, cases in named_cases(options.seeds):
                if what[0] in tiers:
                    print(named_row(what, cases, pool.map(run, cases, 1)), flush=True)
        if options.only != "named":
            print("\n| RPM, TPM | | runs | hours | false alarms |")
            print("|---|---|---:|---:|---:|")
            for what, cases in alarm_cases(options.hours, options.seeds):
                if what[0] in tiers:
                    outcomes = pool.map(run, cases, 1)
                    alarms = [case for case, one in zip(cases, outcomes, strict=True) if one.named_at is not None]
                    tier, words = what
                    hours = len(cases) * options.hours
                    print(
                        f"| {tier[0]:,}, {tier[1]:,} | {words} | {len(cases)} | {hours:,.0f} | {len(alarms)} |",
                        flush=True,
                    )
                    for case in alarms:
                        print(f"<!-- {case} -->", flush=True)


def named_row(what: tuple[object, ...], cases: list[Case], outcomes: list[Outcome]) -> str:
    """One line of the table. What is named before it begins is a false alarm, and has a negative time."""
    tier, load, charging, own = what
    times = sorted(
        math.inf if one.named_at is None else one.named_at - case.outside_from
        for case, one in zip(cases, outcomes, strict=True)
    )
    dimension = "requests" if load == "rpm" else "tokens"
    told = [
        (one.found.requests_per_minute if load == "rpm" else one.found.tokens_per_minute) / getattr(one, dimension)
        for one in outcomes
        if one.found is not None and getattr(one, dimension)
    ]
    within = sum(0 < time <= 300 for time in times)
    return (
        f"| {tier[0]:,}, {tier[1]:,} | {load} | {charging} | {own:.0%} | {statistics.median(times):.0f} s "
        f"| {times[-1]:.0f} s | {within} of {len(times)} | {statistics.median(told) if told else 0:.2f} |"
    )


if __name__ == "__main__":
    main()
