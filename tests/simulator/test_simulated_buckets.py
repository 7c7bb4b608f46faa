"""The simulated limiter follows OpenAI's published and captured numbers; time is an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.simulator.buckets import Budget
from quotapool.simulator.config import Limits
from quotapool.simulator.headers import go_duration


@pytest.mark.parametrize(
    ("limits", "taken", "requested", "expected"),
    [
        # (dimension, limit, used, requested, wait in seconds); the second and third are captured bodies
        ({"rpm": 3}, [0, 0, 0], 0, ("rpm", 3, 3, 1, 20.0)),
        ({"rpd": 200}, [0] * 200, 0, ("rpd", 200, 200, 1, 432.0)),
        ({"tpm": 10_000}, [8554], 3082, ("tpm", 10_000, 8554, 3082, 9.816)),
        ({"tpm": 30_000}, [], 37_313, ("tpm", 30_000, 0, 37_313, None)),
        ({"rpm": 1, "tpm": 100}, [100], 100, ("rpm", 1, 1, 1, 60.0)),
        ({"rpm": 2, "tpm": 100}, [100], 50, ("tpm", 100, 100, 50, 30.0)),
        ({"tpm": 1000, "tpd": 100}, [100], 1, ("tpd", 100, 100, 1, 864.0)),
    ],
)
def test_the_first_dimension_that_is_hit_is_named_with_the_true_wait(limits, taken, requested, expected):
    budget = Budget(Limits(**limits), now=0.0)
    for tokens in taken:
        assert budget.admit(tokens, 0.0) is None
    refusal = budget.admit(requested, 0.0)
    assert refusal is not None
    name, limit, used, asked, wait_s = expected
    assert (refusal.dimension.name, refusal.limit, refusal.used, refusal.requested) == (name, limit, used, asked)
    assert refusal.wait_s == (None if wait_s is None else pytest.approx(wait_s))


@pytest.mark.parametrize(
    ("limit", "remaining", "reset"),
    [(40_000, 39_880, "180ms"), (4_000_000, 3_999_176, "12ms"), (3_500, 3_499, "17ms"), (60, 59, "1s")],
)
def test_reset_is_the_time_until_full_as_in_captured_headers(limit, remaining, reset):
    budget = Budget(Limits(tpm=limit), now=0.0)
    budget.admit(limit - remaining, 0.0)
    (gauge,) = budget.gauges(0.0)
    assert (gauge.limit, gauge.remaining, go_duration(round(gauge.reset_s * 1000))) == (limit, remaining, reset)


def test_a_daily_limit_is_the_one_the_requests_headers_show():
    budget = Budget(Limits(rpm=3, rpd=10_000, tpm=100), now=0.0)
    budget.admit(10, 0.0)
    requests, tokens = budget.gauges(0.0)
    assert (requests.kind, requests.limit, requests.remaining) == ("requests", 10_000, 9_999)
    assert requests.reset_s == pytest.approx(8.64)
    assert (tokens.kind, tokens.remaining) == ("tokens", 90)


def test_a_refused_request_takes_nothing_from_any_bucket():
    budget = Budget(Limits(rpm=10, tpm=100), now=0.0)
    assert budget.admit(80, 0.0) is None
    assert budget.admit(80, 0.0) is not None
    assert [gauge.remaining for gauge in budget.gauges(0.0)] == [9, 20]


def test_a_correction_gives_back_at_most_to_the_brim_and_may_leave_a_debt():
    budget = Budget(Limits(tpm=600), now=0.0)
    budget.admit(500, 0.0)
    budget.correct(500, 100, now=0.0)
    assert budget.gauges(0.0)[0].remaining == 500
    budget.correct(500, 0, now=0.0)
    assert budget.gauges(0.0)[0].remaining == 600
    budget.correct(0, 900, now=0.0)
    assert budget.gauges(0.0)[0].remaining == 0
    assert budget.admit(1, 30.0) is not None  # 300 of debt is 30 seconds at 10 a second
    assert budget.admit(1, 30.1) is None


@given(
    limit=st.integers(1, 10_000_000),
    used=st.floats(0, 1),
    asked=st.floats(0, 1),
    now=st.floats(0, 1e6),
)
def test_a_refused_caller_is_admitted_after_exactly_the_wait_it_was_given(limit, used, asked, now):
    budget = Budget(Limits(tpm=limit), now=now)
    budget.admit(int(used * limit), now)
    requested = max(1, int(asked * limit))
    refusal = budget.admit(requested, now)
    if refusal is None:
        return
    assert refusal.wait_s is not None
    one_token_s = 60 / limit
    if refusal.wait_s > 2 * one_token_s:
        assert budget.admit(requested, now + refusal.wait_s - 2 * one_token_s) is not None
    assert budget.admit(requested, now + refusal.wait_s + 0.001) is None


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0s"), (17, "17ms"), (1000, "1s"), (8640, "8.64s"), (360_000, "6m0s"), (692_334, "11m32.334s"),
     (977_764, "16m17.764s"), (432_000, "7m12s"), (3_600_000, "1h0m0s"), (86_400_000, "24h0m0s")],
)  # fmt: skip
def test_durations_are_printed_as_go_prints_them(milliseconds, text):
    assert go_duration(milliseconds) == text
