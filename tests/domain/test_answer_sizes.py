"""How large prompts and answers are taken for, from those that were seen."""

from __future__ import annotations

import pytest
from quotapool.domain.answer_sizes import FRAMING, UNKNOWN_OUTPUT, AnswerSizes


def test_until_some_answers_were_seen_a_guess_stands():
    sizes = AnswerSizes()
    for _ in range(15):
        sizes.learn(100, 100, 20)
    assert sizes.output == UNKNOWN_OUTPUT == 4096
    sizes.learn(100, 100, 20)
    assert sizes.output == 20


def test_a_larger_answer_counts_at_once():
    sizes = AnswerSizes()
    sizes.learn(100, 100, 9_000)
    assert sizes.output == 9_000


def test_one_in_a_hundred_may_be_larger_and_what_is_long_ago_is_forgotten():
    sizes = AnswerSizes()
    for n in range(1, 257):
        sizes.learn(100, 100, n)
    assert sizes.output == 254  # two of 256 are larger
    for _ in range(256):
        sizes.learn(100, 100, 7)
    assert sizes.output == 7


def test_answers_with_a_maximum_teach_nothing_of_those_without():
    sizes = AnswerSizes()
    for _ in range(100):
        sizes.learn(100, 100, None)
    assert sizes.output == UNKNOWN_OUTPUT


def test_a_count_that_no_model_has_is_bounded():
    sizes = AnswerSizes()
    sizes.learn(1, 10**9, 2**60)
    assert sizes.output == 2**32 - 1
    assert sizes.times == 8.0


def test_prompts_are_taken_for_the_largest_times_lately():
    sizes = AnswerSizes()
    assert sizes.prompt(92) == 92 + FRAMING == 100
    sizes.learn(92, 300, None)
    assert sizes.prompt(92) == 300
    sizes.learn(92, 100, None)  # a fiftieth of what it was beyond the estimate is forgotten: 3 - 0.04
    assert sizes.times == pytest.approx(2.96)
    for _ in range(1_000):
        sizes.learn(92, 50, None)
    assert sizes.prompt(92) in {100, 101}
