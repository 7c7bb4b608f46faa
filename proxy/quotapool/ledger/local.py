"""This process's share of the budgets while the store is away (`on_redis_loss: serve`).

Each of N replicas goes on with what it last saw of a bucket as if every request cost N times as much: with an Nth of
the level, at an Nth of the rate, yet no request is too large that was not too large before. Together they take no more
than one would. What a bucket gained between that look at it and the last sign of the store does not count: others may
have taken it. What was taken is owed: by how much a bucket would be fuller had nothing been taken, so that refilling
pays here what it would have paid there. A bucket that this process never saw starts empty. Upstream's own figures of
what is left are followed here as in the store; they are the one thing that replicas still share.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Final

from quotapool.domain.bucket import DIMENSIONS, NEVER, Bucket, Evidence
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.ledger.grants import Candidate, Granted, Observed, Refused
from quotapool.ledger.local_rules import LocalRules

_MOST_BUCKETS: Final = 50_000
_UNITS: Final = (Cost(1, 0, 0), Cost(0, 1, 0), Cost(0, 0, 1))


@dataclass(frozen=True, slots=True)
class Debt:
    """What this process took from one bucket without the store, by dimension, in both predictions."""

    candidate: Candidate
    group: str
    kept: list[float]
    corrected: list[float]
    cool_s: float


@dataclass(slots=True)
class _Share:
    """One bucket as if all replicas took what this one takes, and as it would be if nobody took anything.

    `since`: when it was made; earlier grants are no evidence about it."""

    candidate: Candidate
    since: float
    limits: Limits
    bucket: Bucket
    untouched: Bucket

    def refill(self, now: float) -> None:
        for bucket in (self.bucket, self.untouched):
            bucket.refill(now, self.limits, start_empty=True, burst_s=self.candidate.burst_s)

    def follow(self, granted: Granted, observed: Sequence[Observed], not_admitted: Cost) -> None:
        """Upstream's figures of what was left when it admitted `granted`, as if it had admitted what it refused."""
        if granted.at < self.since:
            return
        guessed = {d for i, d in enumerate(DIMENSIONS) if self.limits.of(d) is None and self.bucket.learned[i] < 0}
        evidence = [
            Evidence(o.dimension, o.limit, o.remaining - not_admitted.of(o.dimension), granted.moments.get(o.dimension))
            for o in observed
        ]
        self.bucket.follow(granted.at, evidence, self.limits, self.candidate.burst_s)
        self.untouched.learned = self.bucket.learned.copy()
        if any(e.dimension in guessed for e in evidence):  # both were guesses before
            self.untouched = deepcopy(self.bucket)

    def headroom(self) -> float:
        """The emptiest dimension's level as a share of its limit."""
        shares = [1.0]
        for i in range(len(DIMENSIONS)):
            level, limit = self.bucket.level(i), self.bucket.limit(i, self.limits)
            if level is not None:
                shares.append(level / limit if limit > 0 else 0.0)
        return min(shares)


class LocalBudgets:
    """Shares by (account, model group), and what is owed for them. Times are the store's, as far as known."""

    def __init__(self) -> None:
        self.active = False
        self.rules = LocalRules()
        self._last: dict[tuple[str, str], Granted] = {}
        self._cooling: dict[tuple[str, str], float] = {}
        self._shares: dict[tuple[str, str], _Share] = {}
        self._replicas = 1
        self._heard = 0.0
        self._serial = 0

    # ---- while the store answers

    def remember(self, granted: Granted) -> None:
        """Keep the last known levels of a bucket."""
        if len(self._last) > _MOST_BUCKETS:
            self._last.clear()
        self._last[granted.candidate.account, granted.group] = granted

    def cool(self, granted: Granted, until: float, now: float) -> None:
        """Upstream asked this account to wait: that holds with and without a store."""
        if len(self._cooling) > 1_000:
            self._cooling = {key: end for key, end in self._cooling.items() if end > now}
        key = granted.candidate.account, granted.group
        self._cooling[key] = max(until, self._cooling.get(key, 0.0))
        if key in self._shares:
            self._shares[key].bucket.cool_until = self._cooling[key]

    def move(self, seconds: float) -> None:
        """The store's clock was set by so many seconds: everything goes along that was known before."""
        self._cooling = {key: until + seconds for key, until in self._cooling.items()}
        self._heard += seconds
        for granted in self._last.values():
            granted.at += seconds
        for share in self._shares.values():
            share.since += seconds
            share.bucket.move(seconds)
            share.untouched.move(seconds)

    # ---- while it is away

    def begin(self, replicas: int, heard: float) -> None:
        """The store is away: from now on this process uses its share as one of `replicas`.

        `heard`: until when the store may have granted to others."""
        self.active = True
        self._heard = heard
        self._replicas = max(1, replicas)
        self.rules.begin(self._replicas)

    def reserve(
        self, group: str, cost: Cost, candidates: Sequence[Candidate], now: float, leave: float = 0.0
    ) -> Granted | Refused:
        soonest, which = NEVER, None
        for candidate in candidates:
            share = self._share(candidate, group, now)
            wait, dimension = self._wait(share, cost, leave)
            if wait <= 0:
                share.bucket.take(self._weighed(cost))
                self._serial += 1
                name, headroom = f"local-{self._serial}", share.headroom()
                moments = {d: m for i, d in enumerate(DIMENSIONS) if (m := share.bucket.moment(i)) is not None}
                learned = {d: share.bucket.learned[DIMENSIONS.index(d)] for d in moments}
                return Granted(name, group, cost, candidate, now, headroom, False, moments, learned, local=True)
            if wait < soonest or which is None:
                soonest, which = min(soonest, wait), dimension
        return Refused(None if soonest == NEVER else soonest, which)

    def settle(
        self,
        granted: Granted,
        back: Cost,
        unused_tokens: float,
        observed: Sequence[Observed],
        not_admitted: Cost,
        now: float,
    ) -> None:
        """Correct a reservation that was granted here."""
        share = self._share(granted.candidate, granted.group, now)
        share.follow(granted, observed, self._weighed(not_admitted))
        share.bucket.settle(self._weighed(back), unused_tokens * self._replicas)

    # ---- when it is back

    def pay(self, now: float) -> list[Debt]:
        """What is owed for each bucket; it counts as paid then."""
        debts = []
        for (_, group), share in self._shares.items():
            share.refill(now)
            bucket, untouched = share.bucket, share.untouched
            kept = self._owed(untouched.kept, bucket.kept)
            corrected = self._owed(untouched.corrected, bucket.corrected)
            cool_s = max(0.0, bucket.cool_until - now)
            if any(kept) or any(corrected) or cool_s:
                debts.append(Debt(share.candidate, group, kept, corrected, cool_s))
            share.untouched = deepcopy(bucket)
        return debts

    def end(self) -> None:
        """The store grants again."""
        self.active = False
        self._shares.clear()
        self.rules.end()

    # ---- one bucket

    def _share(self, candidate: Candidate, group: str, now: float) -> _Share:
        key = candidate.account, group
        share = self._shares.get(key)
        if share is None:
            limits = Limits(*(None if limit < 0 else limit for limit in candidate.written))
            bucket = self._from_memory(key, now)
            share = self._shares[key] = _Share(candidate, now, limits, bucket, deepcopy(bucket))
        share.refill(now)
        return share

    def _from_memory(self, key: tuple[str, str], now: float) -> Bucket:
        """The bucket as it was when last seen."""
        seen = self._last.get(key)
        if seen is None:
            return Bucket(now, self._cooling.get(key, 0.0))
        bucket = Bucket(max(seen.at, self._heard), self._cooling.get(key, 0.0))
        for dimension in Dimension:
            i, moment = DIMENSIONS.index(dimension), seen.moments.get(dimension)
            if moment is None:  # unbounded when last seen
                bucket.learned[i] = NEVER
            else:
                bucket.kept[i], bucket.corrected[i] = moment.kept, moment.corrected
                bucket.learned[i] = seen.learned[dimension]
        return bucket

    def _weighed(self, cost: Cost) -> Cost:
        n = self._replicas
        return Cost(cost.requests * n, cost.tokens * n, cost.images * n)

    def _wait(self, share: _Share, cost: Cost, leave: float) -> tuple[float, Dimension | None]:
        """As `Bucket.wait`. A cost that is too large only when weighed waits for a full bucket and overdraws it."""
        bucket, limits, burst_s = share.bucket, share.limits, share.candidate.burst_s
        wait, dimension = bucket.wait(cost, limits, burst_s, leave)
        if wait == NEVER:
            return wait, dimension
        weighed, most = self._weighed(cost), [self._largest(share, unit) for unit in _UNITS]
        amounts = (weighed.requests, weighed.tokens, weighed.images)
        return bucket.wait(Cost(*(int(min(a, m)) for a, m in zip(amounts, most, strict=True))), limits, burst_s, leave)

    @staticmethod
    def _largest(share: _Share, unit: Cost) -> float:
        """The most that one request may cost."""
        bounds = (share.bucket.limit(i, share.limits) for i, d in enumerate(DIMENSIONS) if unit.of(d))
        return min(bounds, default=NEVER)

    def _owed(self, untouched: list[float | None], bucket: list[float | None]) -> list[float]:
        return [
            (full - left) / self._replicas if full is not None and left is not None else 0.0
            for full, left in zip(untouched, bucket, strict=True)
        ]
