"""What clients' own limits and budgets let through in a replay: by the counters of `domain/rules.py`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from quotapool.domain.periods import ends
from quotapool.domain.rules import Asked, Counters, Kind, Measure, Rule, Settled
from quotapool.openai import replies
from quotapool.plan.demand import Demand
from quotapool.plan.scenario import Scenario, SubjectRules

_CODES = {
    Kind.RATE: replies.CLIENT_RATE_LIMITED.code,
    Kind.SLOTS: replies.CLIENT_CONCURRENCY.code,
    Kind.BUDGET: replies.CLIENT_BUDGET_EXHAUSTED.code,
}


@dataclass(frozen=True, slots=True)
class Held:
    """The rules that do not let a request through. `wait_s`: 0: as soon as others have settled; None: never. `rule` and
    `code`: of the one that keeps it waiting longest."""

    wait_s: float | None
    rule: str
    code: str


class Charge:
    """What one request takes from its client's rules."""

    __slots__ = ("_of", "_one", "_worker")

    def __init__(self, one: Demand, worker: str, of: Sequence[tuple[Counters, Sequence[tuple[Rule, _Ends]]]]) -> None:
        self._one = one
        self._worker = worker
        self._of = of

    def held_up(self, now: float) -> Held | None:
        """None: all of them let it through."""
        worst: tuple[float, Rule] | None = None
        for counters, rules in self._of:
            asked = self._asked(rules, now)
            for blocked in counters.blocked(now, asked):
                wait_s = math.inf if blocked.wait_s is None else blocked.wait_s
                if worst is None or wait_s > worst[0]:
                    worst = wait_s, asked[blocked.place].rule
        if worst is None:
            return None
        wait, rule = worst
        return Held(None if wait == math.inf else wait, rule.id, _CODES[rule.kind])

    def take(self, now: float) -> None:
        for counters, rules in self._of:
            counters.take(now, self._worker, self._asked(rules, now))

    def settle(self, reserved_at: float) -> None:
        for counters, rules in self._of:
            settled = [Settled(rule, self._amount(rule), self._used(rule)) for rule, _ in rules]
            counters.settle(self._worker, settled, reserved_at)

    def give_back(self, reserved_at: float) -> None:
        """Nothing was used."""
        for counters, rules in self._of:
            settled = [Settled(rule, self._amount(rule), 0.0) for rule, _ in rules]
            counters.settle(self._worker, settled, reserved_at)

    def _asked(self, rules: Sequence[tuple[Rule, _Ends]], now: float) -> list[Asked]:
        return [Asked(rule, self._amount(rule), ends_at(now)) for rule, ends_at in rules]

    def _amount(self, rule: Rule) -> float:
        """The most that it may use."""
        one = self._one
        if rule.measure is Measure.TOKENS:
            return one.reserved if rule.kind is Kind.RATE else max(one.reserved, one.tokens)
        if rule.measure is Measure.USD:
            return (one.pico or 0) * max(1.0, one.reserved / one.tokens if one.tokens else 1.0)
        return 1

    def _used(self, rule: Rule) -> float:
        one = self._one
        if rule.measure is Measure.TOKENS:
            return one.tokens
        if rule.measure is Measure.USD:
            return one.pico or 0
        return 0 if rule.measure is Measure.CONCURRENT else 1


_Ends = Callable[[float], tuple[float, float]]


class Rules:
    """Of all clients, as of the replay's time, which begins at `since`."""

    def __init__(self, scenario: Scenario, since: float) -> None:
        self._scenario = scenario
        self._since = since
        self._counters: dict[str, Counters] = {}
        self._about: dict[tuple[str, str], list[tuple[Counters, list[tuple[Rule, _Ends]]]]] = {}

    def charge(self, one: Demand, worker: str) -> Charge | None:
        """None: its client has no rules that are about its model."""
        client = self._scenario.clients.get(one.client)
        if client is None or not client.rules:
            return None
        about = self._about.get((one.client, one.model))
        if about is None:
            about = self._about[one.client, one.model] = self._rules_about(client.rules, one.model)
        return Charge(one, worker, about) if about else None

    def _rules_about(
        self, subjects: Sequence[SubjectRules], model: str
    ) -> list[tuple[Counters, list[tuple[Rule, _Ends]]]]:
        found: list[tuple[Counters, list[tuple[Rule, _Ends]]]] = []
        for of in subjects:
            rules = [(r, _ends_of(r, of)) for r in of.rules if not r.models or fnmatchcase(model, r.models)]
            if rules:
                found.append((self._counters_of(of), rules))
        return found

    def _counters_of(self, of: SubjectRules) -> Counters:
        found = self._counters.get(of.subject)
        if found is None:
            found = self._counters[of.subject] = Counters()
            for rule in of.rules:
                if rule.id in of.used:
                    asked = Asked(rule, 0.0, ends(rule.per, of.zone, self._since))
                    found.begin(self._since, asked, of.used[rule.id])
        return found


def _ends_of(rule: Rule, of: SubjectRules) -> _Ends:
    """When the period of a moment ends and the one after it, looked up once a period."""
    known = 0.0, 0.0

    def ends_at(now: float) -> tuple[float, float]:
        nonlocal known
        if rule.kind is Kind.BUDGET and not now < known[0]:
            known = ends(rule.per, of.zone, now)
        return known

    return ends_at
