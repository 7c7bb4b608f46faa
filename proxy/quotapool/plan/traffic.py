"""Demand made ready for a replay: what refused requests would have used, and traffic that grows or shrinks. Pure.

Nobody knows what a refused request would have used. It is given the use of a served one of the same client and model
(else of the model, else of any) whose estimate is near its own.
"""

from __future__ import annotations

import bisect
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Final

from msgspec.structs import replace

from quotapool.plan.demand import Demand
from quotapool.plan.scenario import Traffic

MOST_SCALED: Final = 2_000_000
"""Requests of one replay: some 300 bytes each, and some minutes."""
_MOST_LIKE: Final = 2_000  # served requests of one kind that are remembered
_NEAR: Final = 8  # of those whose estimate is nearest on either side, one is taken
_SHORTEST_SHIFT_S: Final = 30.0
_LONGEST_SHIFT_S: Final = 300.0


@dataclass(slots=True)
class _Served:
    """A sample of served requests, by their estimate."""

    seen: int = 0
    sample: list[Demand] = field(default_factory=list)
    _reserved: list[int] = field(default_factory=list)

    def add(self, one: Demand, rng: random.Random) -> None:
        self.seen += 1
        if len(self.sample) < _MOST_LIKE:
            self.sample.append(one)
        elif (place := int(rng.random() * self.seen)) < _MOST_LIKE:
            self.sample[place] = one

    def like(self, one: Demand, rng: random.Random) -> Demand:
        if len(self._reserved) != len(self.sample):
            self.sample.sort(key=attrgetter("reserved"))
            self._reserved = [served.reserved for served in self.sample]
        first = bisect.bisect_left(self._reserved, one.reserved)
        last = bisect.bisect_right(self._reserved, one.reserved)
        if last - first < _NEAR:
            first, last = max(0, first - _NEAR), min(len(self.sample), last + _NEAR)
        return self.sample[first + int(rng.random() * (last - first))]


def filled(demand: Sequence[Demand], seed: int) -> list[Demand]:
    """All of it with a use; what was refused where nothing at all was served uses its estimate, at no known price."""
    rng = random.Random(f"{seed} use")
    served: dict[tuple[str, str], _Served] = {}
    if all(one.is_seen for one in demand):
        return list(demand)
    for one in demand:
        if one.is_seen:
            for kind in ((one.client, one.model), ("", one.model), ("", "")):
                served.setdefault(kind, _Served()).add(one, rng)
    found: list[Demand] = []
    for one in demand:
        if one.is_seen:
            found.append(one)
            continue
        kinds = ((one.client, one.model), ("", one.model), ("", ""))
        known = next((s for kind in kinds if (s := served.get(kind)) is not None), None)
        if known is None:
            found.append(replace(one, tokens=one.reserved, took_s=1.0, pico=None))
            continue
        like = known.like(one, rng)
        # Of one with another estimate the same part is used; the price follows the tokens.
        part = one.reserved / like.reserved if like.reserved and one.reserved else 1.0
        pico = None if like.pico is None else round(like.pico * part)
        found.append(replace(one, tokens=round(like.tokens * part), took_s=like.took_s, pico=pico))
    return found


def _factor(one: Demand, changes: Iterable[Traffic]) -> float:
    factor = 1.0
    for change in changes:
        if change.client in {"", one.client} and change.model in {"", one.model}:
            factor *= change.factor
    return factor


def count_of(demand: Iterable[Demand], traffic: Iterable[Traffic]) -> float:
    """About how many requests `scaled` makes of these."""
    changes = tuple(traffic)
    return sum(_factor(one, changes) for one in demand)


def scaled(demand: Sequence[Demand], traffic: Iterable[Traffic], seed: int) -> list[Demand]:
    """In order of time, with the factors that concern each request multiplied.

    A copy of a client's requests comes some minutes beside the original, all of it by the same: so bursts stay bursts
    and the day keeps its shape. What would leave the record at one end comes in at the other.
    """
    changes = tuple(traffic)
    if not changes or not demand:
        return list(demand)
    rng = random.Random(f"{seed} traffic")
    since = demand[0].at
    span_s = demand[-1].at - since
    shifts: dict[tuple[str, int], float] = {}
    found: list[Demand] = []
    for one in demand:
        factor = _factor(one, changes)
        whole = int(factor)
        for copy in range(whole + (rng.random() < factor - whole)):
            if copy == 0:
                found.append(one)
                continue
            shift_s = shifts.get((one.client, copy))
            if shift_s is None:
                draw = random.Random(f"{seed} {copy} {one.client}")
                shift_s = draw.choice((-1, 1)) * draw.uniform(_SHORTEST_SHIFT_S, _LONGEST_SHIFT_S)
                shifts[one.client, copy] = shift_s
            at = since + (one.at - since + shift_s) % span_s if span_s > 0 else one.at
            found.append(replace(one, at=at))
    found.sort(key=attrgetter("at"))
    return found
