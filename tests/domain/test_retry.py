"""After a refusal or a failure: the same answer, another account, or again after a pause. As tables."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.retry import RetrySlots, Step, Tried, may_resend, next_step, pause_s
from quotapool.domain.verdict import Kind, Verdict

ANSWER, NEXT, AGAIN = Step.ANSWER, Step.NEXT, Step.AGAIN


def step(kind: Kind, tried: Tried | None = None, *, resendable=True, replayable=True, slots=None) -> Step:
    return next_step(
        Verdict(kind),
        tried or Tried(),
        resendable=resendable,
        replayable=replayable,
        slots=slots or RetrySlots(),
        most_failures=2,
    )


@pytest.mark.parametrize(
    ("kind", "replayable", "not_replayable"),
    [
        # Upstream did no work, so even what may not be done twice may go to another key.
        (Kind.WAIT, NEXT, NEXT),
        (Kind.SLOW_DOWN, NEXT, NEXT),
        (Kind.MONEY, NEXT, NEXT),
        (Kind.DEAD, NEXT, NEXT),
        (Kind.SUSPECT, NEXT, NEXT),
        (Kind.HEADER, NEXT, NEXT),
        (Kind.MODEL, NEXT, NEXT),
        (Kind.TOO_LARGE, NEXT, NEXT),
        (Kind.EGRESS, NEXT, NEXT),
        # It may have done work: an image is not made twice.
        (Kind.SERVICE, AGAIN, ANSWER),
        # Nothing to do better.
        (Kind.OK, ANSWER, ANSWER),
        (Kind.REQUEST, ANSWER, ANSWER),
        (Kind.STATE, ANSWER, ANSWER),
    ],
)
def test_the_next_step_after_each_kind_of_verdict(kind, replayable, not_replayable):
    assert step(kind) is replayable
    assert step(kind, replayable=False) is not_replayable


def test_the_table_above_knows_every_kind():
    (mark,) = test_the_next_step_after_each_kind_of_verdict.pytestmark
    assert {row[0] for row in mark.args[1]} == set(Kind)


@pytest.mark.parametrize("kind", list(Kind))
def test_a_body_we_no_longer_hold_goes_nowhere_else(kind):
    assert step(kind, resendable=False) is ANSWER


@pytest.mark.parametrize(
    ("kind", "most"),
    [(Kind.MONEY, 100), (Kind.DEAD, 100), (Kind.SUSPECT, 24), (Kind.TOO_LARGE, 24), (Kind.MODEL, 8), (Kind.EGRESS, 1)],
)
def test_one_request_sees_only_so_many_keys_refuse_it(kind, most):
    assert step(kind, Tried(refusals={kind: most - 1})) is NEXT
    assert step(kind, Tried(refusals={kind: most})) is ANSWER


def test_a_failing_upstream_is_tried_again_as_often_as_the_configuration_says():
    assert step(Kind.SERVICE, Tried(failures=1)) is AGAIN
    assert step(Kind.SERVICE, Tried(failures=2)) is ANSWER


@pytest.mark.parametrize(
    ("active", "retrying", "allowed"),
    [(0, 2, True), (0, 3, False), (15, 2, True), (15, 3, False), (100, 19, True), (100, 20, False)],
)
def test_retries_are_at_most_a_fifth_of_what_is_under_way_but_three_always_may(active, retrying, allowed):
    slots = RetrySlots(active=active, retrying=retrying)
    assert slots.allows() is allowed
    assert step(Kind.SERVICE, slots=slots) is (AGAIN if allowed else ANSWER)
    # Another account after a refusal is no retry.
    assert step(Kind.DEAD, slots=slots) is NEXT


@pytest.mark.parametrize(
    ("sent", "resendable", "replayable", "failures", "retrying", "may"),
    [
        (False, True, False, 0, 0, True),  # nothing was written: always
        (False, True, True, 0, 0, True),
        (True, True, True, 0, 0, True),
        (True, True, False, 0, 0, False),  # perhaps it ran, and must not run twice
        (False, False, True, 0, 0, False),  # the body is gone
        (False, True, True, 2, 0, False),  # often enough
        (False, True, True, 0, 3, False),  # too many retry already
    ],
)
def test_a_broken_connection_is_tried_again_where_that_is_harmless(
    sent, resendable, replayable, failures, retrying, may
):
    slots, tried = RetrySlots(retrying=retrying), Tried(failures=failures)
    assert (
        may_resend(
            sent=sent, resendable=resendable, replayable=replayable, tried=tried, slots=slots, most=2
        )
        is may
    )  # fmt: skip


@pytest.mark.parametrize(
    ("failures", "retry_after_s", "shortest", "longest"),
    [
        (1, None, 0.125, 0.25),
        (2, None, 0.25, 0.5),
        (3, None, 0.5, 1.0),
        (5, None, 2.0, 4.0),
        (50, None, 2.0, 4.0),
        (1, 3.0, 3.0, 3.75),  # never before what upstream asks for, if that is short
        (1, 0.0, 0.125, 0.25),
        (1, 60.0, 0.125, 0.25),  # nobody holds a client for a minute
    ],
)
def test_pauses_double_are_spread_and_never_end_before_what_upstream_asks_for(
    failures, retry_after_s, shortest, longest
):
    assert pause_s(failures, retry_after_s, 0.0) == pytest.approx(shortest)
    assert pause_s(failures, retry_after_s, 1.0) == pytest.approx(longest)


@given(st.integers(0, 10_000), st.none() | st.floats(0, 1e6), st.floats(0, 1, exclude_max=True))
def test_no_pause_is_longer_than_five_seconds(failures, retry_after_s, jitter):
    assert 0 < pause_s(failures, retry_after_s, jitter) <= 5.0
