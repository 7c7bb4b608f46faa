"""Five minutes of load in virtual time, always more than fits: what is there gets used, and upstream hardly refuses.

The long version, with more kinds of load, is `benchmarks/budgets_in_virtual_time.py`; its figures are in
`docs/budgets.md`. Each run starts with empty buckets; the first minute is not counted.
"""

from __future__ import annotations

import pytest

from benchmarks.budgets_in_virtual_time import Case, World, jain

SECONDS, WARM_UP = 360.0, 60.0


@pytest.mark.parametrize("charging", ["keep", "correct"])
@pytest.mark.parametrize("load", ["rpm", "tpm"])
def test_98_percent_are_used_and_upstream_refuses_one_in_a_thousand_at_most(load, charging):
    case = Case(charging, load, seconds=SECONDS, warm_up=WARM_UP)
    outcome = World(case).run()
    assert outcome.used(case) >= 0.98
    assert outcome.share_refused <= 0.001


@pytest.mark.parametrize("charging", ["keep", "correct"])
@pytest.mark.parametrize("load", ["rpm", "tpm"])
def test_where_somebody_else_takes_30_percent_upstream_refuses_five_in_a_thousand_at_most(load, charging):
    case = Case(charging, load, others=0.3, seconds=SECONDS, warm_up=WARM_UP)
    outcome = World(case).run()
    assert outcome.requests_of_others > 100
    assert outcome.share_refused <= 0.005


@pytest.mark.parametrize("charging", ["keep", "correct"])
def test_without_a_fifth_of_the_answers_headers_the_same_holds(charging):
    case = Case(charging, "tpm", lost=0.2, seconds=SECONDS, warm_up=WARM_UP)
    outcome = World(case).run()
    assert outcome.used(case) >= 0.98
    assert outcome.share_refused <= 0.001


def test_nothing_is_used_that_is_not_there():
    """The other side of 98 %: a budget is no more than its refill and what was in the buckets after the warm-up."""
    case = Case("keep", "tpm", seconds=SECONDS, warm_up=WARM_UP)
    refill = case.accounts * case.tpm * (SECONDS - WARM_UP) / 60
    assert World(case).run().charged <= refill + case.accounts * case.tpm


def test_with_95_percent_offered_and_a_queue_nobody_waits_long():
    case = Case("keep", "tpm", offered=0.95, seconds=SECONDS, warm_up=WARM_UP)
    outcome = World(case).run()
    assert len(outcome.waits) > 500
    assert outcome.wait(0.99) <= 5.0
    assert outcome.share_refused <= 0.001


def test_a_client_that_asks_for_a_hundred_times_as_much_takes_nothing_from_the_others():
    """Given twenty clients, nineteen of which ask for 70 % of a fair share each, I expect those to get it, alike."""
    case = Case("keep", "tpm", offered=0.7, greedy=True, seconds=SECONDS, warm_up=WARM_UP)
    outcome = World(case).run()
    got = {client: outcome.served[client] / asked for client, asked in outcome.asked.items()}
    assert got.pop("greedy") < 0.2
    assert sum(got.values()) / 19 >= 0.97  # requests made just before the end may still be queued
    assert jain(list(got.values())) >= 0.98
    assert outcome.used(case) >= 0.98
