"""Hours of load on a pool in virtual time: does it use what it has, and does upstream ever have to refuse?

Two programs that share no code are played against each other: our bucket arithmetic (`proxy.domain.bucket`, the
specification of the Lua script) and the simulated upstream's own limiter (`proxy.simulator.buckets`). Between them:
network delays, answers of different lengths, two ways of charging, other users of the same accounts, lost answers.

    python benchmarks/budgets_in_virtual_time.py            # the table of docs/budgets.md
    python benchmarks/budgets_in_virtual_time.py --seconds 36000 --seeds 3
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from proxy.domain.bucket import Bucket, Evidence, Moment
from proxy.domain.quantities import Cost, Dimension, Limits
from proxy.simulator.buckets import Budget
from proxy.simulator.config import Limits as UpstreamLimits

MODELLED = (Dimension.RPM, Dimension.TPM)


@dataclass(frozen=True, slots=True)
class Case:
    """One run. Times in seconds; `others`: the share of three accounts' tokens that somebody else takes."""

    charging: str  # keep | correct
    bound: str  # rpm | tpm
    others: float = 0.0
    lost: float = 0.0  # share of answers whose headers never reach us
    accounts: int = 10
    rpm: int = 60
    tpm: int = 40_000
    seconds: float = 3600.0
    warm_up: float = 120.0
    delay: tuple[float, float] = (0.003, 0.04)
    seed: int = 1


@dataclass(slots=True)
class Outcome:
    admitted: int = 0
    refused: int = 0
    charged: float = 0.0
    taken_by_others: float = 0.0
    requests_of_others: int = 0
    waits: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Request:
    estimate: int
    used: int
    first_byte: float
    duration: float


def mixed(case: Case, rng: random.Random) -> Iterator[Request]:
    """Chats and streams of all lengths. RPM-bound: small ones; TPM-bound: estimates well above the usage."""
    while True:
        if case.bound == "rpm":
            estimate = rng.randint(50, 500)
            used = int(estimate * rng.uniform(0.2, 1.0))
        else:
            estimate = rng.choice((500, 1000, 2000, 4000))
            used = int(estimate * rng.uniform(0.05, 0.9))
        duration = rng.choice((0.3, 1.0, 3.0, 10.0))
        yield Request(estimate, used, min(duration, 0.4) if rng.random() < 0.5 else duration, duration)


class World:
    """All events of one run, in order of time."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.rng = random.Random(case.seed)
        self.upstream = [Budget(UpstreamLimits(rpm=case.rpm, tpm=case.tpm), 0.0) for _ in range(case.accounts)]
        self.ours = [Bucket(0.0) for _ in range(case.accounts)]
        self.written = Limits()
        self.outcome = Outcome()
        self.events: list[tuple[float, int, str, tuple[Any, ...]]] = []
        self.order = itertools.count()
        self.now = 0.0

    def at(self, delay: float, what: str, *arguments: Any) -> None:
        heapq.heappush(self.events, (self.now + delay, next(self.order), what, arguments))

    def run(self) -> Outcome:
        """Offer more than fits, always: whoever is next in line goes as soon as one account has room."""
        case = self.case
        for account in self.upstream:
            for bucket in account.buckets:
                bucket.level = 0.0  # a window that starts with nearly empty buckets
        if case.others:
            for account in range(3):
                self.at(self.rng.random(), "other", account)
        line = mixed(case, self.rng)
        head = next(line)
        while self.now < case.seconds:
            wait = self.dispatch(head)
            while wait == 0:
                head = next(line)
                wait = self.dispatch(head)
            if self.events and self.events[0][0] <= self.now + wait:
                self.now, _, what, arguments = heapq.heappop(self.events)
                getattr(self, f"on_{what}")(*arguments)
            else:
                self.now += wait
        return self.outcome

    def dispatch(self, request: Request) -> float:
        """Reserve and send; or the seconds until some account has room."""
        cost = Cost(1, request.estimate)
        best, soonest = -1, 1.0
        best_level = -1.0
        for i, bucket in enumerate(self.ours):
            bucket.refill(self.now, self.written)
            wait, _ = bucket.wait(cost, self.written)
            if wait <= 0:
                level = min((bucket.level(0) or 0) / self.case.rpm, (bucket.level(1) or 0) / self.case.tpm)
                if level > best_level:
                    best, best_level = i, level
            soonest = min(soonest, wait)
        if best < 0:
            return max(soonest, 1e-6)
        bucket = self.ours[best]
        bucket.take(cost)
        moments = {d: bucket.moment(list(Dimension).index(d)) for d in MODELLED}
        delay = self.rng.uniform(*self.case.delay) + (0.15 if self.rng.random() < 0.02 else 0.0)
        self.at(delay, "arrival", best, request, self.now, moments)
        return 0.0

    def on_arrival(
        self, account: int, request: Request, reserved_at: float, moments: dict[Dimension, Moment | None]
    ) -> None:
        refusal = self.upstream[account].admit(request.estimate, self.now)
        gauges = {gauge.kind: gauge for gauge in self.upstream[account].gauges(self.now)}
        counts = self.now > self.case.warm_up
        heard = self.rng.random() >= self.case.lost
        back = Cost(1, request.estimate) if refusal else Cost(0)
        evidence = [
            Evidence(d, gauges[kind].limit, gauges[kind].remaining - back.of(d), moments[d])
            for d, kind in ((Dimension.RPM, "requests"), (Dimension.TPM, "tokens"))
        ]
        if refusal is not None:
            self.outcome.refused += counts
            self.at(0.01, "refused", account, request, reserved_at, evidence, refusal.wait_s or 1.0)
            return
        self.outcome.admitted += counts
        self.outcome.charged += counts * (request.used if self.case.charging == "correct" else request.estimate)
        if heard:
            self.at(request.first_byte + 0.01, "headers", account, reserved_at, evidence)
        self.at(request.duration, "done", account, request)
        self.at(request.duration + 0.01, "settled", account, request)

    def on_refused(
        self, account: int, request: Request, reserved_at: float, evidence: list[Evidence], wait: float
    ) -> None:
        bucket = self.ours[account]
        bucket.refill(self.now, self.written)
        bucket.follow(reserved_at, evidence, self.written)
        bucket.settle(Cost(0, request.estimate), 0.0)
        bucket.cool_until = max(bucket.cool_until, self.now + wait)

    def on_headers(self, account: int, reserved_at: float, evidence: list[Evidence]) -> None:
        bucket = self.ours[account]
        bucket.refill(self.now, self.written)
        bucket.follow(reserved_at, evidence, self.written)

    def on_done(self, account: int, request: Request) -> None:
        if self.case.charging == "correct":
            self.upstream[account].correct(request.estimate, request.used, self.now)

    def on_settled(self, account: int, request: Request) -> None:
        bucket = self.ours[account]
        bucket.refill(self.now, self.written)
        bucket.settle(Cost(0), request.estimate - request.used)

    def on_other(self, account: int) -> None:
        """Somebody else's request on the same account, unannounced."""
        tokens = 1000 if self.case.bound == "tpm" else 100
        if self.upstream[account].admit(tokens, self.now) is None and self.now > self.case.warm_up:
            self.outcome.taken_by_others += tokens
            self.outcome.requests_of_others += 1
        share = self.case.tpm / tokens if self.case.bound == "tpm" else self.case.rpm
        self.at(self.rng.expovariate(self.case.others * share / 60), "other", account)


def report(case: Case) -> tuple[float, float]:
    """(goodput as a share of the possible, share of attempts that upstream refused); prints one line."""
    outcome = World(case).run()
    window = case.seconds - case.warm_up
    requests = case.accounts * window * case.rpm / 60 - outcome.requests_of_others
    tokens = case.accounts * window * case.tpm / 60 - outcome.taken_by_others
    used = outcome.admitted / requests if case.bound == "rpm" else outcome.charged / tokens
    refused = outcome.refused / max(1, outcome.admitted + outcome.refused)
    print(
        f"| {case.charging} | {case.bound} | {case.others:.0%} | {case.lost:.0%} | {case.seed} "
        f"| {outcome.admitted} | {used:.2%} | {outcome.refused} | {refused:.3%} |"
    )
    return used, refused


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("--seconds", type=float, default=3600.0)
    asked.add_argument("--seeds", type=int, default=1)
    options = asked.parse_args()
    print("| charging | bound by | others | lost | seed | admitted | used | refused | share |")
    print("|---|---|---:|---:|---:|---:|---:|---:|---:|")
    for charging, bound in itertools.product(("keep", "correct"), ("rpm", "tpm")):
        for others, lost in ((0.0, 0.0), (0.3, 0.0), (0.0, 0.2)):
            for seed in range(1, options.seeds + 1):
                report(Case(charging, bound, others, lost, seconds=options.seconds, seed=seed))


if __name__ == "__main__":
    main()
