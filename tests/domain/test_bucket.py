"""The token bucket's laws: each by hand arithmetic, then for any trace.

Numbers used throughout: 60 requests a minute are 1 a second, and the depth is 60 - 1.2 = 58.8 (1.2 s of refill are
kept back); 60,000 tokens a minute are 1,000 a second, depth 58,800.
"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.bucket import NEVER, UNKNOWN, Bucket
from quotapool.domain.quantities import Cost, Dimension, Limits

from tests.fakes.buckets import (
    IPM,
    NOTHING_WRITTEN,
    PROJECT_TPM,
    RPD,
    RPM,
    TPD,
    TPM,
    WRITTEN,
    bucket,
    close,
    told,
)

# ---- depth and refill


@pytest.mark.parametrize(
    ("limits", "index", "depth"),
    [
        (Limits(rpm=60), RPM, 58.8),  # 60 - 1.2 s of 1/s
        (Limits(tpm=60_000), TPM, 58_800.0),  # 60,000 - 1.2 s of 1,000/s
        (Limits(rpd=86_400), RPD, 86_398.8),  # a day's limit gives the same 1.2 s away, of 1/s
        (Limits(tpd=200_000), TPD, 200_000 - 1.2 * 200_000 / 86_400),
        (Limits(ipm=5), IPM, 4.9),  # 5 - 1.2/12
        (Limits(), RPM, 3.0),  # no limit configured or learned: three requests until the first answer
        (Limits(), TPM, 196_000.0),  # a guess of 200,000
    ],
)
def test_a_new_bucket_is_full_to_just_below_its_limit(limits, index, depth):
    assert bucket(written=limits).level(index) == close(depth)


@pytest.mark.parametrize("index", [RPD, TPD, IPM, PROJECT_TPM])
def test_a_limit_that_is_neither_configured_nor_learned_nor_guessed_is_unbounded(index):
    assert bucket(written=NOTHING_WRITTEN).level(index) is None


@pytest.mark.parametrize(
    ("seconds", "level"),
    [(0, 8.8), (1, 9.8), (10, 18.8), (50, 58.8), (51, 58.8), (86_400, 58.8), (-5, 8.8)],
)
def test_a_bucket_refills_continuously_up_to_its_depth_and_never_backwards(seconds, level):
    # Given 58.8 of which 50 are taken
    b = bucket(100.0)
    b.take(Cost(50))
    # If `seconds` pass (a clock may also go back)
    b.refill(100.0 + seconds, WRITTEN)
    # I expect one more for each second
    assert b.level(RPM) == close(level)


def test_a_store_that_lost_its_memory_starts_the_minutes_empty_and_refills_from_there():
    written = Limits(rpm=60, tpm=60_000, rpd=1_000)
    b = Bucket(0.0)
    b.refill(0.0, written, start_empty=True)
    assert (b.level(RPM), b.level(TPM)) == (0, 0)
    assert b.level(RPD) == close(1_000 - 1.2 * 1_000 / 86_400)  # a day would be too long a punishment
    b.refill(5.0, written, start_empty=True)
    assert (b.level(RPM), b.level(TPM)) == (close(5), close(5_000))


# ---- what fits, and when


@pytest.mark.parametrize(
    ("taken", "cost", "wait", "which"),
    [
        (Cost(0), Cost(1, 100), 0.0, None),
        (Cost(58), Cost(1), 0.2, Dimension.RPM),  # 0.8 left, 0.2 missing at 1 a second
        (Cost(1, 50_000), Cost(1, 10_000), 1.2, Dimension.TPM),  # 8,800 left, 1,200 missing at 1,000 a second
        (Cost(58, 58_000), Cost(1, 3_800), 3.0, Dimension.TPM),  # both miss: the later one decides
        (Cost(0), Cost(1, 59_500), 0.0, None),  # above the depth, below the limit: a full bucket is enough
        (Cost(0, 800), Cost(1, 59_500), 0.8, Dimension.TPM),  # and it waits for a full one
        (Cost(0), Cost(1, 60_000), 0.0, None),
        (Cost(0), Cost(1, 60_001), NEVER, Dimension.TPM),
        (Cost(0), Cost(61), NEVER, Dimension.RPM),
        (Cost(58), Cost(0, 10), 0.0, None),  # what costs no request waits for none
    ],
)
def test_the_wait_is_what_is_missing_at_the_refill_rate(taken, cost, wait, which):
    b = bucket()
    b.take(taken)
    assert b.wait(cost, WRITTEN) == (close(wait), which)


def test_a_cost_above_the_depth_drives_the_bucket_below_zero_and_time_pays():
    b = bucket()
    b.take(Cost(1, 60_000))
    assert b.level(TPM) == close(-1_200)
    assert b.wait(Cost(1, 800), WRITTEN) == (close(2.0), Dimension.TPM)  # 1,200 of debt and 800 at 1,000 a second


def test_a_limit_of_zero_never_fits_and_breaks_nothing():
    b = bucket(written=Limits(rpm=0, tpm=0))
    assert b.wait(Cost(1, 1), Limits(rpm=0, tpm=0)) == (NEVER, Dimension.RPM)
    b.follow(0.0, [told(b, TPM, 0, 0)], Limits(rpm=0, tpm=0))
    b.follow(0.0, [told(b, TPM, 0, 0)], Limits(rpm=0, tpm=0))
    assert b.lean == 0


def test_a_cool_down_refuses_until_it_ends_whatever_the_level():
    b = bucket(cool_until=7.5)
    assert b.wait(Cost(1), WRITTEN) == (7.5, None)
    b.refill(7.5, WRITTEN)
    assert b.wait(Cost(1), WRITTEN) == (0.0, None)


# ---- limits: written, learned, guessed


@pytest.mark.parametrize(
    ("written", "learned", "in_force"),
    [
        (60.0, UNKNOWN, 60.0),
        (60.0, 40.0, 40.0),  # upstream allows less than is configured
        (60.0, 500.0, 60.0),  # a configured limit caps a learned one
        (60.0, math.inf, 60.0),
        (None, 40.0, 40.0),
        (None, 5_000.0, 5_000.0),  # a guess caps nothing
        (None, math.inf, math.inf),
        (None, UNKNOWN, 500.0),
    ],
)
def test_a_configured_limit_caps_a_learned_one_and_a_guess_caps_nothing(written, learned, in_force):
    b = Bucket(0.0)
    b.learned[RPM] = learned
    assert b.limit(RPM, Limits(rpm=written)) == in_force


def test_the_first_limit_reported_replaces_a_guess_and_its_level():
    # Given a bucket of guesses from which two requests of 100 tokens are taken
    b = bucket(written=NOTHING_WRITTEN)
    b.take(Cost(1, 100))
    first = b.moment(TPM)
    b.take(Cost(1, 100))
    # If upstream's answer to the first says 29,900 of 30,000 remain
    b.follow(0.0, [told(b, TPM, 30_000, 29_900, first)], NOTHING_WRITTEN)
    # I expect its level less the second: 29,800, cut to the depth of 30,000 - 600
    assert b.level(TPM) == close(29_400)


def test_an_answer_without_limits_unbounds_unconfigured_limits_and_keeps_the_rest():
    written = Limits(rpm=60)
    b = bucket(written=written)
    b.trust_usage(written)
    assert (b.level(RPM), b.level(TPM)) == (close(58.8), None)
    assert b.wait(Cost(1, 10**9), written) == (0.0, None)


# ---- settling


def test_settling_gives_back_what_upstream_never_charged():
    b = bucket()
    b.take(Cost(1, 1_000))
    b.settle(Cost(1, 1_000), 0)
    assert (b.level(RPM), b.level(TPM), b.charged[:2]) == (close(58.8), close(58_800), [0, 0])


def test_unused_tokens_come_back_in_one_prediction_and_stay_charged_in_the_cautious_one_that_leads():
    b = bucket()
    b.take(Cost(1, 1_000))
    b.settle(Cost(0), 700)
    assert (b.kept[TPM], b.corrected[TPM]) == (close(57_800), close(58_500))
    assert b.level(TPM) == close(57_800)


def test_more_used_than_reserved_is_a_debt_until_upstream_shows_that_it_keeps_the_estimate():
    b = bucket()
    b.take(Cost(1, 58_000))
    b.settle(Cost(0), -3_000)  # 800 were left
    assert (b.kept[TPM], b.corrected[TPM]) == (close(800), close(-2_200))
    assert b.level(TPM) == close(-2_200)
    b.refill(2.2, WRITTEN)
    assert b.level(TPM) == close(0)  # paid by time
    b.lean = 0.5
    assert b.level(TPM) == close(3_000)


# ---- for any trace

limits = st.builds(
    Limits,
    rpm=st.none() | st.integers(1, 10_000),
    tpm=st.none() | st.integers(1, 10_000_000),
    rpd=st.none() | st.integers(1, 100_000),
    tpd=st.none() | st.integers(1, 100_000_000),
    ipm=st.none() | st.integers(1, 500),
)
costs = st.builds(Cost, requests=st.integers(0, 50), tokens=st.integers(0, 300_000), images=st.integers(0, 10))
pauses = st.floats(0, 400)


@given(st.integers(1, 10_000), st.integers(100, 10_000_000), st.floats(0.5, 3), st.floats(0.01, 1), pauses)
def test_a_refused_caller_is_granted_after_exactly_the_wait_it_was_given_and_not_before(rpm, tpm, taken, wanted, pause):
    written = Limits(rpm=rpm, tpm=tpm)
    b = bucket(written=written)
    b.take(Cost(int(rpm * taken), int(tpm * taken)))
    b.refill(pause / 10, written)
    cost = Cost(max(1, int(rpm * wanted)), int(tpm * wanted))
    wait, _ = b.wait(cost, written)
    assert wait < NEVER
    start, speck = b.at, 1e-6 * max(1.0, wait)
    if wait > 1e-5:
        b.refill(start + wait * 0.999 - speck, written)
        assert b.wait(cost, written)[0] > 0
    b.refill(start + wait + speck, written)
    assert b.wait(cost, written) == (0.0, None)


@given(limits, costs)
def test_exactly_a_cost_above_a_limit_never_fits(written, cost):
    b = bucket(written=written)
    b.take(Cost(5, 1_000, 1))
    above = any(
        0 < cost.of(d) > (w if (w := written.of(d)) is not None else {"rpm": 500, "tpm": 200_000}.get(d, math.inf))
        for d in Dimension
    )
    assert (b.wait(cost, written)[0] == NEVER) is above


@given(limits, st.lists(st.tuples(costs, st.integers(-5_000, 5_000), pauses), max_size=12))
def test_no_level_is_ever_above_the_depth(written, calls):
    b = bucket(written=written)
    for cost, unused, pause in calls:
        b.take(cost)
        b.settle(Cost(0), unused)
        b.refill(b.at + pause, written)
        for i in range(6):
            for level in (b.kept[i], b.corrected[i]):
                assert level is None or level <= b.depth(i, written) + 1e-6


@given(limits, costs, st.floats(0, 1e5))
def test_time_standing_still_or_going_back_refills_nothing(written, cost, back):
    b = bucket(1e5, written)
    b.take(cost)
    levels = list(b.kept), list(b.corrected)
    b.refill(1e5, written)
    b.refill(1e5 - back, written)
    assert (list(b.kept), list(b.corrected)) == levels


@given(st.integers(1, 500_000))
def test_any_debt_is_paid_by_time_alone(tokens):
    b = bucket()
    b.take(Cost(0, 58_800))
    b.settle(Cost(0), -tokens)
    b.refill(tokens / 1_000 - 0.001, WRITTEN)
    assert (b.level(TPM) or 0) < 0
    b.refill(tokens / 1_000 + 0.001, WRITTEN)
    assert (b.level(TPM) or 0) > 0


@given(st.integers(1, 9), st.integers(1, 60))
def test_while_a_slowed_bucket_recovers_a_second_wait_is_a_trifle(slow_downs, requests):
    # The rate grows while one waits, so the wait that was given is not exact: what is left after it is below 1 %.
    b = bucket()
    b.take(Cost(58))
    for _ in range(slow_downs):
        b.slow_down()
    wait, _ = b.wait(Cost(requests), WRITTEN)
    b.refill(b.at + wait, WRITTEN)
    again, _ = b.wait(Cost(requests), WRITTEN)
    assert again <= wait / 100 + 1e-6
