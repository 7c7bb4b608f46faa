"""The arithmetic of one (account, model group): a token bucket per dimension. The specification.

`ledger/lua/ledger.lua` is the implementation that all replicas share; `tests/ledger/test_lua_follows_the_bucket.py`
drives both with the same trace. Times are seconds of one clock, levels and costs are counts of their dimension.

Laws
- A bucket holds at most its depth, refills continuously at limit / period, and never while time stands still.
- A request fits when every bounded bucket holds its cost and a margin, or is full: a cost above the depth but not
  above the limit waits for a full bucket and drives it below zero, so that it is slow but not starved.
- A cost above the limit never fits (`NEVER`): another account, or an immediate clear error.
- A refused request that comes back after the wait it was told, alone, is granted.
- A level below zero is a real debt, paid by time.

Two predictions. OpenAI charges an estimate at admission; whether it corrects that to the usage afterwards is not
documented. So each bucket keeps two levels: `kept` (the estimate stays charged) and `corrected` (what was not used
came back). Upstream's `remaining` says which of them it agrees with (`lean`), and the cautious one leads until then.

Evidence. `remaining` describes the moment of one reservation. What calls reserved within `REORDER_S` of it explain,
either side, teaches nothing, and what was taught since applies to that moment too: calls in flight that all show the
same surprise teach it once. A level too high is lowered at once and widens the margin, since somebody else uses the
account; a level too low is raised by a part, since a correction may reach upstream before it reaches us.
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
UNKNOWN: Final = -1.0  # a limit nobody wrote and upstream has not told

# Kept below upstream's depth, because its debits come a network's trip later than ours: this much refill is given
# away once, not per second. Seconds.
BREATH_S: Final = 1.2
REORDER_S: Final = 0.3  # calls this close together may reach upstream in another order than they were reserved
RAISE: Final = 0.2  # the part of a surprise upward that is believed at once
LEARN: Final = 0.1  # weight of one answer in telling the two ways of charging apart
TRUSTED: Final = -0.02  # below, `corrected` leads
WIDEST_MARGIN: Final = 0.2  # of the limit
MARGIN_DECAY_S: Final = 600.0
SHORTEST_BURST_S: Final = 1.0
BURST_GROWTH_S: Final = 600.0  # a learned burst depth doubles in this time, up to the whole period
SLOWED: Final = 0.7  # each `slow_down` leaves this part of the rate
SLOWEST: Final = 0.05
RAMP_GROWTH: Final = 1.5 ** (1 / 900.0)  # a second; "at most 50 % per 15 minutes" (OpenAI's rate limit guide)

# A first guess where nobody wrote a limit and upstream has not answered yet. It caps nothing that is learned.
GUESS: Final = (500.0, 200_000.0, math.inf, math.inf, math.inf, math.inf)
GUESSED_BURST: Final = 3.0  # requests let through before the first answer tells the limits


class Moment(msgspec.Struct, frozen=True, gc=False):  # two for every request
    """One dimension of a bucket right after a reservation, for comparing with upstream's `remaining` later."""

    kept: float
    corrected: float
    charged: float
    recent: float
    taught_kept: float = 0.0
    taught_corrected: float = 0.0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Upstream's `limit` and `remaining` of one dimension, as if it had admitted the reservation of `then`."""

    dimension: Dimension
    limit: float
    remaining: float
    then: Moment | None  # None: the bucket was unbounded


@dataclass(slots=True)
class Bucket:
    """Levels of one (account, model group). None: unbounded.

    `learned`: limits upstream named (UNKNOWN, a number, or inf: it names none); `charged`: all that was ever taken;
    `recent`: what was taken within about REORDER_S; `taught_*`: by how much evidence moved a level, in all;
    `seen`: when the newest evidence was reserved.
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
        """The limit in force: what somebody wrote caps what was learned; a guess where there is neither."""
        wrote, learned = written.of(DIMENSIONS[index]), self.learned[index]
        if wrote is not None:
            return min(wrote, learned) if learned >= 0 else wrote
        return learned if learned >= 0 else GUESS[index]

    def depth(self, index: int, written: Limits, burst_s: float = 60.0) -> float:
        """What a full bucket holds. `burst_s`: how many seconds of a minute's limit may come at once."""
        limit, period = self.limit(index, written), PERIOD_S[DIMENSIONS[index]]
        span = period
        if period <= 60:
            span = min(burst_s, self.burst_s, period)
            limit *= self.ramp
        return limit * max(span - BREATH_S, span * 0.5) / period

    def rate(self, index: int, written: Limits) -> float:
        """Refill a second."""
        period = PERIOD_S[DIMENSIONS[index]]
        return self.limit(index, written) / period * (self.ramp if period <= 60 else 1.0)

    def level(self, index: int) -> float | None:
        """The prediction that leads."""
        return self.corrected[index] if self._corrected_leads(index) else self.kept[index]

    def _corrected_leads(self, index: int) -> bool:
        """By what upstream's answers showed; until they do, where it is the more cautious one."""
        kept, corrected = self.kept[index], self.corrected[index]
        if abs(self.lean) > abs(TRUSTED) or kept is None or corrected is None:
            return self.lean < TRUSTED
        return corrected < kept

    def refill(self, now: float, written: Limits, *, start_empty: bool = False, burst_s: float = 60.0) -> None:
        """Bring everything to `now`; a clock that went back counts as standing still."""
        elapsed = max(0.0, now - self.at)
        self.at += elapsed
        self.ramp = min(1.0, self.ramp * RAMP_GROWTH**elapsed)
        self.burst_s = min(60.0, self.burst_s * 2 ** (elapsed / BURST_GROWTH_S))
        for i, dimension in enumerate(DIMENSIONS):
            self.recent[i] *= math.exp(-elapsed / REORDER_S)
            self.margin[i] *= math.exp(-elapsed / MARGIN_DECAY_S)
            if math.isinf(self.limit(i, written)):
                self.kept[i] = self.corrected[i] = None
                continue
            full = self.depth(i, written, burst_s)
            kept, corrected = self.kept[i], self.corrected[i]
            if kept is None or corrected is None:
                guessed = written.of(dimension) is None and self.learned[i] < 0
                start = min(full, GUESSED_BURST) if guessed and dimension is Dimension.RPM else full
                if start_empty and PERIOD_S[dimension] <= 60:
                    start = 0.0
                self.kept[i] = self.corrected[i] = start
            else:
                gained = elapsed * self.rate(i, written)
                self.kept[i], self.corrected[i] = min(full, kept + gained), min(full, corrected + gained)

    def wait(
        self, cost: Cost, written: Limits, burst_s: float = 60.0, leave: float = 0.0
    ) -> tuple[float, Dimension | None]:
        """Seconds until `cost` fits (0: now; NEVER) and the dimension that decides. Call `refill` first.

        `leave`: the share of the depth that must stay for others.
        """
        longest, which = max(0.0, self.cool_until - self.at), None
        for i, dimension in enumerate(DIMENSIONS):
            amount, level = cost.of(dimension), self.level(i)
            if amount <= 0 or level is None:
                continue
            if amount > self.limit(i, written):
                return NEVER, dimension
            full = self.depth(i, written, burst_s)
            need = min(amount + self.margin[i] + leave * full, full)
            if level < need and (need - level) / self.rate(i, written) > longest:
                longest, which = (need - level) / self.rate(i, written), dimension
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
        negative where more was used, a debt if upstream corrects. Where the estimate stays charged, it stays."""
        for i, dimension in enumerate(DIMENSIONS):
            amount = back.of(dimension)
            freed = unused_tokens if Cost(0, 1).of(dimension) else 0.0
            self._add(i, amount, amount + freed)
            self.charged[i] -= amount

    def follow(self, reserved_at: float, evidence: Iterable[Evidence], written: Limits, burst_s: float = 60.0) -> None:
        """Learn limits and correct levels by what upstream said of the reservation made at `reserved_at`."""
        news = list(evidence)
        fresh = reserved_at > self.seen or not self.seen  # of those reserved at one moment, the first one heard
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
        may_raise = limit >= e.limit  # a lower limit that somebody wrote says nothing about upstream's level
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
            told = (abs(corrected) - abs(kept)) / limit * 20
            self.lean += LEARN * (max(-1.0, min(1.0, told)) - self.lean)

    def trust_usage(self, written: Limits, burst_s: float = 60.0) -> None:
        """Upstream answered well and named no limits: what nobody wrote is unbounded, and usage is all there is."""
        self.learned = [math.inf if learned < 0 else learned for learned in self.learned]
        if not self.seen:
            self.lean = -1.0
        self.refill(self.at, written, burst_s=burst_s)

    def shorten_burst(self) -> None:
        """Upstream refused while it had enough left for the minute: it enforces shorter spans."""
        self.burst_s = max(SHORTEST_BURST_S, self.burst_s / 2)

    def slow_down(self) -> None:
        """Traffic grew too fast for upstream: a part of the rate now, the rest little by little."""
        self.ramp = max(SLOWEST, self.ramp * SLOWED)

    def _teach(self, i: int, kept: float, corrected: float) -> None:
        self.taught_kept[i] += kept
        self.taught_corrected[i] += corrected

    def _add(self, i: int, to_kept: float, to_corrected: float) -> None:
        kept, corrected = self.kept[i], self.corrected[i]
        if kept is not None and corrected is not None:
            self.kept[i], self.corrected[i] = kept + to_kept, corrected + to_corrected


def _surprise(difference: float, before: float, after: float, *, may_raise: bool) -> float:
    """What of upstream's level minus ours is not explained by calls that were near in time."""
    if difference < -after:
        return difference + after
    if difference > before and may_raise:
        return difference - before
    return 0.0
