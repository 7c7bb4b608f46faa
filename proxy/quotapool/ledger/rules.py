"""The rules of clients and teams on their way to the store and back: what a request charges them, and what was seen.

The formats: `lua/ledger/rules.lua`. What is the same for many requests is packed once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import tzinfo
from typing import Any, Final

import msgspec

from quotapool.domain.periods import ENDLESS, ends
from quotapool.domain.rules import Asked, Kind, Mode, Rule, Settled
from quotapool.ledger.msgpack import raw_string

CLIENT: Final = "c/"
TEAM: Final = "t/"
"""How the names of subjects begin."""
_PACKED_FOR_S: Final = 1.0
_LATE_S: Final = 60.0  # no answer comes later; one that is older by more shows that the store's clock was set back

_pack: Final = msgspec.msgpack.Encoder().encode


class Standing:
    """One rule of one subject, as this process knows it: what was used and held after the last request that took from
    it, at the store's second `seen_at`; 0: none did. `ends`: of a budget, as in `periods.ends`."""

    __slots__ = ("_since", "ends", "held", "is_budget", "rule", "seen_at", "subject", "used", "zone")

    def __init__(self, subject: str, rule: Rule, zone: tzinfo) -> None:
        self.subject = subject
        self.rule = rule
        self.zone = zone
        self.is_budget = rule.kind is Kind.BUDGET
        self.ends = 0.0, 0.0
        self.used = 0.0
        self.held = 0.0
        self.seen_at = 0.0
        self._since = 0.0  # the second at which the present period was noticed

    def __repr__(self) -> str:
        return f"<Standing {self.subject} {self.rule.id}>"

    def continues(self, other: Standing) -> None:
        """The same rule with another limit: what was seen of it stays known."""
        self.ends, self._since = other.ends, other._since
        self.used, self.held, self.seen_at = other.used, other.held, other.seen_at

    def turn(self, now: float) -> None:
        """If its period has ended, another has begun, of which nothing is used. `now`: the store's second."""
        if self.is_budget and not now < self.ends[0]:
            self.ends = ends(self.rule.per, self.zone, now)
            self.used = self.held = 0.0
            self._since = now

    def saw(self, used: float, held: float, at: float) -> None:
        """The store's answer to a request that took from it at `at`."""
        if self.is_budget:
            if 0 < self._since - at < _LATE_S:
                return  # it was asked before the period turned
            if not at < self.ends[0]:
                self.turn(at)
        self.used, self.held, self.seen_at = used, held, at

    def spent(self, held: float, used: float, held_at: float) -> None:
        """A request of this process was settled. `held_at`: the store's second at which it was held; 0: it was not."""
        if self.is_budget:
            if 0 < held_at < self._since:
                return  # of an earlier period
            self.used += used
            self.held = max(0.0, self.held - held)
        elif self.rule.kind is Kind.RATE:
            self.used = max(0.0, self.used - held + used)
        else:
            self.held = max(0.0, self.held - held)

    def left_at(self, now: float) -> float:
        """How much was left when last seen, less what is held; a rate has refilled since."""
        rule = self.rule
        used = self.used + self.held
        if rule.kind is Kind.RATE and self.seen_at:
            used -= max(0.0, now - self.seen_at) * rule.limit / rule.period_s
        elif self.is_budget and not now < self.ends[0]:
            used = 0.0
        return min(rule.limit, max(0.0, rule.limit - used))

    def resets_in_s(self, now: float) -> float:
        """Seconds until all of it is there again. Slots: 0."""
        if self.rule.kind is Kind.RATE:
            limit = self.rule.limit
            return (1 - self.left_at(now) / limit) * self.rule.period_s if limit > 0 else self.rule.period_s
        return max(0.0, self.ends[0] - now) if self.is_budget else 0.0

    def words(self) -> list[Any]:
        """The rule as the script reads it."""
        rule = self.rule
        words: list[Any] = [rule.id, int(rule.kind), rule.limit, rule.mode is Mode.HARD]
        if self.is_budget:
            words += (*self.ends, self.used)
        elif rule.kind is Kind.RATE:
            words.append(rule.period_s)
        return words


class RuleSet:
    """The rules that a request must fit: those of one subject behind each other. Packed once a second, with what is
    known to be used, and when a period turns."""

    __slots__ = ("_asked", "_fresh", "hard", "settled", "standings")

    def __init__(self, standings: Sequence[Standing]) -> None:
        self.standings = standings
        self.settled = raw_string(
            _pack([(name, [w for s in of for w in s.words()[:2]]) for name, of in self._subjects()])
        )
        self.hard = all(standing.rule.mode is Mode.HARD for standing in standings)
        self._asked = msgspec.Raw(b"")
        self._fresh = 0.0, 0.0  # from when, and until when, what is packed may be used

    def asked(self, now: float) -> msgspec.Raw:
        """As the script reads it. `now`: the store's second."""
        since, until = self._fresh
        if not since <= now < until:  # the clock may have been set back
            for standing in self.standings:
                standing.turn(now)
            turns_at = min((s.ends[0] for s in self.standings if s.is_budget), default=ENDLESS)
            self._fresh = now, min(turns_at, now + _PACKED_FOR_S)
            self._asked = raw_string(_pack([(name, [s.words() for s in of]) for name, of in self._subjects()]))
        return self._asked

    def _subjects(self) -> list[tuple[str, list[Standing]]]:
        subjects: list[tuple[str, list[Standing]]] = []
        for standing in self.standings:
            if not subjects or subjects[-1][0] != standing.subject:
                subjects.append((standing.subject, []))
            subjects[-1][1].append(standing)
        return subjects

    @property
    def subjects(self) -> list[str]:
        """Their names."""
        return list(dict.fromkeys(standing.subject for standing in self.standings))


class Charge:
    """What one request takes: `amounts`, one for each of the `rules`. `guessed`: it names no maximum for its answer."""

    __slots__ = ("amounts", "guessed", "rules")

    def __init__(self, rules: RuleSet, amounts: list[float], guessed: bool = False) -> None:
        self.rules = rules
        self.amounts = amounts
        self.guessed = guessed

    @property
    def standings(self) -> Sequence[Standing]:
        return self.rules.standings

    def words(self, now: float) -> list[Any]:
        """As the script reads it. `now`: the store's second."""
        return [self.rules.asked(now), self.amounts]

    def settle(self, used: Sequence[float], held_at: float) -> list[Any]:
        """What was used, as the script reads it; the standings know it at once. `held_at`: the store's second at which
        it was held; 0: it was not."""
        held = self.amounts if held_at else self.nothing()
        n = 0
        for standing in self.rules.standings:
            standing.spent(held[n], used[n], held_at)
            n += 1  # noqa: SIM113 - compiled, enumerate takes twice as long
        return [self.rules.settled, held, used]

    def saw(self, flat: Sequence[float], at: float) -> None:
        """The script's answer: used and held, of each rule."""
        n = 0
        for standing in self.rules.standings:
            standing.saw(flat[n], flat[n + 1], at)
            n += 2

    def nothing(self) -> list[float]:
        """The use of a request that upstream did not charge."""
        return [0.0] * len(self.amounts)

    @property
    def exceeded(self) -> Iterator[Standing]:
        """Rules without force beyond whose limit this request goes, as last seen."""
        if not self.rules.hard:
            for standing in self.rules.standings:
                if standing.rule.mode is not Mode.HARD and standing.used + standing.held > standing.rule.limit:
                    yield standing


# ---- for this process's own share, which counts as `domain/rules.py` specifies


def asked_of(charge: Charge, amounts: Sequence[float], now: float) -> list[tuple[str, list[Asked]]]:
    """By subject, with other amounts than the charge's. What is known to be used is not part of it."""
    charge.rules.asked(now)
    subjects: dict[str, list[Asked]] = {}
    for standing, amount in zip(charge.standings, amounts, strict=True):
        subjects.setdefault(standing.subject, []).append(Asked(standing.rule, amount, standing.ends))
    return list(subjects.items())


def settled_of(charge: Charge, held: Sequence[float], used: Sequence[float]) -> list[tuple[str, list[Settled]]]:
    """By subject."""
    subjects: dict[str, list[Settled]] = {}
    for standing, h, u in zip(charge.standings, held, used, strict=True):
        subjects.setdefault(standing.subject, []).append(Settled(standing.rule, h, u))
    return list(subjects.items())
