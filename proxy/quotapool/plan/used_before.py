"""What of budgets had been used before the replayed stretch began, where the stretch ends now: what the store has as
used in the period that goes on, less what the record has.

Limits of accounts by the day are no such counters: they refill all the time, so what is left of them now does not tell
what they had then.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, tzinfo
from fnmatch import fnmatchcase
from typing import Final

from msgspec.structs import replace

from quotapool.domain.periods import Per, ends
from quotapool.domain.quantities import PERIOD_S
from quotapool.domain.rules import Kind, Measure
from quotapool.ledger.stored_rules import Reading, StoredRules
from quotapool.money.credit_control import day_around
from quotapool.money.spend_store import SpendStore
from quotapool.operators.overview import Overview
from quotapool.plan.scenario import Scenario, SubjectRules
from quotapool.plan.sources.record import Record

_DAY_S: Final = 86_400.0
_NOT_NOW: Final = "budgets begin unused, since the record does not end now"
_KNOWN: Final = "budgets begin with what was used before: what the store has by now, less what the record has"
_ENDED: Final = "budgets whose period has ended since the record began are taken to have been unused then"
_BY_DAY: Final = "accounts' limits by the day begin full: they refill all the time, so what they had then is not known"

_Recorded = list[tuple[str, Counter[Measure]]]  # models, and what the record has of each


async def with_used_before(
    overview: Overview, record: Record, scenario: Scenario, *, ends_now: bool
) -> tuple[Scenario, tuple[str, ...]]:
    """The scenario with its budgets as they stood when the record began, and what had to be assumed. `ends_now`: the
    record has all requests from then on. Raises StoreLost."""
    said: dict[str, None] = {}
    if _limits_by_day(record, scenario):
        said[_BY_DAY] = None
    budgeted = _budgeted(record, scenario)
    if not budgeted and scenario.daily_limit_pico is None:
        return scenario, tuple(said)
    if not ends_now:
        return scenario, (*said, _NOT_NOW)
    reading = await StoredRules(overview.ledger.store, overview.settings.pool).read(list(budgeted))
    begun = {
        name: replace(of, used=_used_before(of, reading, recorded, record.since, said))
        for name, (of, recorded) in budgeted.items()
    }
    spent = await _spent_before(overview, record, scenario, reading.now, said)
    clients = {
        name: replace(client, rules=tuple(begun.get(of.subject, of) for of in client.rules))
        for name, client in scenario.clients.items()
    }
    return replace(scenario, clients=clients, spent_pico=spent), tuple(said)


def _budgeted(record: Record, scenario: Scenario) -> dict[str, tuple[SubjectRules, _Recorded]]:
    """The record's clients and their teams, as far as they have budgets."""
    used: dict[tuple[str, str], Counter[Measure]] = {}
    for one in record.demand:
        amounts = used.setdefault((one.client, one.model), Counter())
        if one.is_seen:
            amounts[Measure.REQUESTS] += 1
            amounts[Measure.TOKENS] += one.tokens
            amounts[Measure.USD] += one.pico or 0
    found: dict[str, tuple[SubjectRules, _Recorded]] = {}
    for (client, model), amounts in used.items():
        for of in scenario.client(client).rules:
            if any(rule.kind is Kind.BUDGET for rule in of.rules):
                found.setdefault(of.subject, (of, []))[1].append((model, amounts))
    return found


def _used_before(
    of: SubjectRules, reading: Reading, recorded: _Recorded, since: float, said: dict[str, None]
) -> dict[str, float]:
    """By budget, of those whose period at `since` goes on."""
    found: dict[str, float] = {}
    for level in reading.levels(of.subject, of.rules, of.zone):
        rule = level.rule
        if rule.kind is not Kind.BUDGET:
            continue
        if not _is_same_period(rule.per, of.zone, since, reading.now):
            said[_ENDED] = None
            continue
        said[_KNOWN] = None
        in_record = sum(
            amounts[rule.measure] for model, amounts in recorded if not rule.models or fnmatchcase(model, rule.models)
        )
        found[rule.id] = max(0.0, level.used - in_record)
    return found


def _is_same_period(per: Per, zone: tzinfo, one: float, other: float) -> bool:
    return ends(per, zone, one)[0] == ends(per, zone, other)[0]


async def _spent_before(
    overview: Overview, record: Record, scenario: Scenario, now: float, said: dict[str, None]
) -> int:
    """Picodollars of the pool's day."""
    if scenario.daily_limit_pico is None:
        return 0
    if not _is_same_period(Per.DAY, scenario.zone, record.since, now):
        said[_ENDED] = None
        return 0
    said[_KNOWN] = None
    today = datetime.fromtimestamp(now, UTC)
    start, _ = day_around(today, overview.settings.spend.time_zone)
    spend = SpendStore(overview.ledger.store, overview.settings.pool)
    return max(0, sum((await spend.hours(start, today)).values()) - record.happened.pico)


def _limits_by_day(record: Record, scenario: Scenario) -> bool:
    by_day = [dimension for dimension, period_s in PERIOD_S.items() if period_s == _DAY_S]
    groups = {one.group or one.model for one in record.demand}
    limits = [account.limits_of(group) for account in scenario.accounts for group in groups]
    return any(one.of(dimension) is not None for one in limits for dimension in by_day)
