"""The arithmetic of one (account, model group): a token bucket per dimension. The specification.

`ledger/lua/ledger.lua` is the implementation that all replicas share; `tests/ledger/test_lua_follows_the_bucket.py`
drives both with the same trace. Times are seconds of one clock, levels and costs are counts of their dimension.

Laws
- A bucket holds at most `depth`, refills continuously at limit / period, and never refills while time stands still.
- A request fits when every bounded bucket holds its cost, or is full: a cost above the depth but not above the limit
  may wait for a full bucket and drive it below zero, so that it is slow but not starved.
- A cost above the limit never fits (`NEVER`): another account, or an immediate clear error.
- A refused request that comes back after the wait it was told, alone, is granted.
- Settling debits without condition: a level below zero is a real debt, paid by time.
- Upstream's `remaining`, once our own charges since are subtracted, can only lower a level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from proxy.domain.quantities import PERIOD_S, Cost, Dimension, Limits

DIMENSIONS: Final = tuple(Dimension)
NEVER: Final = math.inf
UNKNOWN: Final = -1.0  # a limit nobody wrote and upstream has not told

# Kept below upstream's depth, because its debits come a network's trip later than ours: this much refill is given
# away once, not per second. Seconds.
BREATH_S: Final = 1.2

# A first guess where nobody wrote a limit and upstream has not answered yet. It caps nothing that is learned.
GUESS: Final = (500.0, 200_000.0, math.inf, math.inf, math.inf)
GUESSED_BURST: Final = 10.0  # requests let through before the first answer tells the limits


def depth(limit: float, dimension: Dimension) -> float:
    """What a full bucket holds: `limit` less a breath of its own refill."""
    return limit - limit / PERIOD_S[dimension] * BREATH_S


@dataclass(slots=True)
class Bucket:
    """Levels of one (account, model group), `learned` limits (UNKNOWN, a number, or inf: upstream names none),
    and what was `charged` in all, so that `remaining` can be compared across calls in flight."""

    at: float
    cool_until: float = 0.0
    level: list[float | None] = field(default_factory=lambda: [None] * 5)
    learned: list[float] = field(default_factory=lambda: [UNKNOWN] * 5)
    charged: list[float] = field(default_factory=lambda: [0.0] * 5)

    def limit(self, index: int, written: Limits) -> float:
        """The limit in force: what somebody wrote caps what was learned; a guess where there is neither."""
        wrote, learned = written.of(DIMENSIONS[index]), self.learned[index]
        if wrote is not None:
            return min(wrote, learned) if learned >= 0 else wrote
        return learned if learned >= 0 else GUESS[index]

    def refill(self, now: float, written: Limits, *, start_empty: bool = False) -> None:
        """Bring all levels to `now`; a clock that went back counts as standing still."""
        elapsed = max(0.0, now - self.at)
        self.at += elapsed
        for i, dimension in enumerate(DIMENSIONS):
            limit = self.limit(i, written)
            if math.isinf(limit):
                self.level[i] = None
                continue
            full = depth(limit, dimension)
            level = self.level[i]
            if level is None:
                guessed = written.of(dimension) is None and self.learned[i] < 0
                level = min(full, GUESSED_BURST) if guessed and dimension is Dimension.RPM else full
                if start_empty and PERIOD_S[dimension] <= 60:
                    level = 0.0
            else:
                level = min(full, level + elapsed * limit / PERIOD_S[dimension])
            self.level[i] = level

    def wait(self, cost: Cost, written: Limits) -> tuple[float, Dimension | None]:
        """Seconds until `cost` fits (0: now; NEVER) and the dimension that decides. Call `refill` first."""
        longest, which = max(0.0, self.cool_until - self.at), None
        for i, dimension in enumerate(DIMENSIONS):
            amount, level = cost.of(dimension), self.level[i]
            if amount <= 0 or level is None:
                continue
            limit = self.limit(i, written)
            if amount > limit:
                return NEVER, dimension
            need = min(amount, depth(limit, dimension))
            if level < need and (need - level) * PERIOD_S[dimension] / limit > longest:
                longest, which = (need - level) * PERIOD_S[dimension] / limit, dimension
        return longest, which

    def take(self, cost: Cost) -> None:
        self.give(tuple(-cost.of(d) for d in DIMENSIONS))

    def give(self, amounts: Sequence[float]) -> None:
        """Correct the levels: positive gives back, negative debits without condition."""
        for i, amount in enumerate(amounts):
            level = self.level[i]
            if level is not None:
                self.level[i] = level + amount
            self.charged[i] -= amount

    def follow(
        self, index: int, limit: float, remaining: float, level_then: float | None, charged_then: float, written: Limits
    ) -> None:
        """Learn `limit`; lower the level by what upstream's `remaining` lacks and our own later charges do not explain.

        `level_then` and `charged_then` are this bucket's right after the reservation that upstream answers (None where
        it was unbounded then). The first limit heard for a bucket that only had a guess sets the level outright.
        """
        guessed = written.of(DIMENSIONS[index]) is None and self.learned[index] < 0
        self.learned[index] = limit
        level = self.level[index]
        since = max(0.0, self.charged[index] - charged_then)
        if guessed or level is None or level_then is None:
            in_force = self.limit(index, written)
            self.level[index] = min(depth(in_force, DIMENSIONS[index]), remaining - since)
        elif level_then - since > remaining and self.charged[index] >= charged_then:
            self.level[index] = level - (level_then - since - remaining)
