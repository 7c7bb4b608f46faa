"""Replays whose outcome is known by hand: waits, refusals, fairness, clients' rules, outages, money."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from quotapool.domain.bucket import BREATH_S
from quotapool.domain.periods import Per
from quotapool.domain.quantities import Dimension, Limits
from quotapool.domain.rules import Kind, Measure, Rule
from quotapool.plan.demand import Demand
from quotapool.plan.outcome import Outcome, Waits
from quotapool.plan.replay import replay
from quotapool.plan.scenario import (
    OTHERS,
    PlanAccount,
    PlanClient,
    Scenario,
    SubjectRules,
    with_client,
    with_max_wait,
    with_outage,
)

AT = 1_700_000_000.0
BIG = Limits(rpm=1e6, tpm=6_000)  # 100 tokens a second
FULL = 100 * (60 - BREATH_S)  # tokens of a full bucket


def one_account(limits: Limits = BIG, **more) -> Scenario:
    return Scenario((PlanAccount("a", {OTHERS: limits}, ("k",)),), **more)


def ask(at: float, reserved: int = 100, client: str = "", model: str = "m", **more) -> Demand:
    return Demand(
        AT + at, client, model, "", reserved, more.pop("tokens", reserved), 0, more.pop("took_s", 1.0), **more
    )


def emptied(*then: Demand) -> list[Demand]:
    """The bucket is empty at 0."""
    return [ask(0, int(FULL)), *then]


# ---- waits and refusals


def test_what_has_room_does_not_wait():
    outcome = replay([ask(n) for n in range(100)], one_account())
    assert (outcome.requests, outcome.served, outcome.refused) == (100, 100, {})
    assert outcome.waits == Waits(100, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("days", [8, 20, 2000])
def test_requests_may_be_years_apart(days):
    outcome = replay(emptied(ask(86_400 * days, int(FULL))), one_account())
    assert (outcome.served, outcome.waits.waited) == (2, 0)


def test_what_has_no_room_waits_for_the_refill():
    outcome = replay(emptied(ask(1, 1_100)), one_account())
    assert outcome.waits.waited == 1
    assert outcome.waits.longest_s == pytest.approx(10, abs=0.05)  # 100 tokens are there, 1,000 come in 10 s


def test_a_wait_longer_than_patience_is_refused_at_once():
    outcome = replay(emptied(ask(1, 4_000)), one_account())
    assert outcome.refused == {"rate_limit_exceeded": 1}
    (bound,) = outcome.bindings
    assert (bound.group, bound.dimension, bound.refused, bound.waited) == ("m", Dimension.TPM, 1, 0)
    assert bound.hours == {AT // 3600 * 3600: 1}


def test_a_longer_patience_serves_it():
    outcome = replay(emptied(ask(1, 4_000)), with_max_wait(one_account(), 60))
    assert outcome.waits.longest_s == pytest.approx(39, abs=0.1)


def test_what_no_account_can_ever_hold_is_too_large():
    assert replay([ask(0, 7_000)], one_account()).refused == {"request_too_large_for_pool": 1}


def test_a_larger_account_takes_what_is_too_large_for_the_others():
    small = tuple(PlanAccount(f"s{n}", {OTHERS: BIG}) for n in range(10))
    large = PlanAccount("large", {OTHERS: Limits(tpm=100_000)})
    outcome = replay([ask(0, 7_000, pico=5)], Scenario((*small, large)))
    assert outcome.pico_by_account == {"large": 5}


def test_a_full_queue_refuses():
    outcome = replay(emptied(*(ask(1, 1_000) for _ in range(4))), one_account(max_waiting=2))
    assert outcome.refused == {"queue_full": 2}


def test_a_large_request_at_the_head_is_not_overtaken():
    waits = replay(emptied(ask(1, 1_000), ask(1.1, 10)), one_account()).waits
    assert waits.waited == 2
    assert waits.mean_s * 3 == pytest.approx(9 + 9, abs=0.3)  # the emptying one waited for nothing


def test_a_client_of_twice_the_weight_gets_twice_as_much():
    crowd = [ask(1 + n / 1000, 100, client) for n in range(60) for client in ("a", "b")]
    pool = with_client(one_account(), "a", weight=2)
    outcome = replay(emptied(*crowd), pool)
    half = {name: share.waits for name, share in outcome.by_client.items() if name}
    assert half["a"].requests > half["b"].requests
    assert half["a"].mean_s < half["b"].mean_s


def test_a_higher_priority_goes_first():
    both = (("x", 0), ("y", 1))
    crowd = [ask(1.1 + n / 1000, 100, client, priority=prio) for n in range(40) for client, prio in both]
    shares = replay(emptied(ask(0.9, 100, "x"), *crowd), one_account()).by_client
    assert shares["y"].waits.requests == 30  # one a second for as long as anybody waits
    assert shares["x"].waits.requests == 1  # it came first


@pytest.mark.parametrize("processes", [1, 4])
def test_a_large_request_in_a_burst_of_one_moment_is_not_overtaken_by_all_of_it(processes):
    crowd = [ask(1, 100, "small") for _ in range(12)]
    shares = replay(emptied(ask(1, 800, "large"), *crowd), one_account(processes=processes)).by_client
    # 2,000 tokens come in 20 s: whoever were last would wait 19 s.
    assert shares["large"].waits.longest_s < 18
    assert shares["small"].waits.longest_s == pytest.approx(19, abs=0.1)


def test_what_was_not_used_comes_back_only_where_upstream_corrects():
    calls = [ask(n * 5.0, 2_500, tokens=50, took_s=0.5) for n in range(120)]
    corrected = Scenario((PlanAccount("a", {OTHERS: BIG}, corrects={"m": True}),))
    assert replay(calls, corrected).served >= 115  # as soon as its answers have shown it
    assert replay(calls, one_account()).served == pytest.approx(600 * 100 / 2_500 + FULL / 2_500, abs=3)


# ---- clients' own rules


def client_with(*rules: Rule) -> Scenario:
    return one_account(clients={"c": PlanClient(rules=(SubjectRules("c/c", rules),))})


def test_a_clients_rate_refuses_beyond_patience():
    pool = with_max_wait(client_with(Rule("rpm", Kind.RATE, Measure.REQUESTS, 2, period_s=60)), 5)
    outcome = replay([ask(n / 10, 1, "c") for n in range(3)], pool)
    assert outcome.refused == {"client_rate_limited": 1}
    assert outcome.bindings[0].rule == "rpm"


def test_a_clients_rate_waits_within_patience_and_holds_nobody_else_up():
    pool = client_with(Rule("rpm", Kind.RATE, Measure.REQUESTS, 6, period_s=60))
    calls = [ask(0, 1, "c") for _ in range(7)] + [ask(0.1, 1, "other")]
    outcome = replay(calls, pool)
    assert outcome.by_client["c"].waits.longest_s == pytest.approx(10, abs=0.1)
    assert outcome.by_client["other"].waits.waited == 0


def test_a_slot_is_free_again_when_the_call_ends():
    pool = client_with(Rule("concurrent", Kind.SLOTS, Measure.CONCURRENT, 1))
    outcome = replay([ask(0, 1, "c", took_s=4), ask(1, 1, "c")], pool)
    assert outcome.waits.longest_s == pytest.approx(3, abs=0.2)


def test_a_budget_that_is_used_up_refuses():
    pool = client_with(Rule("usd/day", Kind.BUDGET, Measure.USD, 250, per=Per.DAY))
    outcome = replay([ask(n * 10, 1, "c", pico=100) for n in range(4)], pool)
    assert outcome.refused == {"client_budget_exhausted": 2}
    assert outcome.pico == 200


# ---- outages, money


def test_an_outage_of_the_only_account_refuses_while_it_lasts():
    pool = with_outage(one_account(), "a", AT + 10, AT + 20)
    outcome = replay([ask(float(n), 1) for n in range(30)], pool)
    assert outcome.refused == {"pool_no_usable_keys": 10}


def test_another_account_serves_during_an_outage():
    pool = Scenario(tuple(PlanAccount(name, {OTHERS: BIG}) for name in ("a", "b")))
    outcome = replay([ask(float(n), 1, pico=1) for n in range(30)], with_outage(pool, "a", AT - 5))
    assert outcome.pico_by_account == {"b": 30}


def test_a_stored_object_waits_for_its_account_and_fails_without_it():
    pool = Scenario(tuple(PlanAccount(name, {OTHERS: BIG}) for name in ("a", "b")))
    assert replay([ask(0, 1, pico=1, only="b")], pool).pico_by_account == {"b": 1}
    assert replay([ask(0, 1, only="gone")], pool).refused == {"object_account_unavailable": 1}


def test_a_model_that_no_account_has_is_not_available():
    pool = Scenario((PlanAccount("a", {OTHERS: BIG}, closed_to=frozenset({"m"})),))
    assert replay([ask(0, 1)], pool).refused == {"model_not_available": 1}


def test_budgets_begin_with_what_was_used_before_and_the_next_day_is_unused():
    rule = Rule("day", Kind.BUDGET, Measure.REQUESTS, 5, per=Per.DAY)
    app = PlanClient(rules=(SubjectRules("c/app", (rule,), used={"day": 3.0}),))
    midnight = AT // 86_400 * 86_400 + 86_400 - AT
    calls = [ask(n, 1, "app") for n in range(4)] + [ask(midnight + n, 1, "app") for n in range(7)]
    outcome = replay(calls, one_account(clients={"app": app}, max_wait_s=0))
    assert outcome.refused == {"client_budget_exhausted": 2 + 2}
    spent = [ask(n * 10, 1, pico=100) for n in range(4)] + [ask(midnight + n * 10, 1, pico=100) for n in range(4)]
    assert replay(spent, one_account(daily_limit_pico=300, spent_pico=100)).refused == {"pool_daily_limit_reached": 3}


def test_the_pools_daily_limit_refuses_what_comes_after_it():
    outcome = replay([ask(n * 10, 1, pico=100) for n in range(5)], one_account(daily_limit_pico=200))
    assert outcome.refused == {"pool_daily_limit_reached": 3}


def test_requests_without_a_price_are_counted():
    outcome = replay([ask(0, 1, pico=7), ask(1, 1, pico=None)], one_account())
    assert (outcome.pico, outcome.unpriced) == (7, 1)


# ---- how full


def test_each_limit_shows_how_full_it_is_and_when_it_was_fullest():
    calls = [ask(60.0 * n, 600) for n in range(10)] + [ask(300.5 + n, 600) for n in range(4)] + [ask(600, 0)]
    outcome = replay(sorted(calls, key=lambda one: one.at), one_account(Limits(rpm=60, tpm=6_000)))
    fills = {fill.dimension: fill for fill in outcome.fills}
    assert fills[Dimension.TPM].share == pytest.approx(14 * 600 / 60_000)
    assert fills[Dimension.TPM].fullest == pytest.approx(5 * 600 / 6_000)
    assert fills[Dimension.TPM].fullest_at == AT + 300
    assert fills[Dimension.RPM].share == pytest.approx(15 / 600)


# ---- laws


@st.composite
def any_day(draw) -> list[Demand]:
    gaps = draw(st.lists(st.floats(0, 20), min_size=1, max_size=60))
    at, calls = 0.0, []
    for gap in gaps:
        at += gap
        reserved = draw(st.integers(0, 7_000))
        calls.append(
            ask(
                at,
                reserved,
                draw(st.sampled_from("ab")),
                draw(st.sampled_from(("m", "n"))),
                tokens=draw(st.integers(-1, reserved)),
                took_s=draw(st.floats(0, 30)),
                priority=draw(st.sampled_from((-1, 0, 1))),
                pico=draw(st.integers(0, 100)),
            )
        )
    return calls


@settings(max_examples=60)
@given(any_day(), st.integers(1, 3), st.integers(1, 3), st.booleans(), st.integers(0, 3))
def test_every_request_is_served_or_refused_within_its_patience_and_the_same_again(
    calls, accounts, processes, fix, seed
):
    pool = Scenario(
        tuple(PlanAccount(f"a{n}", {OTHERS: BIG}, corrects={"m": fix}) for n in range(accounts)),
        processes=processes,
        seed=seed,
    )
    outcome = replay(calls, pool)
    assert outcome.served + outcome.refusals == outcome.requests == len(calls)
    assert outcome.waits.longest_s <= pool.max_wait_s + 1e-3
    assert sum(outcome.pico_by_account.values()) == outcome.pico
    assert outcome == replay(calls, pool)


def test_nothing_asked_is_an_outcome_too():
    outcome = replay([], one_account())
    assert isinstance(outcome, Outcome)
    assert (outcome.requests, outcome.fills, outcome.hours) == (0, (), ())


def test_progress_is_told_as_requests_arrive():
    heard: list[int] = []
    replay([ask(float(n), 1) for n in range(2_500)], one_account(), progress=heard.append)
    assert heard == [1_000, 2_000, 2_500]
