"""Clients' limits and budgets on the metrics page: the fullest by name, the rest together."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from quotapool.domain.periods import Per
from quotapool.domain.rules import Kind, Measure, Rule
from quotapool.ledger.stored_rules import Level
from quotapool.observe.metrics import PoolMetrics
from quotapool.operators.client_rules import SubjectLevel, show

PICO = 10**12
RPM = Rule("rpm", Kind.RATE, Measure.REQUESTS, 100, period_s=60.0)
USD = Rule("usd/month", Kind.BUDGET, Measure.USD, 50 * PICO, per=Per.MONTH)


def test_the_200_of_which_most_is_taken_are_shown_and_sums_stay_right():
    metrics = PoolMetrics(CollectorRegistry())
    levels = [SubjectLevel(f"client {n:03}", Level(RPM, n / 10, 0.0, 0.0, None)) for n in range(300)]
    levels.append(SubjectLevel("team red", Level(USD, 20 * PICO, 5 * PICO, 0.0, None)))
    show(levels, {}, 0.0, metrics)
    used, limits = metrics.client_rule_used.rows, metrics.client_rule_limit.rows
    assert used["team red", "usd/month"] == 25.0
    assert limits["team red", "usd/month"] == 50.0
    assert len(used) == 201
    assert ("client 299", "rpm") in used
    assert ("client 000", "rpm") not in used
    # The 199 fullest rates are those of 101 to 299; the others have 0.0 to 10.0 of 100 each.
    assert round(used["other", "rpm"], 6) == round(sum(n / 10 for n in range(101)), 6)
    assert limits["other", "rpm"] == 101 * 100


def test_clients_whose_end_is_near_are_shown():
    metrics, day = PoolMetrics(CollectorRegistry()), 86_400.0
    show([], {"soon": 14 * day, "late": 15 * day, "gone": -day}, 0.0, metrics)
    assert metrics.client_expires.rows == {"soon": 14 * day, "gone": -day}
