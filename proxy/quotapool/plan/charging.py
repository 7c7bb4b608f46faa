"""How upstream charges, where its answers have not shown it: what came of the recorded requests tells. Pure.

A stretch of the record is replayed twice on today's pool, by an upstream that keeps the estimate charged and by one
that corrects it to what was used. The way whose refusals and waits are near the recorded ones is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from msgspec.structs import replace

from quotapool.domain.quantities import Cost, Dimension
from quotapool.plan.demand import Demand
from quotapool.plan.queues import NO_ROOM_CODES
from quotapool.plan.replay import replay
from quotapool.plan.scenario import NO_MODEL, Scenario
from quotapool.plan.sources.record import REFUSED, Record, long, utc

MOST: Final = 20_000
"""Requests of the stretch: some seconds of a core for both replays."""
_STEP: Final = 500  # a stretch begins at every so many requests
_LEAD_S: Final = 120.0  # at its beginning, in which buckets forget that they began full; not compared
_LEAST: Final = 100  # requests that are compared
_CHANCE: Final = 10.0  # so many refusals, and seconds of waiting, more or less are no difference
_TELLS: Final = 0.2  # nearer, as a difference of logarithms: about a fifth
_FITS: Final = 1.0  # farther off, the pool is not the one that was recorded
_STAYS: Final = "how upstream charges is not known, and the estimate is taken to stay charged"


@dataclass(frozen=True, slots=True)
class _Fared:
    """What came of the compared requests: so many were refused for want of room, and the others waited so long."""

    refused: int
    waited_s: float

    def distance(self, other: _Fared) -> float:
        """0: the same; of each figure, the logarithm of the factor between both."""
        pairs = (self.refused, other.refused), (self.waited_s, other.waited_s)
        return sum(abs(math.log((a + _CHANCE) / (b + _CHANCE))) for a, b in pairs)

    def __str__(self) -> str:
        return f"{self.refused:,} refused and {long(self.waited_s)} waited in all"


def charged_as_recorded(
    record: Record, scenario: Scenario, *, progress: Callable[[int], None] = lambda _: None
) -> tuple[Scenario, tuple[str, ...]]:
    """The pool with the way of charging that fits the record, and what is said of that. Unchanged, and nothing said,
    where answers have shown how it charges, or no limit is of tokens. `progress` hears of requests, up to twice `MOST`.
    """
    groups = {one.group or one.model for one in record.demand} - {"", NO_MODEL}
    if any(account.corrects for account in scenario.accounts) or not _counts_tokens(scenario, groups):
        return scenario, ()
    fared = record.happened.fared
    if fared is None:
        return scenario, (f"{_STAYS}: the record does not say how long requests waited",)
    first = _liveliest(record)
    stretch = record.demand[first : first + MOST]
    since = stretch[0].at + _LEAD_S
    compared = [wait_s for one, wait_s in zip(stretch, fared[first:], strict=False) if one.at >= since]
    if len(compared) < _LEAST:
        return scenario, (f"{_STAYS}: the record is too short to tell",)
    real = _Fared(sum(wait_s == REFUSED for wait_s in compared), sum(wait_s for wait_s in compared if wait_s > 0))
    kept, corrected = (_charging(scenario, groups, corrects=way) for way in (False, True))
    if_kept = _replayed(stretch, kept, since, progress)
    if_corrected = _replayed(stretch, corrected, since, lambda done: progress(len(stretch) + done))
    of = f"of the {len(compared):,} requests until {utc(stretch[-1].at)} UTC, {real}"
    both = f"replayed, {if_corrected} if it charges what was used, {if_kept} if the estimate stays charged"
    far = if_kept.distance(real), if_corrected.distance(real)
    if not any((real.refused, real.waited_s, if_kept.refused, if_kept.waited_s)):
        return scenario, (f"{_STAYS}: nothing waited or was refused, so the record cannot tell",)
    if abs(far[0] - far[1]) < _TELLS:
        return scenario, (f"{_STAYS}: the record fits both ways alike ({of}; {both})",)
    if min(far) > _FITS:
        return scenario, (f"{_STAYS}: the record fits neither way, as if the pool had changed since ({of}; {both})",)
    way, chosen = ("what was used", corrected) if far[1] < far[0] else ("the estimate", kept)
    return chosen, (f"upstream is taken to charge {way}, which fits the record better: {of}; {both}",)


def _counts_tokens(scenario: Scenario, groups: set[str]) -> bool:
    of_tokens = [dimension for dimension in Dimension if Cost(0, 1).of(dimension)]
    limits = [account.limits_of(group) for account in scenario.accounts for group in groups]
    return any(one.of(dimension) is not None for one in limits for dimension in of_tokens)


def _charging(scenario: Scenario, groups: set[str], *, corrects: bool) -> Scenario:
    ways = dict.fromkeys(groups, corrects)
    return replace(scenario, accounts=tuple(replace(account, corrects=ways) for account in scenario.accounts))


def _liveliest(record: Record) -> int:
    """Where the stretch begins that has most requests which waited or were refused; of those alike, most tokens."""
    fared, demand = record.happened.fared or (), record.demand
    stirred = [0, *accumulate(wait_s > 0 or wait_s == REFUSED for wait_s in fared)]
    tokens = [0, *accumulate(one.reserved for one in demand)]
    starts = range(0, max(1, len(demand) - MOST + _STEP), _STEP)

    def lively(start: int) -> tuple[int, int]:
        end = min(len(demand), start + MOST)
        return stirred[end] - stirred[start], tokens[end] - tokens[start]

    return max(starts, key=lively)


def _replayed(stretch: list[Demand], scenario: Scenario, since: float, progress: Callable[[int], None]) -> _Fared:
    outcome = replay(stretch, scenario, progress=progress, counted_from=since)
    refused = sum(count for code, count in outcome.refused.items() if code in NO_ROOM_CODES)
    return _Fared(refused, outcome.waits.mean_s * outcome.served)
