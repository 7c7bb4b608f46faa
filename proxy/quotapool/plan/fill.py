"""How full an account's limits are: what was used of each, on the whole and in its fullest minute. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from quotapool.domain.bucket import DIMENSIONS
from quotapool.domain.quantities import PERIOD_S, Cost, Dimension


@dataclass(frozen=True, slots=True)
class Fill:
    """One limit. `share`: of what it allows in the whole time; `fullest`: of what it allows in a period, in its fullest
    minute (of a limit per day: on its fullest day), which began at `fullest_at` (Unix seconds). A minute can have more
    than 1, from a bucket that was full before."""

    account: str
    group: str
    dimension: Dimension
    limit: float
    share: float
    fullest: float
    fullest_at: float


class Filling:
    """Of one account and model group, as it fills. `limits`: by dimension, inf: none.

    Tokens are counted twice: as reserved, and as used. Which of them upstream counts is known at the end.
    """

    __slots__ = ("_limits", "_reserved", "_since", "_used")

    def __init__(self, limits: Sequence[float], since: float) -> None:
        self._limits = list(limits)
        self._since = since
        self._reserved = {60.0: _Counts(60.0, since), 86_400.0: _Counts(86_400.0, since)}
        self._used = {60.0: _Counts(60.0, since), 86_400.0: _Counts(86_400.0, since)}

    def took(self, now: float, cost: Cost) -> None:
        for counts in self._reserved.values():
            counts.add(now, cost.requests, cost.tokens, cost.images)

    def used(self, now: float, tokens: int) -> None:
        for counts in self._used.values():
            counts.add(now, 0, tokens, 0)

    def fills(self, account: str, group: str, until: float, *, corrects: bool) -> list[Fill]:
        """`corrects`: upstream charges what was used instead of what was reserved."""
        found = []
        for dimension, limit in zip(DIMENSIONS, self._limits, strict=True):
            if math.isinf(limit) or limit <= 0:
                continue
            of_tokens = Cost(0, 1).of(dimension) > 0
            period = PERIOD_S[dimension]
            counts = (self._used if of_tokens and corrects else self._reserved)[period]
            amounts = Cost(*counts.total).of(dimension), Cost(*counts.most).of(dimension)
            at = counts.most_at[1 if of_tokens else 2 if dimension is Dimension.IPM else 0]
            allowed = limit * max(period, until - self._since) / period
            found.append(Fill(account, group, dimension, limit, amounts[0] / allowed, amounts[1] / limit, at))
        return found


class _Counts:
    """Requests, tokens and images: of all time, and of the fullest period so far."""

    __slots__ = ("_began", "_now", "_period", "most", "most_at", "total")

    def __init__(self, period: float, since: float) -> None:
        self._period = period
        self._began = since
        self._now = [0, 0, 0]
        self.total = [0, 0, 0]
        self.most = [0, 0, 0]
        self.most_at = [since, since, since]

    def add(self, at: float, *amounts: int) -> None:
        if at >= self._began + self._period:
            self._began += (at - self._began) // self._period * self._period
            self._now = [0, 0, 0]
        for i, amount in enumerate(amounts):
            self.total[i] += amount
            self._now[i] += amount
            if self._now[i] > self.most[i]:
                self.most[i], self.most_at[i] = self._now[i], self._began
