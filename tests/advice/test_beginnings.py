"""How long a prompt begins like another one."""

from __future__ import annotations

import os

from hypothesis import given
from hypothesis import strategies as st
from quotapool.advice.beginnings import BLOCK, FIRST, KEPT_S, LONGEST, Beginnings

TEXT = os.urandom(LONGEST + 10_000)


def varied(common: int, n: int) -> bytes:
    """A prompt that begins like TEXT, and then with words of its own."""
    return TEXT[:common] + bytes([n]) * 3000


def test_the_first_of_its_kind_has_nothing_in_common():
    assert Beginnings().common("app", varied(8192, 1), 0.0) == 0


@given(st.integers(FIRST, 40_000))
def test_the_second_has_in_common_what_both_begin_with_to_the_block_and_never_more(common: int):
    beginnings = Beginnings()
    beginnings.common("app", varied(common, 1), 0.0)
    found = beginnings.common("app", varied(common, 2), 1.0)
    assert common - BLOCK < found <= common


@given(st.lists(st.integers(FIRST, 20_000), min_size=1, max_size=5))
def test_and_every_further_one_no_more_than_with_any_before(lengths: list[int]):
    beginnings = Beginnings()
    beginnings.common("app", varied(30_000, 255), 0.0)
    least = 30_000
    for n, common in enumerate(lengths):
        found = beginnings.common("app", varied(common, n), float(n))
        least = min(least, common)
        assert least - BLOCK < found <= least


def test_equal_prompts_have_all_in_common_up_to_what_is_looked_at():
    beginnings = Beginnings()
    beginnings.common("app", TEXT, 0.0)
    assert beginnings.common("app", TEXT, 1.0) == LONGEST


def test_another_client_or_another_beginning_is_another_one():
    beginnings = Beginnings()
    beginnings.common("app", varied(8192, 1), 0.0)
    assert beginnings.common("other", varied(8192, 1), 0.0) == 0
    assert beginnings.common("app", b"x" + varied(8192, 1), 0.0) == 0


def test_after_minutes_of_silence_it_is_forgotten_as_upstream_forgets_it():
    beginnings = Beginnings()
    beginnings.common("app", varied(8192, 1), 0.0)
    assert beginnings.common("app", varied(8192, 2), KEPT_S) == 8192
    assert beginnings.common("app", varied(8192, 3), 2 * KEPT_S) == 8192  # each use makes it last longer
    assert beginnings.common("app", varied(8192, 4), 3 * KEPT_S + 1) == 0


def test_many_beginnings_take_bounded_memory():
    beginnings = Beginnings()
    for n in range(3000):
        beginnings.common(f"app-{n}", varied(FIRST, 1), 0.0)
    assert len(beginnings._known) == 1000
    assert beginnings.common("app-2999", varied(FIRST, 1), 1.0) > 0
    assert beginnings.common("app-0", varied(FIRST, 1), 1.0) == 0
