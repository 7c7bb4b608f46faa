"""What one answer shows: upstream lacks more than our books explain, less, or the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.outside_tally import Counts, Tally


def requests(lacks: float, ours: float, limit: float = 60.0) -> tuple[int, int]:
    counts = Counts()
    counts.note_requests(1.0, limit, 60.0, lacks, ours, 0.0)
    assert counts.answers == 1
    return counts.more, counts.less


def tokens(lacks: float, ours: float, cost: float = 1_000.0, limit: float = 60_000.0) -> tuple[int, int]:
    counts = Counts()
    counts.note_tokens(1.0, limit, cost, lacks, ours, 0.0)
    return counts.more, counts.less


SAME, MORE, LESS = (0, 0), (1, 0), (0, 1)


@pytest.mark.parametrize(
    ("lacks", "ours", "shown"),
    [
        (1, 1.0, SAME),  # the bucket was full before this request, and both say so
        (1, 1.0000001, SAME),  # what floating point adds is no request
        (2, 1.0, MORE),  # somebody's request came within the last second, of which a part has refilled
        (2, 1.4, SAME),  # ours did; upstream rounds what is left down
        (1, 1.4, LESS),  # it has not arrived yet
        (3, 1.4, MORE),
        # Used without a pause: 1.5 s of refill (here 1.5 requests) may be what the network delayed at the beginning.
        (11, 10.0, SAME),
        (12, 10.0, SAME),
        (13, 10.0, MORE),
        (9, 10.0, SAME),
        (8, 10.0, LESS),
    ],
)
def test_requests_are_counted_by_both_sides_in_the_same_way(lacks, ours, shown):
    assert requests(lacks, ours) == shown


@pytest.mark.parametrize(
    ("lacks", "ours", "shown"),
    [
        (1_000, 1_000.0, SAME),
        (1_300, 1_000.0, SAME),  # upstream may estimate 30 % more
        (1_302, 1_000.0, MORE),
        (770, 1_000.0, SAME),
        (768, 1_000.0, LESS),
        # Used without a pause, for 20 s: 1.5 s of refill, 1,500 tokens, besides
        (27_501, 20_000.0, SAME),
        (27_502, 20_000.0, MORE),
    ],
)
def test_tokens_have_slack_since_both_sides_estimate_them(lacks, ours, shown):
    assert tokens(lacks, ours) == shown


def test_of_two_requests_that_overtake_each_other_one_shows_more_and_one_less():
    # Given two reservations at the same moment, the second of which arrives first
    first, second = requests(lacks=2, ours=1.0), requests(lacks=1, ours=2.0)
    assert (first, second) == (MORE, LESS)
    assert tokens(1_800, 1_000.0) == MORE
    assert tokens(800, 1_800.0, cost=800.0) == LESS


@given(st.floats(1, 1e6), st.floats(1, 1e6), st.floats(1, 1e4))
def test_what_is_more_for_one_side_is_less_for_the_other(one, other, cost):
    shown, reverse = tokens(one, other, cost), tokens(other, one, cost)
    assert shown == reverse[::-1]


@given(st.integers(1, 60), st.floats(1, 60))
def test_more_missing_is_never_less_evidence(lacks, ours):
    more, less = requests(lacks, ours)
    more_by_one, less_by_one = requests(lacks + 1, ours)
    assert more_by_one >= more
    assert less_by_one <= less


def test_who_found_the_bucket_full_is_counted_and_the_newest_answer_has_the_last_word():
    counts = Counts()
    counts.note_requests(5.0, 60.0, 60.0, 1, 1.0, -3.0)
    counts.note_requests(9.0, 120.0, 60.0, 2, 1.7, -4.0)
    counts.note_requests(7.0, 60.0, 60.0, 2, 1.0, -3.5)  # older, with an answer that took longer
    assert counts.numbers() == [3, 1, 0, 2, 1, 0, 120.0, 9.0, -4.0]


@pytest.mark.parametrize(
    ("lacks", "ours", "exact"),
    [(1_000, 1_000.0, 1), (1_022, 1_000.0, 1), (1_023, 1_000.0, 0), (977, 1_000.0, 0), (5_000, 5_000.0, 0)],
)
def test_whether_upstream_counts_as_we_do_shows_in_requests_that_found_the_bucket_full(lacks, ours, exact):
    counts = Counts()
    counts.note_tokens(1.0, 60_000.0, 1_000.0, lacks, ours, 0.0)
    assert counts.exact == exact


def test_a_tally_names_only_the_limits_that_upstream_named():
    tally = Tally()
    tally.requests.note_requests(5.0, 60.0, 60.0, 1, 1.0, 0.0)
    tally.overruns += 1
    assert tally.numbers() == [[1, 0, 0, 0, 0, 0, 60.0, 5.0, 0.0], None, None, None, 1]
