"""This process's share of the budgets while the store is away (`on_redis_loss: serve`).

Each replica goes on with what it last saw of a bucket, divided by the number of replicas it last knew, at its part of
the rate: together they take no more than before. What it takes is owed, and paid to the store when that is back.
A bucket this process never saw starts empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from proxy.domain.bucket import DIMENSIONS, NEVER, Bucket
from proxy.domain.quantities import Cost, Dimension, Limits
from proxy.ledger.grants import Candidate, Granted, Refused

_MOST_REMEMBERED = 50_000


@dataclass(slots=True)
class Debt:
    """What was taken from one account's bucket while the store was away."""

    candidate: Candidate
    requests: int = 0
    tokens: int = 0
    images: int = 0
    unused_tokens: float = 0.0


class LocalBudgets:
    """Buckets by (account, model group), and what is owed for them. Times are the store's, as far as known."""

    def __init__(self) -> None:
        self.owed: dict[tuple[str, str], Debt] = {}
        self._last: dict[tuple[str, str], Granted] = {}
        self._buckets: dict[tuple[str, str], Bucket] = {}
        self._share = 1.0
        self._serial = 0

    def heard(self, granted: Granted) -> None:
        """Remember the newest sight of a bucket."""
        if len(self._last) > _MOST_REMEMBERED:
            self._last.clear()
        self._last[granted.candidate.account, granted.group] = granted

    def begin(self, replicas: int) -> None:
        """The store is gone: from now on this process has one part in `replicas`."""
        self._share = 1.0 / max(1, replicas)
        self._buckets.clear()

    def reserve(
        self, group: str, cost: Cost, candidates: Sequence[Candidate], now: float, leave: float = 0.0
    ) -> Granted | Refused:
        soonest, which = NEVER, None
        for candidate in candidates:
            bucket, limits = self._bucket(candidate, group, now)
            wait, dimension = bucket.wait(cost, limits, candidate.burst_s, leave)
            if wait <= 0:
                bucket.take(cost)
                debt = self.owed.setdefault((candidate.account, group), Debt(candidate))
                debt.requests += cost.requests
                debt.tokens += cost.tokens
                debt.images += cost.images
                self._serial += 1
                return Granted(f"local-{self._serial}", group, cost, candidate, now, 0.5, False, {}, {}, local=True)
            if wait < soonest or which is None:
                soonest, which = min(soonest, wait), dimension
        return Refused(None if soonest == NEVER else soonest, which)

    def settle(self, granted: Granted, back: Cost, unused_tokens: float, cool_s: float, now: float) -> None:
        """Correct a reservation of this store-less time."""
        key = granted.candidate.account, granted.group
        debt = self.owed.get(key)
        if debt is not None:
            debt.requests -= back.requests
            debt.tokens -= back.tokens
            debt.images -= back.images
            debt.unused_tokens += unused_tokens
        bucket = self._buckets.get(key)
        if bucket is not None:
            bucket.settle(back, unused_tokens)
            bucket.cool_until = max(bucket.cool_until, now + cool_s if cool_s else 0.0)

    def pay(self) -> list[tuple[str, Debt]]:
        """All debts by model group, for the store that is back. They are owed no more."""
        debts = [(group, debt) for (_, group), debt in self.owed.items()]
        self.owed.clear()
        self._buckets.clear()
        return debts

    def _bucket(self, candidate: Candidate, group: str, now: float) -> tuple[Bucket, Limits]:
        limits = Limits(*(None if w < 0 else w * self._share for w in candidate.written))
        key = candidate.account, group
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = self._from_memory(key, now)
        bucket.refill(now, limits, start_empty=True, burst_s=candidate.burst_s)
        return bucket, limits

    def _from_memory(self, key: tuple[str, str], now: float) -> Bucket:
        """The bucket as it was last seen, cut down to our share."""
        seen = self._last.get(key)
        if seen is None:
            return Bucket(now)
        bucket = Bucket(seen.at)
        for dimension, moment in seen.moments.items():
            i = DIMENSIONS.index(dimension)
            bucket.kept[i], bucket.corrected[i] = moment.kept * self._share, moment.corrected * self._share
        for dimension, learned in seen.learned.items():
            bucket.learned[DIMENSIONS.index(dimension)] = learned * self._share if learned >= 0 else learned
        for dimension in Dimension:  # bounded by nothing when last seen
            if dimension not in seen.moments:
                bucket.learned[DIMENSIONS.index(dimension)] = NEVER
        return bucket
