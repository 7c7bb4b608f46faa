"""The outcome of a replay: waits, refusals, money, and which limits decide. Pure."""

from __future__ import annotations

import math
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from quotapool.domain.quantities import Dimension
from quotapool.plan.demand import Demand
from quotapool.plan.fill import Fill

_HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Waits:
    """Seconds in the queue of requests that were served; those that had room at once waited 0."""

    requests: int = 0
    waited: int = 0  # of them in a queue
    p50_s: float = 0.0
    p99_s: float = 0.0
    mean_s: float = 0.0
    longest_s: float = 0.0

    @classmethod
    def of(cls, seconds: array[float]) -> Waits:
        if not seconds:
            return cls()
        ordered = sorted(seconds)
        count = len(ordered)
        waited = sum(wait > 0 for wait in ordered)
        rank = [ordered[max(0, math.ceil(share * count) - 1)] for share in (0.5, 0.99)]
        return cls(count, waited, rank[0], rank[1], sum(ordered) / count, ordered[-1])


@dataclass(frozen=True, slots=True)
class Share:
    """What one client, or one model, got. `refused`: by error code; `pico`: picodollars."""

    requests: int
    waits: Waits
    refused: dict[str, int]
    pico: int


@dataclass(frozen=True, slots=True)
class Binding:
    """A limit that made requests wait, or refused them: of a model group in one dimension (None: no key is usable, or
    others came first), or a `rule` of a client's.

    `hours`: beginnings (Unix seconds) of those in which it did, with how many requests.
    """

    group: str
    dimension: Dimension | None
    client: str
    rule: str
    waited: int
    refused: int
    hours: dict[float, int]

    @property
    def requests(self) -> int:
        return self.waited + self.refused


@dataclass(frozen=True, slots=True)
class Hour:
    """`at`: its beginning in Unix seconds."""

    at: float
    requests: int
    refused: int
    p99_s: float
    pico: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """From `since` to `until` (Unix seconds). `unpriced`: served requests whose price is not known; `imputed`: requests
    whose use was taken from like ones, since the record has them as refused. `fills`: the fullest first; `bindings`:
    those of most requests first."""

    since: float
    until: float
    requests: int
    waits: Waits
    refused: dict[str, int]
    pico: int
    unpriced: int
    imputed: int
    by_client: dict[str, Share]
    by_model: dict[str, Share]
    pico_by_account: dict[str, int]
    bindings: tuple[Binding, ...]
    fills: tuple[Fill, ...]
    hours: tuple[Hour, ...]

    @property
    def served(self) -> int:
        return self.waits.requests

    @property
    def refusals(self) -> int:
        return sum(self.refused.values())


@dataclass(slots=True)
class _Tally:
    requests: int = 0
    waits: array[float] = field(default_factory=lambda: array("f"))
    refused: Counter[str] = field(default_factory=Counter)
    pico: int = 0

    def share(self) -> Share:
        return Share(self.requests, Waits.of(self.waits), dict(self.refused), self.pico)


@dataclass(slots=True)
class _Bound:
    waited: int = 0
    refused: int = 0
    hours: Counter[float] = field(default_factory=Counter)


class Tallies:
    """Counts while a replay runs. `counted_from`: only requests that arrive from then on (Unix seconds)."""

    def __init__(self, counted_from: float = 0.0) -> None:
        self._counted_from = counted_from
        self._clients: dict[str, _Tally] = {}
        self._models: dict[str, _Tally] = {}
        self._hours: dict[float, _Tally] = {}
        self._accounts: Counter[str] = Counter()
        self._bound: dict[tuple[str, Dimension | None, str, str], _Bound] = {}
        self._unpriced = 0
        self._pico = 0

    def served(self, one: Demand, account: str, waited_s: float) -> None:
        if one.at < self._counted_from:
            return
        for tally in self._tallies(one):
            tally.requests += 1
            tally.waits.append(waited_s)
            tally.pico += one.pico or 0
        self._unpriced += one.pico is None
        self._pico += one.pico or 0
        self._accounts[account] += one.pico or 0

    def refused(self, one: Demand, code: str) -> None:
        if one.at < self._counted_from:
            return
        for tally in self._tallies(one):
            tally.requests += 1
            tally.refused[code] += 1

    def bound(self, one: Demand, group: str, dimension: Dimension | None, rule: str, *, refused: bool) -> None:
        """A limit made it wait, or refused it."""
        if one.at < self._counted_from:
            return
        name = ("", None, one.client, rule) if rule else (group, dimension, "", "")
        bound = self._bound.setdefault(name, _Bound())
        bound.refused += refused
        bound.waited += not refused
        bound.hours[_hour(one.at)] += 1

    def outcome(self, since: float, until: float, fills: list[Fill], imputed: int) -> Outcome:
        everything = _Tally()
        for tally in self._models.values():
            everything.requests += tally.requests
            everything.waits.extend(tally.waits)
            everything.refused.update(tally.refused)
        bindings = [
            Binding(*name, bound.waited, bound.refused, dict(sorted(bound.hours.items())))
            for name, bound in self._bound.items()
        ]
        return Outcome(
            since,
            until,
            everything.requests,
            Waits.of(everything.waits),
            dict(everything.refused.most_common()),
            self._pico,
            self._unpriced,
            imputed,
            {name: tally.share() for name, tally in sorted(self._clients.items())},
            {name: tally.share() for name, tally in sorted(self._models.items())},
            dict(self._accounts.most_common()),
            tuple(sorted(bindings, key=_most_first)),
            tuple(sorted(fills, key=lambda one: (-one.fullest, one.account, one.group, one.dimension))),
            tuple(self._hour(at, tally) for at, tally in sorted(self._hours.items())),
        )

    def _tallies(self, one: Demand) -> tuple[_Tally, ...]:
        return (
            self._clients.setdefault(one.client, _Tally()),
            self._models.setdefault(one.model, _Tally()),
            self._hours.setdefault(_hour(one.at), _Tally()),
        )

    @staticmethod
    def _hour(at: float, tally: _Tally) -> Hour:
        return Hour(at, tally.requests, tally.refused.total(), Waits.of(tally.waits).p99_s, tally.pico)


def _most_first(one: Binding) -> tuple[int, str, str, str, str]:
    return -one.requests, one.group, one.dimension or "", one.client, one.rule


def _hour(at: float) -> float:
    return at // _HOUR_S * _HOUR_S
