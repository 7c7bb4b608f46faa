"""What upstream's answers teach a bucket: limits, levels, its way of charging, its bursts. By hand arithmetic.

60,000 tokens a minute are 1,000 a second, and the depth is 58,800 (1.2 s of refill are kept back).
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.bucket import Bucket, Evidence, Moment
from quotapool.domain.quantities import Cost, Dimension, Limits

from tests.fakes.buckets import (
    NOTHING_WRITTEN,
    RPD,
    RPM,
    TPM,
    WRITTEN,
    bucket,
    close,
    told,
)

# ---- following upstream


def settled_bucket(at: float = 0.0) -> tuple[Bucket, Moment]:
    """(a bucket from which 1 request of 10,000 tokens was just taken, its TPM moment): 48,800 left."""
    b = bucket(at)
    b.take(Cost(1, 10_000))
    then = b.moment(TPM)
    assert then is not None
    return b, then


def test_a_lower_remaining_than_expected_lowers_the_level_at_once():
    b, then = settled_bucket()
    # Somebody else has taken 20,000: 28,800 remain where 48,800 were expected.
    b.follow(0.0, [told(b, TPM, 60_000, 28_800, then)], WRITTEN)
    assert b.level(TPM) == close(28_800)


def test_own_calls_close_in_time_explain_a_lower_remaining():
    b, then = settled_bucket()
    b.take(Cost(1, 5_000))
    # The second call may have reached upstream first, so 43,800 is no news.
    b.follow(0.0, [told(b, TPM, 60_000, 43_800, then)], WRITTEN)
    assert b.level(TPM) == close(43_800)
    assert b.margin[TPM] == 0


def test_a_lower_remaining_widens_the_margin_that_must_stay_free():
    b, then = settled_bucket()
    b.follow(0.0, [told(b, TPM, 60_000, 44_800, then)], WRITTEN)  # a surprise of 4,000
    assert b.margin[TPM] == close(4_000 + 1_000)  # the surprise and a quarter
    # 44,800 are there; 44,800 do not fit with 5,000 to spare, 39,800 do.
    assert b.wait(Cost(1, 39_800), WRITTEN)[0] == 0
    assert b.wait(Cost(1, 44_800), WRITTEN)[0] == close(5.0)


def test_a_higher_remaining_raises_the_level_by_a_part_of_what_the_latency_allowance_does_not_explain():
    b, then = settled_bucket()
    b.refill(1.0, WRITTEN)  # 49,800
    # 58,800 remain, 48,800 were expected; this call's own 10,000 and 1,200 allowed explain it.
    b.follow(0.0, [told(b, TPM, 60_000, 58_800, then)], WRITTEN)
    assert b.level(TPM) == close(49_800)
    # If the limit is found to be 70,000 and all of it remains, 10,000 and the allowance of 1,400 explain a part of it.
    b.follow(0.0, [told(b, TPM, 70_000, 70_000, then)], Limits(rpm=60))
    expected = 49_800 + 0.2 * (70_000 - 48_800 - 10_000 - 1.2 * 70_000 / 60)
    assert b.level(TPM) == close(expected)


def test_a_configured_limit_below_upstreams_says_nothing_about_upstreams_level_so_it_never_raises():
    b, then = settled_bucket()
    b.follow(0.0, [told(b, TPM, 10_000_000, 9_990_000, then)], WRITTEN)
    assert b.level(TPM) == close(48_800)


def test_what_calls_in_flight_all_show_is_learnt_once():
    # Given ten calls in flight, each of 100 tokens
    b = bucket()
    moments = []
    for _ in range(10):
        b.take(Cost(1, 100))
        moments.append(b.moment(TPM))
    # If somebody else had taken 20,000 before, and the answers come in the order of the calls
    for taken, then in enumerate(moments, 1):
        b.follow(0.0, [told(b, TPM, 60_000, 58_800 - 20_000 - 100 * taken, then)], WRITTEN)
    # I expect upstream's level, not ten times 20,000 less
    assert b.level(TPM) == close(58_800 - 20_000 - 1_000)


def test_a_limit_far_below_the_guess_is_learnt_once_from_the_calls_that_were_let_through():
    # Given three calls on the guess of 200,000 tokens a minute, where upstream allows 30,000
    b = bucket(written=NOTHING_WRITTEN)
    moments = []
    for _ in range(3):
        b.take(Cost(1, 1_000))
        moments.append(b.moment(TPM))
    for taken, then in enumerate(moments, 1):
        b.follow(0.0, [told(b, TPM, 30_000, 30_000 - 1_000 * taken, then)], NOTHING_WRITTEN)
    # I expect 27,000, as upstream has it, less at most the allowance of 600: no debt that takes minutes to pay
    assert 26_400 <= (b.level(TPM) or 0) <= 27_000


def test_a_limit_below_the_configured_one_is_learnt_once_too():
    written = Limits(rpm=600, tpm=200_000)
    b = bucket(written=written)
    moments = []
    for _ in range(20):
        b.take(Cost(1, 500))
        moments.append(b.moment(TPM))
    for taken, then in enumerate(moments, 1):
        b.follow(0.0, [told(b, TPM, 30_000, 30_000 - 500 * taken, then)], written)
    assert 19_400 <= (b.level(TPM) or 0) <= 20_000


def test_a_surprise_upward_is_not_multiplied_by_the_calls_that_show_it():
    # Given 30 calls in flight a while after somebody drained the bucket to nothing, as we wrongly believe
    b = bucket()
    b.take(Cost(0, 58_800))
    b.refill(2.0, WRITTEN)  # 2,000; recent has faded
    moments = []
    for n in range(30):
        b.refill(2.0 + n / 1000, WRITTEN)
        b.take(Cost(0, 10))
        moments.append(b.moment(TPM))
    # If upstream has 40,000 in truth
    for taken, then in enumerate(moments, 1):
        b.follow(2.0 + (taken - 1) / 1000, [told(b, TPM, 60_000, 40_000 - 10 * taken, then)], WRITTEN)
    # I expect a level that approaches the truth and never exceeds it
    assert 20_000 < (b.level(TPM) or 0) < 40_000


def test_of_calls_reserved_at_one_moment_the_first_to_report_counts():
    """Given two at one moment that overtook each other, if the slower one's answer ends after ten seconds, I expect it
    to teach nothing: what it calls missing is the other one."""
    b = bucket(1.0)
    b.take(Cost(1, 20_000))
    first = b.moment(TPM)
    b.take(Cost(1, 10_000))
    second = b.moment(TPM)
    b.follow(1.0, [told(b, TPM, 60_000, 30_000, second)], WRITTEN)
    assert b.level(TPM) == close(28_800)
    b.refill(11.0, WRITTEN)
    b.follow(1.0, [told(b, TPM, 60_000, 30_000, first)], WRITTEN)
    assert b.level(TPM) == close(38_800)


def test_older_evidence_never_overrides_newer():
    b, then = settled_bucket(10.0)
    b.follow(10.0, [told(b, TPM, 60_000, 48_800, then)], WRITTEN)
    b.follow(9.0, [told(b, TPM, 60_000, 100, then)], WRITTEN)
    assert b.level(TPM) == close(48_800)


def test_an_answer_without_evidence_makes_no_other_evidence_old():
    b, then = settled_bucket(10.0)
    b.follow(20.0, [], WRITTEN)
    b.follow(10.0, [told(b, TPM, 60_000, 28_800, then)], WRITTEN)
    assert b.level(TPM) == close(28_800)


def test_calls_from_before_a_bucket_was_bounded_teach_a_limit_but_no_level():
    # Given two calls while no daily limit was known
    b = bucket()
    b.take(Cost(1))
    b.take(Cost(1))
    assert b.moment(RPD) is None
    # If the first answer says 199 of 200 remain, ten more calls are taken, and then the second answer comes
    b.follow(0.0, [Evidence(Dimension.RPD, 200, 199, None)], WRITTEN)
    for _ in range(10):
        b.take(Cost(1))
    b.follow(0.0, [Evidence(Dimension.RPD, 200, 198, None)], WRITTEN)
    # I expect the ten to stay charged
    assert b.level(RPD) == close(199 - 10)


# ---- how upstream charges, bursts, ramps


def test_the_prediction_that_fits_upstream_leads():
    # Given an upstream that corrects each charge to the usage: 1,000 reserved, 100 used
    b, truth, now = bucket(), 60_000.0, 0.0
    for _ in range(40):
        b.take(Cost(1, 1_000))
        then = b.moment(TPM)
        truth -= 1_000
        evidence = told(b, TPM, 60_000, truth, then)
        b.settle(Cost(0), 900)
        truth += 900
        now += 2.0
        truth = min(60_000.0, truth + 2_000)
        b.refill(now, WRITTEN)
        b.follow(now - 2.0, [evidence], WRITTEN)
        if now < 20:  # drain both sides, so that the two predictions come apart
            b.take(Cost(0, 5_000))
            truth -= 5_000
    assert b.lean < 0
    assert b.level(TPM) == b.corrected[TPM]


@pytest.mark.parametrize(
    ("halvings", "burst_s", "depth"), [(1, 30, 28.8), (2, 15, 13.8), (4, 3.75, 2.55), (6, 1, 0.5), (9, 1, 0.5)]
)
def test_a_refusal_with_enough_left_halves_the_span_that_may_come_at_once(halvings, burst_s, depth):
    b = bucket()
    for _ in range(halvings):
        b.shorten_burst()
    assert b.burst_s == max(1, burst_s)
    b.refill(0.0, WRITTEN)
    assert b.level(RPM) == close(depth)  # 1 a second, less the allowance or half, whichever leaves more


def test_a_shortened_burst_doubles_again_in_ten_minutes():
    b = bucket()
    b.shorten_burst()
    b.refill(600.0, WRITTEN)
    assert b.burst_s == close(60)


@pytest.mark.parametrize("days", [8, 20, 20_000])
def test_a_bucket_that_rested_for_days_has_grown_to_the_whole(days):
    bucket = Bucket(0.0)
    bucket.slow_down()
    bucket.shorten_burst()
    bucket.refill(86_400.0 * days, Limits(rpm=60))
    assert (bucket.ramp, bucket.burst_s) == (1.0, 60.0)


def test_slow_down_takes_three_tenths_of_the_rate_and_time_brings_it_back():
    b = bucket()
    b.slow_down()
    assert b.rate(TPM, WRITTEN) == close(700)
    b.refill(900.0, WRITTEN)  # "at most 50 % per 15 minutes": 0.7 * 1.5 is above 1
    assert b.rate(TPM, WRITTEN) == close(1_000)
    for _ in range(20):
        b.slow_down()
    assert b.rate(TPM, WRITTEN) == close(50)  # never below a twentieth
    b.refill(1_800.0, WRITTEN)
    assert b.rate(TPM, WRITTEN) == close(75)


@given(st.integers(0, 70_000), st.integers(0, 50), st.integers(1, 30))
def test_no_number_of_equal_answers_takes_the_level_past_what_upstream_says(remaining, own, answers):
    # Given calls in flight at the same time, all of which report the same `remaining`, less what ours took before each
    b = bucket()
    moments = []
    for _ in range(answers):
        b.take(Cost(1, own))
        moments.append(b.moment(TPM))
    before = b.level(TPM) or 0
    for taken, then in enumerate(moments, 1):
        b.follow(0.0, [told(b, TPM, 60_000, remaining - own * taken, then)], WRITTEN)
    low, high = sorted((before, remaining - own * answers))
    assert low - 1e-6 <= (b.level(TPM) or 0) <= high + 1e-6
