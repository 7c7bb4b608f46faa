"""A refusal says what is so: keys that rest are not said to be dead."""

from __future__ import annotations

from quotapool.pool.want import Never
from quotapool.request.refusals import refusal_of


def test_keys_that_come_back_by_themselves_are_not_called_invalid():
    resting, dead = refusal_of(Never("suspect")), refusal_of(Never("dead"))
    assert (resting.status, dead.status) == (503, 503)
    assert b"tried again by themselves" in resting.body()
    assert b"invalid" not in resting.body()
    assert b"all are invalid, removed, disabled or locked" in dead.body()
