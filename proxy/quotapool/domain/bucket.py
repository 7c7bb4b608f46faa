"""The arithmetic of one (account, model group): a token bucket per dimension. This is the specification.

`ledger/lua/ledger/*.lua` is the implementation that all replicas share; `tests/ledger/test_lua_follows_the_bucket.py`
drives both with the same trace. Times are seconds of one clock, levels and costs are counts of their dimension.

Laws
- A bucket holds at most its depth and refills continuously at limit / period, never while time stands still, and
  neither more nor less when its clock is set.
- A request fits when every bounded bucket holds its cost and a margin, or is full: a cost above the depth but not
  above the limit waits for a full bucket and drives it below zero, so that it is slow but not starved.
- A cost above the limit never fits (`NEVER`): it needs another account, or gets a clear error at once.
- A refused request that comes back alone after the wait it was given is granted.
- A level below zero is a real debt, paid off by time.

Two predictions. OpenAI charges an estimate at admission; whether it corrects that to the usage afterwards is not
documented. So each bucket keeps two levels: `kept` (the estimate stays charged) and `corrected` (the unused part came
back). Upstream's `remaining` shows which of them it agrees with (`lean`); until then the more cautious one leads.

Evidence. `remaining` describes the moment of one reservation. Differences that calls reserved within `REORDER_S`
before or after it can explain are ignored, and corrections made since then count for that moment too: calls in flight
that all show the same surprise correct the level once. A level too high is lowered at once and widens the margin, since
somebody else uses the account; a level too low is raised by a part only, since a correction may reach upstream before
it reaches us.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import msgspec

from quotapool.domain.quantities import PERIOD_S, Cost, Dimension, Limits

DIMENSIONS: Final = tuple(Dimension)
NEVER: Final = math.inf
UNKNOWN: Final = -1.0  # a limit that is neither configured nor reported by upstream

# Our depth is this many seconds of refill below upstream's, because its debits come later than ours by the network's
# latency. It is given away once, not per second.
BREATH_S: Final = 1.2
REORDER_S: Final = 0.3  # calls this close together may reach upstream in another order than they were reserved
RAISE: Final = 0.2  # the part of a surprise upward that is believed at once
LEARN: Final = 0.1  # weight of one answer in distinguishing the two ways of charging
TRUSTED: Final = -0.02  # below, `corrected` leads
WIDEST_MARGIN: Final = 0.2  # of the limit
MARGIN_DECAY_S: Final = 600.0
SHORTEST_BURST_S: Final = 1.0
BURST_GROWTH_S: Final = 600.0  # a learned burst depth doubles in this time, up to the whole period
SLOWED: Final = 0.7  # each `slow_down` leaves this part of the rate
SLOWEST: Final = 0.05
RAMP_GROWTH: Final = 1.5 ** (1 / 900.0)  # per second; "at most 50 % per 15 minutes" (OpenAI's rate limit guide)
_GROWN_S: Final = 86_400.0  # by then both have grown to the whole; powers of many days are beyond a float

# A first guess for limits that are not configured, until upstream answers. It does not cap learned limits.
GUESS: Final = (500.0, 200_000.0, math.inf, math.inf, math.inf, math.inf)
GUESSED_BURST: Final = 3.0  # requests let through before the first answer reports the limits


class Moment(msgspec.Struct, frozen=True, gc=False):  # two for every request
    """One dimension of a bucket right after a reservation, to be compared with upstream's `remaining` later."""

    kept: float
    corrected: float
    charged: float
    recent: float
    taught_kept: float = 0.0
    taught_corrected: float = 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Upstream's `limit` and `remaining` of one dimension, as of the reservation at `then`."""

    dimension: Dimension
    limit: float
    remaining: float
    then: Moment | None  # None: the bucket was unbounded


@dataclass(slots=True)
class Bucket:
    """Levels of one (account, model group). None: unbounded.

    `learned`: limits that upstream reported (UNKNOWN, a number, or inf: it reports none); `charged`: the total ever
    taken; `recent`: what was taken within about REORDER_S; `taught_*`: by how much evidence has moved a level, in all;
    `seen`: when the reservation of the newest evidence was made.
    """

    at: float
    cool_until: float = 0.0
    kept: list[float | None] = field(default_factory=lambda: [None] * len(DIMENSIONS))
    corrected: list[float | None] = field(default_factory=lambda: [None] * len(DIMENSIONS))
    learned: list[float] = field(default_factory=lambda: [UNKNOWN] * len(DIMENSIONS))
    charged: list[float] = field(default_factory=lambda: [0.0] * len(DIMENSIONS))
    recent: list[float] = field(default_factory=lambda: [0.0] * len(DIMENSIONS))
    margin: list[float] = field(default_factory=lambda: [0.0] * len(DIMENSIONS))
    taught_kept: list[float] = field(default_factory=lambda: [0.0] * len(DIMENSIONS))
    taught_corrected: list[float] = field(default_factory=lambda: [0.0] * len(DIMENSIONS))
    lean: float = 0.0  # -1: upstream corrects, 1: it keeps the estimate
    seen: float = 0.0
    burst_s: float = 60.0
    ramp: float = 1.0

    def limit(self, index: int, written: Limits) -> float:
        """The limit in force: a configured limit caps a learned one; a guess if there is neither."""
        wrote, learned = written.of(DIMENSIONS[index]), self.learned[index]
        if wrote is not None:
            return min(wrote, learned) if learned >= 0 else wrote
        return learned if learned >= 0 else GUESS[index]

    def depth(self, index: int, written: Limits, burst_s: float = 60.0) -> float:
        """What a full bucket holds. `burst_s`: how many seconds of a minute's limit may come at once."""
        return self._depth(index, self.limit(index, written), burst_s)

    def _depth(self, index: int, limit: float, burst_s: float) -> float:
        period = PERIOD_S[DIMENSIONS[index]]
        span = period
        if period <= 60:
            span = min(burst_s, self.burst_s, period)
            limit *= self.ramp
        return limit * max(span - BREATH_S, span * 0.5) / period

    def missing(self, written: Limits, burst_s: float = 60.0) -> tuple[list[float], list[float]]:
        """By dimension, what `kept` and `corrected` lack of a full bucket; nothing where the limit is but a guess."""
        missing = [0.0] * len(DIMENSIONS), [0.0] * len(DIMENSIONS)
        for i, dimension in enumerate(DIMENSIONS):
            if written.of(dimension) is None and self.learned[i] < 0:
                continue
            full = self.depth(i, written, burst_s)
            for lacks, level in zip(missing, (self.kept[i], self.corrected[i]), strict=True):
                lacks[i] = full - level if level is not None else 0.0
        return missing

    def rate(self, index: int, written: Limits) -> float:
        """Refill per second."""
        return self._rate(index, self.limit(index, written))

    def _rate(self, index: int, limit: float) -> float:
        period = PERIOD_S[DIMENSIONS[index]]
        return limit / period * (self.ramp if period <= 60 else 1.0)

    def level(self, index: int) -> float | None:
        """The prediction that leads."""
        return self.corrected[index] if self._corrected_leads(index) else self.kept[index]

    def _corrected_leads(self, index: int) -> bool:
        """Decided by upstream's answers; until they are conclusive, the more cautious prediction leads."""
        kept, corrected = self.kept[index], self.corrected[index]
        if abs(self.lean) > abs(TRUSTED) or kept is None or corrected is None:
            return self.lean < TRUSTED
        return corrected < kept

    def refill(self, now: float, written: Limits, *, start_empty: bool = False, burst_s: float = 60.0) -> None:
        """Bring everything up to `now`. If the clock was set back since, the bucket goes on from there."""
        if now < self.at:
            self.move(now - self.at)
        elapsed = now - self.at
        self.at = now
        growing_s = min(elapsed, _GROWN_S)
        self.ramp = min(1.0, self.ramp * RAMP_GROWTH**growing_s)
        self.burst_s = min(60.0, self.burst_s * 2 ** (growing_s / BURST_GROWTH_S))
        recent, margin = math.exp(-elapsed / REORDER_S), math.exp(-elapsed / MARGIN_DECAY_S)
        for i, dimension in enumerate(DIMENSIONS):
            self.recent[i] *= recent
            self.margin[i] *= margin
            limit = self.limit(i, written)
            if math.isinf(limit):
                self.kept[i] = self.corrected[i] = None
                continue
            full = self._depth(i, limit, burst_s)
            kept, corrected = self.kept[i], self.corrected[i]
            if kept is None or corrected is None:
                guessed = written.of(dimension) is None and self.learned[i] < 0
                start = min(full, GUESSED_BURST) if guessed and dimension is Dimension.RPM else full
                if start_empty and PERIOD_S[dimension] <= 60:
                    start = 0.0
                self.kept[i] = self.corrected[i] = start
            else:
                gained = elapsed * self._rate(i, limit)
                self.kept[i], self.corrected[i] = min(full, kept + gained), min(full, corrected + gained)

    def move(self, seconds: float) -> None:
        """The clock was set by so many seconds: all times of the bucket go along. Nothing is gained by that, and a
        cool-down gets neither longer nor shorter."""
        self.at += seconds
        self.cool_until += seconds if self.cool_until else 0.0
        self.seen += seconds if self.seen else 0.0

    def wait(
        self, cost: Cost, written: Limits, burst_s: float = 60.0, leave: float = 0.0
    ) -> tuple[float, Dimension | None]:
        """Seconds until `cost` fits (0: now; NEVER) and the dimension that decides. Call `refill` first.

        `leave`: the share of the depth that must stay for others. Nothing stays of a limit that is only guessed: its
        level says how many answers it waits for, not how much there is.
        """
        longest, which = max(0.0, self.cool_until - self.at), None
        for i, dimension in enumerate(DIMENSIONS):
            amount = cost.of(dimension)
            if amount <= 0 or (level := self.level(i)) is None:
                continue
            limit = self.limit(i, written)
            if amount > limit:
                return NEVER, dimension
            full = self._depth(i, limit, burst_s)
            is_guess = self.learned[i] < 0 and written.of(dimension) is None
            need = min(amount + self.margin[i] + (0.0 if is_guess else leave * full), full)
            if level < need and (wait := (need - level) / self._rate(i, limit)) > longest:
                longest, which = wait, dimension
        return longest, which

    def take(self, cost: Cost) -> None:
        for i, dimension in enumerate(DIMENSIONS):
            amount = cost.of(dimension)
            self._add(i, -amount, -amount)
            self.charged[i] += amount
            self.recent[i] += amount

    def moment(self, index: int) -> Moment | None:
        """This dimension now, for `Evidence`."""
        kept, corrected = self.kept[index], self.corrected[index]
        if kept is None or corrected is None:
            return None
        taught = self.taught_kept[index], self.taught_corrected[index]
        return Moment(kept, corrected, self.charged[index], self.recent[index], *taught)

    def settle(self, back: Cost, unused_tokens: float) -> None:
        """`back`: what upstream never charged. `unused_tokens`: reserved less used, which upstream may have corrected;
        negative if more was used, a debt if upstream corrects. It does not change the level that keeps the estimate."""
        for i, dimension in enumerate(DIMENSIONS):
            amount = back.of(dimension)
            freed = unused_tokens if Cost(0, 1).of(dimension) else 0.0
            self._add(i, amount, amount + freed)
            self.charged[i] -= amount

    def follow(self, reserved_at: float, evidence: Iterable[Evidence], written: Limits, burst_s: float = 60.0) -> None:
        """Learn limits and correct levels by what upstream reported for the reservation made at `reserved_at`."""
        news = list(evidence)
        reserved_at = min(reserved_at, self.at)  # it was made before the clock was set back
        fresh = reserved_at > self.seen or not self.seen  # of those reserved at one moment, only the first to report
        if news:
            self.seen = max(self.seen, reserved_at)
        for e in news:
            i = DIMENSIONS.index(e.dimension)
            guessed = written.of(e.dimension) is None and self.learned[i] < 0
            self.learned[i] = e.limit
            kept, corrected = self.kept[i], self.corrected[i]
            if guessed or kept is None or corrected is None:
                since = max(0.0, self.charged[i] - e.then.charged) if e.then else 0.0
                level = min(self.depth(i, written, burst_s), e.remaining - since)
                self._teach(i, level - (kept or 0.0), level - (corrected or 0.0))
                self.kept[i] = self.corrected[i] = level
            elif fresh and e.then is not None:
                self._compare(i, e, e.then, max(0.0, self.at - reserved_at), written)

    def _compare(self, i: int, e: Evidence, then: Moment, age: float, written: Limits) -> None:
        since = max(0.0, self.charged[i] - then.charged)
        after = since * min(1.0, REORDER_S / age) if age > 0 else since
        limit = self.limit(i, written)
        before = then.recent + limit / PERIOD_S[e.dimension] * BREATH_S
        may_raise = limit >= e.limit  # a lower configured limit says nothing about upstream's level
        then_kept = then.kept + self.taught_kept[i] - then.taught_kept
        then_corrected = then.corrected + self.taught_corrected[i] - then.taught_corrected
        kept = _surprise(e.remaining - then_kept, before, after, may_raise=may_raise)
        corrected = _surprise(e.remaining - then_corrected, before, after, may_raise=may_raise)
        leading = corrected if self._corrected_leads(i) else kept
        lesson = kept if kept < 0 else kept * RAISE, corrected if corrected < 0 else corrected * RAISE
        self._add(i, *lesson)
        self._teach(i, *lesson)
        if leading < 0:
            wider = max(self.margin[i], -leading) - leading / 4
            self.margin[i] = min(WIDEST_MARGIN * limit, wider)
        if Cost(0, 1).of(e.dimension) and limit > 0:
            shown = (abs(corrected) - abs(kept)) / limit * 20
            self.lean += LEARN * (max(-1.0, min(1.0, shown)) - self.lean)

    def trust_usage(self, written: Limits, burst_s: float = 60.0) -> None:
        """Upstream answered successfully and reported no limits: unconfigured limits are unbounded, and its usage is
        all there is to go by."""
        self.learned = [math.inf if learned < 0 else learned for learned in self.learned]
        if not self.seen:
            self.lean = -1.0
        self.refill(self.at, written, burst_s=burst_s)

    def shorten_burst(self) -> None:
        """Upstream refused although it had enough left for the minute: it enforces limits over shorter spans."""
        self.burst_s = max(SHORTEST_BURST_S, self.burst_s / 2)

    def slow_down(self) -> None:
        """Traffic grew too fast for upstream: allow a part of the rate now, the rest gradually."""
        self.ramp = max(SLOWEST, self.ramp * SLOWED)

    def _teach(self, i: int, kept: float, corrected: float) -> None:
        self.taught_kept[i] += kept
        self.taught_corrected[i] += corrected

    def _add(self, i: int, to_kept: float, to_corrected: float) -> None:
        kept, corrected = self.kept[i], self.corrected[i]
        if kept is not None and corrected is not None:
            self.kept[i], self.corrected[i] = kept + to_kept, corrected + to_corrected


def _surprise(difference: float, before: float, after: float, *, may_raise: bool) -> float:
    """The part of `difference` (upstream's level minus ours) that calls near in time do not explain."""
    if difference < -after:
        return difference + after
    if difference > before and may_raise:
        return difference - before
    return 0.0
