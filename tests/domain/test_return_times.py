"""Those who are refused together are told to come back one by one."""

from __future__ import annotations

from collections import Counter

from quotapool.domain.return_times import ReturnTimes


def test_slots_that_nobody_used_are_forgotten_with_the_time():
    promises = ReturnTimes()
    assert [promises.slot(1.0, 1.0, now=100.0) for _ in range(5)] == [1, 2, 3, 4, 5]
    assert promises.slot(1.0, 1.0, now=103.0) == 3  # the sixth slot, at 106
    assert promises.slot(1.0, 1.0, now=120.0) == 1


def test_a_longer_true_wait_is_never_shortened():
    promises = ReturnTimes()
    assert promises.slot(5.0, 1.0, now=0.0) == 5
    assert promises.slot(20.0, 1.0, now=0.0) == 20
    assert promises.slot(86_400.0, 1.0, now=0.0) == 86_400


def test_nobody_is_told_more_than_a_minute_and_the_surplus_is_spread():
    """Given room each second and 200 refused at once, I expect no moment that many are told, and none after 60 s."""
    promises = ReturnTimes()
    told = [promises.slot(1.0, 1.0, now=0.0) for _ in range(200)]
    assert told[:60] == list(range(1, 61))
    assert all(30 < t <= 60 for t in told[60:])
    assert max(Counter(told).values()) <= 6
