"""The rules of clients and teams on their way to the store and back: what a request charges them, and what was seen.

The formats: `lua/ledger/rules.lua`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import tzinfo
from typing import Any, Final

import msgspec

from quotapool.domain.periods import ends
from quotapool.domain.rules import Asked, Kind, Mode, Rule, Seen, Settled

CLIENT: Final = "c/"
TEAM: Final = "t/"
"""How the names of subjects begin."""
_LATE_S: Final = 60.0  # no answer comes later; one that is older by more shows that the store's clock was set back


class Standing:
    """One rule of one subject, as this process knows it. `seen`: its counter after the last request that took from it;
    `seen_at`: the store's second of that; 0: none did."""

    __slots__ = ("_since", "ends", "rule", "seen", "seen_at", "subject", "zone")

    def __init__(self, subject: str, rule: Rule, zone: tzinfo) -> None:
        self.subject = subject
        self.rule = rule
        self.zone = zone
        self.ends = 0.0, 0.0
        self._since = 0.0  # the second at which the present period was noticed
        self.seen = Seen(0.0, 0.0)
        self.seen_at = 0.0

    def __repr__(self) -> str:
        return f"<Standing {self.subject} {self.rule.id}>"

    def asked(self, amount: float, now: float) -> Asked:
        """What a request asks of it. `now`: the store's second."""
        if self.rule.kind is not Kind.BUDGET:
            return Asked(self.rule, amount)
        self._turn(now)
        return Asked(self.rule, amount, self.ends, self.seen.used)

    def saw(self, used: float, held: float, at: float) -> None:
        """The store's answer to a request that took from it at `at`."""
        if self.rule.kind is Kind.BUDGET:
            if 0 < self._since - at < _LATE_S:
                return  # it was asked before the period turned
            self._turn(at)
        self.seen, self.seen_at = Seen(used, held), at

    def _turn(self, now: float) -> None:
        if not now < self.ends[0]:
            self.ends = ends(self.rule.per, self.zone, now)
            self.seen, self._since = Seen(0.0, 0.0), now

    def spent(self, held: float, used: float, held_at: float = 0.0) -> None:
        """A request of this process was settled. `held_at`: the store's second at which it was held; 0: it was not."""
        if self.rule.kind is Kind.RATE:
            self.seen = Seen(max(0.0, self.seen.used - held + used), 0.0)
        elif self.rule.kind is Kind.BUDGET:
            if 0 < held_at < self._since:
                return  # of an earlier period
            self.seen = Seen(self.seen.used + used, max(0.0, self.seen.held - held))
        else:
            self.seen = Seen(0.0, max(0.0, self.seen.held - held))

    def left_at(self, now: float) -> float:
        """How much was left when last seen, less what is held; a rate has refilled since."""
        rule = self.rule
        used = self.seen.used + self.seen.held
        if rule.kind is Kind.RATE and self.seen_at:
            used -= max(0.0, now - self.seen_at) * rule.limit / rule.period_s
        elif rule.kind is Kind.BUDGET and not now < self.ends[0]:
            used = 0.0
        return min(rule.limit, max(0.0, rule.limit - used))

    def resets_in_s(self, now: float) -> float:
        """Seconds until all of it is there again. Slots: 0."""
        if self.rule.kind is Kind.RATE:
            limit = self.rule.limit
            return (1 - self.left_at(now) / limit) * self.rule.period_s if limit > 0 else self.rule.period_s
        return max(0.0, self.ends[0] - now) if self.rule.kind is Kind.BUDGET else 0.0


class Charge(msgspec.Struct, eq=False):
    """What one request takes from its client's and its team's rules: `amounts`, one for each of the `standings`, those
    of one subject behind each other. `guessed`: it names no maximum for its answer."""

    standings: Sequence[Standing]
    amounts: list[float]
    guessed: bool = False

    def asked(self, now: float) -> list[tuple[str, list[Asked]]]:
        """By subject. `now`: the store's second."""
        subjects: list[tuple[str, list[Asked]]] = []
        name = ""
        for standing, amount in zip(self.standings, self.amounts, strict=True):
            if standing.subject != name:
                name = standing.subject
                subjects.append((name, []))
            subjects[-1][1].append(standing.asked(amount, now))
        return subjects

    def settled(self, used: Sequence[float], *, was_held: bool = True) -> list[tuple[str, list[Settled]]]:
        """By subject. `was_held`: in the store."""
        subjects: list[tuple[str, list[Settled]]] = []
        name = ""
        for standing, amount, spent in zip(self.standings, self.amounts, used, strict=True):
            if standing.subject != name:
                name = standing.subject
                subjects.append((name, []))
            subjects[-1][1].append(Settled(standing.rule, amount if was_held else 0.0, spent))
        return subjects

    def nothing(self) -> list[float]:
        """The use of a request that upstream did not charge."""
        return [0.0] * len(self.amounts)

    def saw(self, flat: Sequence[float], at: float) -> None:
        """The script's answer: used and held, of each rule."""
        for n, standing in enumerate(self.standings):
            standing.saw(flat[2 * n], flat[2 * n + 1], at)

    @property
    def exceeded(self) -> Iterator[Standing]:
        """Rules without force beyond whose limit this request goes, as last seen."""
        for standing in self.standings:
            seen = standing.seen
            if standing.rule.mode is not Mode.HARD and seen.used + seen.held > standing.rule.limit:
                yield standing


class BlockedRule(msgspec.Struct, frozen=True):
    """A rule that does not let a request through. `wait_s`: 0: as soon as others have settled; None: never."""

    standing: Standing
    amount: float
    used: float
    held: float
    wait_s: float | None


class Blocked(msgspec.Struct, frozen=True):
    """A request that its client's own rules do not let through; nothing was taken from any account."""

    rules: tuple[BlockedRule, ...]
    at: float  # the store's second
    guessed: bool = False  # it named no maximum for its answer

    @property
    def wait_s(self) -> float | None:
        """Until all of them let it through; None: never."""
        longest = 0.0
        for rule in self.rules:
            if rule.wait_s is None:
                return None
            longest = max(longest, rule.wait_s)
        return longest


def blocked_of(flat: Sequence[float], charge: Charge, at: float) -> Blocked:
    """The script's answer: place, used, held and wait of each rule that blocks."""
    rules = []
    for n in range(0, len(flat), 4):
        place = int(flat[n]) - 1
        standing, wait_s = charge.standings[place], flat[n + 3]
        standing.saw(flat[n + 1], flat[n + 2], at)
        wait = None if wait_s < 0 else wait_s
        rules.append(BlockedRule(standing, charge.amounts[place], flat[n + 1], flat[n + 2], wait))
    return Blocked(tuple(rules), at, charge.guessed)


def packed_asked(subjects: Sequence[tuple[str, Sequence[Asked]]]) -> list[Any]:
    """As the script reads it."""
    return [[name, [_asked(one) for one in asked]] for name, asked in subjects]


def _asked(one: Asked) -> list[Any]:
    rule = one.rule
    words: list[Any] = [rule.id, int(rule.kind), rule.limit, one.amount, rule.mode is Mode.HARD]
    if rule.kind is Kind.BUDGET:
        words += (*one.ends, one.known)
    elif rule.kind is Kind.RATE:
        words.append(rule.period_s)
    return words


def packed_settled(subjects: Sequence[tuple[str, Sequence[Settled]]]) -> list[Any]:
    """As the script reads it."""
    return [
        [name, [word for one in settled for word in (one.rule.id, int(one.rule.kind), one.held, one.used)]]
        for name, settled in subjects
    ]
