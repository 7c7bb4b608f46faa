"""How upstream charges is found out from what came of the recorded requests, where its answers have not shown it.

A bucket of 6,000 tokens a minute; every 5 s comes a request that reserves 2,500 and uses 50. If the estimate stays
charged, one fits every 25 s: of five, four are refused at once, and the fifth, which came as the one before it had been
served, waits some 22 s. If what was used is charged, there is always room.
"""

from __future__ import annotations

import pytest
from quotapool.domain.quantities import Limits
from quotapool.plan import charging
from quotapool.plan.charging import charged_as_recorded
from quotapool.plan.demand import UNSEEN, Demand
from quotapool.plan.scenario import OTHERS, PlanAccount, Scenario
from quotapool.plan.sources.record import Collector, Record

AT = 1_795_000_000.0
POOL = Scenario((PlanAccount("a", {OTHERS: Limits(rpm=1e6, tpm=6_000)}), PlanAccount("b", {OTHERS: Limits(rpm=0)})))
STAYS = "how upstream charges is not known, and the estimate is taken to stay charged: "


def recorded(*fared: float | str, reserved: int = 2_500, since: float = AT, into: Collector | None = None) -> Record:
    """Every 5 s a request that waited so long, or was refused by such a code."""
    into = Collector() if into is None else into
    for number, came in enumerate(fared):
        is_served = not isinstance(came, str)
        use = {"tokens": 50, "took_s": 1.0} if is_served else {"tokens": UNSEEN}
        one = Demand(since + 5 * number, "app", "m", "", reserved, **use)
        into.add(one, wait_s=came if is_served else 0.0, code="" if is_served else came)
    return into.record("The ring")


KEPT = (22.0, *["rate_limit_exceeded"] * 4) * 60
CORRECTED = (0.0,) * 300


def ways(scenario: Scenario) -> list[dict[str, bool]]:
    return [dict(account.corrects) for account in scenario.accounts]


@pytest.mark.parametrize(
    ("fared", "way", "said"),
    [
        (KEPT, False, "upstream is taken to charge the estimate"),
        (CORRECTED, True, "upstream is taken to charge what was"),
    ],
    ids=["keeps the estimate", "corrects it"],
)
def test_the_way_whose_refusals_and_waits_are_those_of_the_record_is_taken_for_all_accounts(fared, way, said):
    scenario, (why,) = charged_as_recorded(recorded(*fared), POOL)
    assert ways(scenario) == [{"m": way}] * 2
    assert why.startswith(said)
    assert "of the 276 requests until 2026-11-18 11:31 UTC" in why  # the first two minutes only fill the pool


def test_other_failures_of_the_record_are_no_sign_of_it():
    scenario, _ = charged_as_recorded(recorded(*(0.0, "client_budget_exhausted", "upstream_error") * 100), POOL)
    assert ways(scenario) == [{"m": True}] * 2


def test_what_answers_have_shown_is_not_asked_again():
    known = Scenario((PlanAccount("a", POOL.accounts[0].limits, corrects={"m": False}),))
    assert charged_as_recorded(recorded(*CORRECTED), known) == (known, ())


def test_without_limits_of_tokens_both_ways_are_one():
    pool = Scenario((PlanAccount("a", {OTHERS: Limits(rpm=5)}),))
    assert charged_as_recorded(recorded(*CORRECTED), pool) == (pool, ())


@pytest.mark.parametrize(
    ("fared", "reserved", "why"),
    [
        (CORRECTED, 60, "nothing waited or was refused, so the record cannot tell"),
        (CORRECTED[:120], 2_500, "the record is too short to tell"),
        (KEPT, 60, "the record fits both ways alike (of the 276 requests"),
        ((22.0, *["rate_limit_exceeded"] * 4, *[0.0] * 15) * 15, 2_500, "the record fits neither way, as if the pool"),
    ],
    ids=["nothing waited", "short", "another pool: room for all", "another pool"],
)
def test_a_record_that_does_not_tell_changes_nothing_and_that_is_said(fared, reserved, why):
    scenario, (said,) = charged_as_recorded(recorded(*fared, reserved=reserved), POOL)
    assert scenario == POOL
    assert said.startswith(STAYS + why)


def test_a_record_without_waits_does_not_tell():
    record = recorded(*CORRECTED, into=Collector(waits_known=False))
    assert charged_as_recorded(record, POOL) == (
        POOL,
        (f"{STAYS}the record does not say how long requests waited",),
    )


def test_of_a_long_record_only_the_liveliest_stretch_is_replayed(monkeypatch):
    monkeypatch.setattr(charging, "MOST", 1_000)
    into = Collector()
    for number in range(3_000):  # before and after, tiny ones without waits
        into.add(Demand(AT - 9_000 + number, "app", "m", "", 1, 1))
        into.add(Demand(AT + 9_000 + number, "app", "m", "", 1, 1))
    done = []
    scenario, (why,) = charged_as_recorded(recorded(*KEPT, into=into), POOL, progress=done.append)
    assert ways(scenario) == [{"m": False}] * 2
    assert max(done) <= 2_000, why
