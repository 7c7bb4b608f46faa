"""Budgets that tell the truth, with real processes, at full length: an hour and a half in all, `pytest tests/soak -s`.

SOAK_SECONDS (300) is the length of each window.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.fakes.processes import pool_config
from tests.fakes.valkey import running_valkey
from tests.scenarios.full_budgets import Case, Driver, Figures, start_upstream

SECONDS = float(os.environ.get("SOAK_SECONDS", "300"))


@pytest.fixture
def run(start_proxy, tmp_path) -> Callable[[Case, int], Figures]:
    """`run(case, replicas)`: as many `quotapool serve` on one store; prints and returns the figures."""

    def run(case: Case, replicas: int) -> Figures:
        simulator = start_upstream(case)
        try:
            with running_valkey(tmp_path) as url:
                config = pool_config(simulator, redis=url, queue={"max_wait": case.max_wait})
                proxies = [start_proxy(config) for _ in range(replicas)]
                figures = Driver(case, [proxy.base_url for proxy in proxies], simulator).run()
                for proxy in proxies:
                    proxy.stop()
        finally:
            simulator.stop()
        print(f"\n{case.charging} {case.bound} others {case.others:.0%} replicas {replicas}: {figures}")
        return figures

    return run


@pytest.mark.parametrize("replicas", [1, 2, 4])
@pytest.mark.parametrize("charging", ["keep", "correct"])
@pytest.mark.parametrize("bound", ["rpm", "tpm"])
def test_offered_half_more_than_the_budget_it_is_used_and_not_exceeded(run, bound, charging, replicas):
    figures = run(Case(bound, charging, seconds=SECONDS), replicas)
    assert set(figures.clients) <= {200, 429}
    assert figures.left < 0.1  # nearly empty: what is used was refilled within the window
    assert figures.used >= 0.98
    assert figures.share_refused <= 0.001


@pytest.mark.parametrize("charging", ["keep", "correct"])
@pytest.mark.parametrize("bound", ["rpm", "tpm"])
def test_somebody_else_takes_30_percent_of_three_accounts(run, bound, charging):
    figures = run(Case(bound, charging, others=0.3, seconds=SECONDS), 2)
    assert set(figures.clients) <= {200, 429}
    assert figures.share_refused <= 0.005


@pytest.mark.parametrize("charging", ["keep", "correct"])
@pytest.mark.parametrize("bound", ["rpm", "tpm"])
def test_with_95_percent_offered_and_waiting_nobody_is_refused_and_nobody_waits_long(run, bound, charging):
    figures = run(Case(bound, charging, offered=0.95, seconds=SECONDS, max_wait="30s"), 2)
    assert set(figures.clients) == {200}
    assert figures.wait(0.99) <= 5.0
