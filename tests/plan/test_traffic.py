"""Traffic that grows and shrinks, and what refused requests would have used."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.plan.demand import UNSEEN, Demand
from quotapool.plan.scenario import Traffic
from quotapool.plan.traffic import count_of, filled, scaled

HOUR = [Demand(float(n), "a" if n % 2 else "b", "gpt-4o", tokens=100, pico=n) for n in range(3_600)]


@pytest.mark.parametrize("factor", [0.25, 0.5, 1.5, 2, 3.3])
def test_so_many_times_as_many_requests_come_in_each_part_of_the_day(factor):
    found = scaled(HOUR, [Traffic(factor)], seed=1)
    assert [one.at for one in found] == sorted(one.at for one in found)
    for part in range(4):
        count = sum(900 * part <= one.at < 900 * (part + 1) for one in found)
        assert count == pytest.approx(900 * factor, rel=0.2)


def test_only_the_named_client_and_model_change():
    found = scaled(HOUR, [Traffic(2, client="a"), Traffic(0, model="gpt-4o-mini")], seed=1)
    assert sum(one.client == "b" for one in found) == 1_800
    assert sum(one.client == "a" for one in found) == 3_600


def test_factors_of_one_request_are_multiplied():
    both = [Traffic(2), Traffic(2, client="a")]
    assert len(scaled(HOUR, both, seed=1)) == count_of(HOUR, both) == 1_800 * 2 + 1_800 * 4


def test_bursts_stay_bursts():
    ends = [Demand(at, "b", "m", tokens=1) for at in (0.0, 5_000.0)]
    burst = [Demand(1_000.0, "a", "m", tokens=1)] * 3
    copies = [
        one for one in scaled([ends[0], *burst, ends[1]], [Traffic(2, client="a")], seed=1)[1:-1] if one.at != 1_000
    ]
    assert len(copies) == 3
    assert len({one.at for one in copies}) == 1
    assert 30 <= abs(copies[0].at - 1_000) <= 300


@given(st.floats(0, 5), st.integers(0, 100))
def test_the_same_seed_gives_the_same_and_nothing_leaves_the_record(factor, seed):
    day = HOUR[:200]
    found = scaled(day, [Traffic(factor)], seed)
    assert found == scaled(day, [Traffic(factor)], seed)
    assert all(day[0].at <= one.at <= day[-1].at for one in found)


def test_a_refused_request_uses_what_one_of_its_client_and_size_used():
    served = [Demand(float(n), "a", "m", reserved=1_000, tokens=400, took_s=2, pico=40) for n in range(20)]
    large = [Demand(50.0 + n, "a", "m", reserved=8_000, tokens=7_000, took_s=9, pico=700) for n in range(20)]
    other = [Demand(90.0 + n, "b", "m", reserved=8_000, tokens=1, took_s=1, pico=1) for n in range(20)]
    refused = Demand(200.0, "a", "m", reserved=8_000)
    assert filled([*served, *large, *other, refused], seed=1)[-1] == Demand(
        200.0, "a", "m", reserved=8_000, tokens=7_000, took_s=9, pico=700
    )


def test_of_one_with_another_estimate_the_same_part_is_used():
    served = Demand(0.0, "a", "m", reserved=1_000, tokens=400, took_s=2, pico=40)
    found = filled([served, Demand(1.0, "c", "m", reserved=2_000)], seed=1)[-1]
    assert (found.tokens, found.pico) == (800, 80)


def test_where_nothing_was_served_the_estimate_is_used_at_no_known_price():
    found = filled([Demand(1.0, "c", "m", reserved=2_000)], seed=1)[-1]
    assert (found.tokens, found.pico) == (2_000, None)
    assert UNSEEN < 0
