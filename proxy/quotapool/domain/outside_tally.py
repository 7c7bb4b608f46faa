"""What answers show of outside use, counted where they come in. `outside_use.py` judges it, and says what it means.

Called for each answer, so it only compares and adds. Sums of several processes can be added.
"""

from __future__ import annotations

import math
from typing import Final

SLACK: Final = 1.3  # upstream may count that many times the tokens that we do, or we that many times its
EXACT: Final = 0.02  # so near are two estimates that are made in the same way

# While a bucket is used without a pause, what the network delayed at its beginning stays missing. So where both sides
# lack more than this request and another one, so many seconds of refill are no difference.
DELAY_S: Final = 1.5

_ROUNDING: Final = 1e-4  # requests


class Counts:
    """Of one limit: answers, those by which upstream lacked `more` or `less` than our books explain, and those whose
    request found the bucket less than full, by upstream (`lacked`) and by our books (`explained`). Of the others,
    `exact`: upstream lacks what we estimated for this request. `limit` and `taught` (by how much evidence has moved our
    level so far) are those of the newest answer, reserved at `at`."""

    __slots__ = ("answers", "at", "exact", "explained", "lacked", "less", "limit", "more", "taught")

    def __init__(self) -> None:
        self.answers = 0
        self.more = 0
        self.less = 0
        self.lacked = 0
        self.explained = 0
        self.exact = 0
        self.limit = 0.0
        self.at = 0.0
        self.taught = 0.0

    def note_requests(self, at: float, limit: float, period_s: float, lacks: float, ours: float, taught: float) -> None:
        """An answer. `lacks`: requests of a full bucket that upstream lacked right after this one, a whole number since
        `remaining` is rounded down; `ours`: what it lacks by our books."""
        self.answers += 1
        margin = min(limit / period_s * DELAY_S, max(0.0, min(ours, lacks) - 2)) - _ROUNDING
        if lacks > math.ceil(ours + margin):
            self.more += 1
        elif lacks < math.ceil(ours - margin - 2 * _ROUNDING):
            self.less += 1
        if lacks > 1:
            self.lacked += 1
        if ours > 1 + _ROUNDING:
            self.explained += 1
        if at >= self.at:
            self.at, self.limit, self.taught = at, limit, taught

    def note_tokens(self, at: float, limit: float, cost: float, lacks: float, ours: float, taught: float) -> None:
        """The same of a minute's tokens, of which this request took `cost`."""
        self.answers += 1
        margin = min(limit / 60 * DELAY_S, max(0.0, min(ours, lacks) - 2 * cost)) + 1
        if lacks > SLACK * ours + margin:
            self.more += 1
        elif ours > SLACK * lacks + margin:
            self.less += 1
        if lacks > cost + 1:
            self.lacked += 1
        if ours > cost + 1:
            self.explained += 1
        elif abs(lacks - ours) <= EXACT * ours + 2:
            self.exact += 1
        if at >= self.at:
            self.at, self.limit, self.taught = at, limit, taught

    def numbers(self) -> list[float]:
        """As `Slice` of `outside_use.py`."""
        counts: list[float] = [self.answers, self.more, self.less, self.lacked, self.explained, self.exact]
        return [*counts, self.limit, self.at, self.taught]


class Tally:
    """Of one (account, model group), in some seconds. Tokens are compared with both predictions, of which one is
    upstream's way of charging; `overruns`: answers that used far more than was reserved for them; `seen`: answers, also
    those that were not compared."""

    __slots__ = ("corrected", "day", "kept", "overruns", "requests", "seen")

    def __init__(self) -> None:
        self.requests = Counts()
        self.kept = Counts()
        self.corrected = Counts()
        self.day = Counts()
        self.overruns = 0
        self.seen = 0

    def numbers(self) -> list[object]:
        """As `Slices` of `outside_use.py`."""
        parts = self.requests, self.kept, self.corrected, self.day
        return [*(part.numbers() if part.answers else None for part in parts), self.overruns]
