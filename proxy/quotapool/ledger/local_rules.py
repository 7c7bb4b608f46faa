"""This process's share of clients' rules while the store is away (`on_redis_loss: serve`).

Each of N replicas goes on from what it last saw as if every request cost N times as much, so that together they stay
within what was left. A rule that this process never saw used has an unknown rest, so it gives nothing: a budget may be
used up. What was used is charged in the store when it is back.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from quotapool.domain.rules import Asked, Counters, Kind
from quotapool.ledger.grants import Blocked, BlockedRule
from quotapool.ledger.rules import Charge, RuleSet, Standing, asked_of, settled_of

_SELF: Final = "self"


class LocalRules:
    """Counters by subject; seconds are the store's, as far as known."""

    def __init__(self) -> None:
        self._replicas = 1
        self._counters: dict[str, Counters] = {}
        self._begun: set[Standing] = set()
        self._owed: dict[Standing, float] = {}

    def begin(self, replicas: int) -> None:
        """The store is away: from now on this process uses its share as one of `replicas`."""
        self._replicas = replicas

    def blocked(self, charge: Charge, now: float) -> Blocked | None:
        """What does not let it through; None: nothing. A second call is needed to take it."""
        found: list[BlockedRule] = []
        place = 0
        for name, asked in asked_of(charge, self._amounts(charge), now):
            for one in self._of(name, charge, asked, now).blocked(now, asked):
                n = place + one.place
                standing = charge.standings[n]
                found.append(BlockedRule(standing, charge.amounts[n], standing.used, standing.held, one.wait_s))
            place += len(asked)
        return Blocked(tuple(found), now, charge.guessed) if found else None

    def take(self, charge: Charge, now: float) -> None:
        for name, asked in asked_of(charge, self._amounts(charge), now):
            self._of(name, charge, asked, now).take(now, _SELF, asked)

    def settle(self, charge: Charge, used: Sequence[float], *, was_held: bool = True) -> None:
        """What a request used that was granted here, or beside any grant."""
        for standing, amount in zip(charge.standings, used, strict=True):
            self._owed[standing] = self._owed.get(standing, 0.0) + amount
            standing.spent(0.0, amount, 0.0)
        held = self._amounts(charge) if was_held else charge.nothing()
        for name, settled in settled_of(charge, held, [amount * self._replicas for amount in used]):
            if name in self._counters:
                self._counters[name].settle(_SELF, settled, math.inf if was_held else 0.0)

    def pay(self) -> tuple[Charge, list[float]] | None:
        """What is owed, and how much of each; it counts as paid then. None: nothing."""
        owed = sorted(((s, amount) for s, amount in self._owed.items() if amount), key=lambda pair: pair[0].subject)
        self._owed.clear()
        if not owed:
            return None
        amounts = [amount for _, amount in owed]
        return Charge(RuleSet([standing for standing, _ in owed]), amounts), amounts

    def end(self) -> None:
        """The store grants again."""
        self._counters.clear()
        self._begun.clear()

    def _amounts(self, charge: Charge) -> list[float]:
        """As if it cost N times as much, yet no request is too large that was not too large before."""
        pairs = zip(charge.standings, charge.amounts, strict=True)
        return [a if a > (limit := s.rule.limit) else min(a * self._replicas, limit) for s, a in pairs]

    def _of(self, name: str, charge: Charge, asked: Sequence[Asked], now: float) -> Counters:
        """The subject's counters, with each of its rules begun from what was last seen of it."""
        counters = self._counters.setdefault(name, Counters())
        begun = self._begun
        ours = [standing for standing in charge.standings if standing.subject == name]
        for standing, one in zip(ours, asked, strict=True):
            if standing in begun:
                continue
            begun.add(standing)
            rule = standing.rule
            taken = rule.limit - standing.left_at(now) if standing.seen_at else rule.limit
            if rule.kind is Kind.SLOTS:
                taken = standing.held if standing.seen_at else 0.0
            counters.begin(now, one, taken)
        return counters
