"""Requests that are refused together are sent back at different times, one by one."""

from __future__ import annotations

from collections import Counter

from quotapool.domain.return_times import ReturnTimes


def test_slots_that_nobody_used_are_forgotten_with_the_time():
    times = ReturnTimes()
    assert [times.slot(1.0, 1.0, now=100.0) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert times.slot(1.0, 1.0, now=103.0) == 3  # the sixth slot, at 106
    assert times.slot(1.0, 1.0, now=120.0) == 1


def test_a_longer_true_wait_is_never_shortened():
    times = ReturnTimes()
    assert times.slot(5.0, 1.0, now=0.0) == 5
    assert times.slot(20.0, 1.0, now=0.0) == 20
    assert times.slot(86_400.0, 1.0, now=0.0) == 86_400


def test_nobody_is_sent_away_for_more_than_a_minute_and_the_surplus_is_spread():
    """Given room each second and 200 refused at once, I expect no moment to be given to many, and none after 60 s."""
    times = ReturnTimes()
    slots = [times.slot(1.0, 1.0, now=0.0) for _ in range(200)]
    assert slots[:60] == list(range(1, 61))
    assert all(30 < t <= 60 for t in slots[60:])
    assert max(Counter(slots).values()) <= 6
