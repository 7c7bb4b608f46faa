"""Requests that come many at a time."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.advice.bursts import LEAST, SPAN_S, Bursts

NAME = ("app", "embedder")


def counted(*moments: float) -> tuple[int, int]:
    """Requests in bursts, and bursts."""
    bursts = Bursts()
    added = [bursts.add(NAME, moment) for moment in moments]
    return sum(requests for requests, _ in added), sum(number for _, number in added)


@pytest.mark.parametrize(
    ("moments", "requests", "bursts"),
    [
        ([0.04 * n for n in range(19)], 0, 0),  # one too few
        ([0.04 * n for n in range(20)], 20, 1),
        ([0.01 * n for n in range(100)], 100, 1),
        ([0.1 * n for n in range(1000)], 0, 0),  # ten a second are no burst
        ([*(0.01 * n for n in range(30)), *(60 + 0.01 * n for n in range(25))], 55, 2),
        ([0.01 * n for n in range(150)], 150, 2),  # a second and a half
    ],
)
def test_at_least_twenty_within_a_second_are_a_burst(moments, requests, bursts):
    assert counted(*moments) == (requests, bursts)


@given(st.lists(st.floats(0, 30), max_size=200).map(sorted))
def test_a_burst_has_at_least_twenty_and_bursts_are_a_second_apart(moments: list[float]):
    requests, number = counted(*moments)
    assert LEAST * number <= requests <= len(moments)
    begins = [later for earlier, later in pairwise([-2.0, *moments]) if later - earlier >= SPAN_S]
    if number:
        assert begins or moments


def test_names_are_told_apart_and_bounded():
    bursts = Bursts()
    for n in range(5000):
        bursts.add(("app", f"model-{n}"), 0.0)
    assert len(bursts._spans) <= 1000
    for _ in range(19):
        assert bursts.add(("a", "m"), 1.0) == (0, 0)
        assert bursts.add(("b", "m"), 1.0) == (0, 0)
