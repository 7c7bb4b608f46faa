"""Which budgets a scrape shows: the emptiest one by one, all others added up by model group."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from quotapool.domain.bucket import DIMENSIONS, Bucket
from quotapool.domain.quantities import Dimension, Limits
from quotapool.observe.metrics import PoolMetrics

_KEPT_FOR_LATER: Final = 2_000  # rows, before they are sorted
OTHERS: Final = ""  # the account of those that are added up

_ByDimension = dict[tuple[str, str, str], float]  # (account, model group, dimension)


@dataclass(slots=True)
class _Shown:
    """One bucket. `levels`: what is left, and the limit."""

    account: str
    group: str
    cooling_s: float
    levels: dict[Dimension, tuple[float, float]]
    allowed: dict[Dimension, float]  # what upstream allows, if the configured limit is lower
    fullness: float = 1.0  # of its emptiest dimension; an account that cools down is emptier than any


@dataclass(slots=True)
class BucketLevels:
    """`now`: the store's time, to which buckets are brought; `most`: how many are shown one by one."""

    now: float
    limits_for: Callable[[str, str], Limits]
    most: int
    _rows: list[_Shown] = field(default_factory=list)
    _others: dict[str, _Shown] = field(default_factory=dict)

    def add(self, account: str, group: str, bucket: Bucket) -> None:
        """In any order."""
        self._rows.append(self._row(account, group, bucket))
        if len(self._rows) > self.most + _KEPT_FOR_LATER:
            self._cut()

    def _cut(self) -> None:
        """Of those that are equally empty, the first by name are shown, so that they are the same at each scrape."""
        self._rows.sort(key=lambda row: (row.fullness, row.account, row.group))
        for row in self._rows[self.most :]:
            self._add_to_others(row)
        del self._rows[self.most :]

    def _row(self, account: str, group: str, bucket: Bucket) -> _Shown:
        configured = self.limits_for(account, group)
        bucket.refill(self.now, configured)
        row = _Shown(account, group, max(0.0, bucket.cool_until - self.now), {}, {})
        for i, dimension in enumerate(DIMENSIONS):
            level = bucket.level(i)
            if level is not None:
                most = bucket.limit(i, configured)
                row.levels[dimension] = level, most
                row.fullness = min(row.fullness, level / most if most else 0.0)
            learned = bucket.learned[i]
            if 0 <= learned < math.inf and (limit := configured.of(dimension)) is not None and limit < learned:
                row.allowed[dimension] = learned
        if row.cooling_s:
            row.fullness = -math.inf
        return row

    def _add_to_others(self, row: _Shown) -> None:
        """So that sums over all accounts stay right. A group cools down until the first of them may be used."""
        others = self._others.get(row.group)
        if others is None:
            self._others[row.group] = _Shown(OTHERS, row.group, row.cooling_s, dict(row.levels), {})
            return
        others.cooling_s = min(others.cooling_s, row.cooling_s)
        for dimension, (level, limit) in row.levels.items():
            so_far, limits = others.levels.get(dimension, (0.0, 0.0))
            others.levels[dimension] = so_far + level, limits + limit

    def show(self, metrics: PoolMetrics) -> _ByDimension:
        """Put them into `metrics`. What upstream allows beyond the configured limits."""
        levels: _ByDimension = {}
        limits: _ByDimension = {}
        allowed: _ByDimension = {}
        cooling: dict[tuple[str, str], float] = {}
        self._cut()
        for row in (*self._rows, *self._others.values()):
            cooling[row.account, row.group] = row.cooling_s
            for dimension, (level, limit) in row.levels.items():
                levels[row.account, row.group, dimension.value] = level
                limits[row.account, row.group, dimension.value] = limit
            for dimension, limit in row.allowed.items():
                allowed[row.account, row.group, dimension.value] = limit
        metrics.bucket_level.show(levels)
        metrics.bucket_limit.show(limits)
        metrics.bucket_upstream_limit.show(allowed)
        metrics.cooldown.show(cooling)
        return allowed
