"""What clients and teams may use: their limits and budgets, called rules, and the counters behind them.

`ledger/lua/ledger/rules.lua` is the implementation that all replicas share;
`tests/ledger/test_lua_follows_the_rules.py` compares the two. This one also serves a process's share while the store
is away.

A rate refills by the second, like OpenAI's own limits. A budget counts what was used from one end of a calendar period
to the next; slots, what is in use at the same time. Of the latter two a request holds the most that it may use until it
is settled, so that requests at the same time cannot overrun them together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Final

import msgspec

from quotapool.domain.periods import ENDLESS, Per

_MISSED_FOR_S: Final = 5.0  # what a worker without a sign of life held is free after so long
_CLOSE: Final = 1e-6


class Kind(IntEnum):
    """As the script knows them."""

    RATE = 1
    SLOTS = 2
    BUDGET = 3


class Measure(StrEnum):
    """What a rule counts. Money in picodollars."""

    REQUESTS = "requests"
    TOKENS = "tokens"
    USD = "usd"
    CONCURRENT = "concurrent"  # requests in flight


class Mode(StrEnum):
    """What happens beyond the limit: refuse; serve and warn; serve, and note what would have been refused."""

    HARD = "hard"
    SOFT = "soft"
    SHADOW = "shadow"


class Rule(msgspec.Struct, frozen=True):
    """One limit or budget of a client or a team. `limit` in units of `measure`.

    `id`: unique within its subject, and what its counter is kept under, so it does not change with the limit.
    `period_s`: of a rate. `per`: of a budget. `models`: pattern of the models it is about; "": all.
    """

    id: str
    kind: Kind
    measure: Measure
    limit: float
    mode: Mode = Mode.HARD
    period_s: float = 0.0
    per: Per = Per.TOTAL
    models: str = ""
    warn_at: tuple[float, ...] = ()


class Asked(msgspec.Struct, frozen=True):
    """What a request asks of one rule. `ends`: of a budget, when its period ends and the one after it, Unix seconds;
    `known`: what is known to be used of it already."""

    rule: Rule
    amount: float
    ends: tuple[float, float] = (0.0, 0.0)
    known: float = 0.0


class Seen(msgspec.Struct, frozen=True):
    """What was used of a rule, and what is held of it besides, by requests under way."""

    used: float
    held: float


class Blocked(msgspec.Struct, frozen=True):
    """A rule that does not let a request through. `place`: its index among those asked. `wait_s`: 0: as soon as others
    have settled; None: never."""

    place: int
    used: float
    held: float
    wait_s: float | None


class Settled(msgspec.Struct, frozen=True):
    """What a request held of one rule, and what it used."""

    rule: Rule
    held: float
    used: float


@dataclass(slots=True)
class _Counter:
    """`value`: what a rate has left, at `at`; what of a budget was used since `began`, until it `ends`."""

    value: float
    at: float = 0.0
    ends: float = 0.0
    began: float = 0.0


@dataclass(slots=True)
class _Held:
    born: float
    missed: float = 0.0
    amounts: dict[str, float] = field(default_factory=dict)


class Counters:
    """One subject's counters, as of a clock that each call is given (Unix seconds)."""

    def __init__(self) -> None:
        self.counters: dict[str, _Counter] = {}
        self.held: dict[str, _Held] = {}

    def miss(self, now: float, worker: str, living: frozenset[str] | set[str]) -> None:
        """Free what is held by workers that are neither `worker` nor among the `living`, once they were missed for
        long enough."""
        for other, held in list(self.held.items()):
            held.born = min(held.born, now)
            if other == worker or other in living:
                held.missed = 0.0
            elif held.missed == 0 or held.missed > now:
                held.missed = now
            elif now - held.missed >= _MISSED_FOR_S:
                del self.held[other]

    def begin(self, now: float, asked: Asked, used: float) -> None:
        """Take this as used of a rule so far: of slots, as held by others."""
        counter = self._counter(now, asked)
        if counter is None:
            self.held.setdefault("", _Held(now)).amounts[asked.rule.id] = used
        else:
            counter.value = asked.rule.limit - used if asked.rule.kind is Kind.RATE else used

    def blocked(self, now: float, asked: Sequence[Asked]) -> list[Blocked]:
        """The hard rules that do not let this through."""
        found = []
        for place, one in enumerate(asked):
            if one.rule.mode is Mode.HARD:
                seen, wait_s, fits = self._look(now, one)
                if not fits:
                    found.append(Blocked(place, seen.used, seen.held, wait_s))
        return found

    def take(self, now: float, worker: str, asked: Sequence[Asked]) -> list[Seen]:
        """Take it all, and see each rule afterwards."""
        seen = []
        for one in asked:
            rule, counter = one.rule, self._counter(now, one)
            if rule.kind is Kind.RATE and counter is not None:
                counter.value = max(-rule.limit, counter.value - one.amount)
                seen.append(Seen(rule.limit - counter.value, 0.0))
                continue
            amounts = self.held.setdefault(worker, _Held(now)).amounts
            amounts[rule.id] = amounts.get(rule.id, 0.0) + one.amount
            seen.append(Seen(counter.value if counter is not None else 0.0, self._held(rule.id)))
        return seen

    def look(self, now: float, asked: Sequence[Asked]) -> None:
        """Bring these counters up to date, and begin those that are missing: what was held nowhere is about now."""
        for one in asked:
            self._counter(now, one)

    def settle(self, worker: str, settled: Sequence[Settled], reserved_at: float) -> None:
        """Put what was used in the place of what was held. `reserved_at` 0: nothing was held."""
        held = self.held.get(worker)
        for one in settled:
            rule, counter = one.rule, self.counters.get(one.rule.id)
            if rule.kind is Kind.RATE:
                if counter is not None:
                    counter.value += one.held - one.used
                continue
            if rule.kind is Kind.BUDGET and (counter is None or 0 < reserved_at < counter.began):
                continue  # of an earlier period
            if held is not None and one.held and reserved_at >= held.born:
                left = held.amounts.get(rule.id, 0.0) - one.held
                held.amounts[rule.id] = left
                if left < 0.5:
                    del held.amounts[rule.id]
            if counter is not None:
                counter.value += one.used
        if held is not None and not held.amounts:
            del self.held[worker]

    def _held(self, rule_id: str) -> float:
        return sum(held.amounts.get(rule_id, 0.0) for held in self.held.values())

    def _counter(self, now: float, asked: Asked) -> _Counter | None:
        rule = asked.rule
        counter = self.counters.get(rule.id)
        if rule.kind is Kind.RATE:
            if counter is None:
                counter = self.counters[rule.id] = _Counter(rule.limit, now)
            gained = max(0.0, now - counter.at) * rule.limit / rule.period_s
            counter.value, counter.at = min(rule.limit, counter.value + gained), now
        elif rule.kind is Kind.BUDGET:
            this, following = asked.ends
            ends = this if this > now else following if following > now else now + following - this
            if counter is None:
                counter = self.counters[rule.id] = _Counter(0.0, ends=ends, began=now)
            elif counter.ends <= now:
                counter.value, counter.ends, counter.began = 0.0, ends, now
                for held in self.held.values():
                    held.amounts.pop(rule.id, None)
            else:
                counter.ends, counter.began = ends, min(counter.began, now)
            if ends == this:
                counter.value = max(counter.value, asked.known)
        return counter

    def _look(self, now: float, asked: Asked) -> tuple[Seen, float | None, bool]:
        rule, amount, counter = asked.rule, asked.amount, self._counter(now, asked)
        if rule.kind is Kind.RATE and counter is not None:
            seen = Seen(rule.limit - counter.value, 0.0)
            if amount <= counter.value + _CLOSE:
                return seen, 0.0, True
            if amount > rule.limit:
                return seen, None, False
            return seen, (amount - counter.value) / rule.limit * rule.period_s, False
        seen = Seen(counter.value if counter is not None else 0.0, self._held(rule.id))
        if seen.used + seen.held + amount <= rule.limit:
            return seen, 0.0, True
        if seen.used + amount <= rule.limit:
            return seen, 0.0, False
        if counter is None or amount > rule.limit:
            return seen, None, False
        return seen, counter.ends - now if counter.ends < ENDLESS else None, False
