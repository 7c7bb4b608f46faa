"""A refusal says what is so: keys that rest are not said to be dead."""

from __future__ import annotations

from quotapool.pool.admission import NobodyLeft
from quotapool.request.refusals import nobody_left


def test_keys_that_come_back_by_themselves_are_not_called_invalid():
    resting, dead = nobody_left(NobodyLeft("suspect")), nobody_left(NobodyLeft("dead"))
    assert (resting.status, dead.status) == (503, 503)
    assert b"tried again by themselves" in resting.body()
    assert b"invalid" not in resting.body()
    assert b"all are invalid, removed or disabled" in dead.body()
