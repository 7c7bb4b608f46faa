"""`plan` on whole days: recorded on one, with the pool as it was; compared with what the real engine does after the
pool was changed for real, that day and on another one. Half an hour: `pytest tests/soak/test_plan.py -s`.
"""

from __future__ import annotations

import pytest

from tests.fakes.path_fixtures import open_pool, time_is_virtual
from tests.plan.days import Upstreams
from tests.plan.prediction import CASES, LIMITS, compare

__all__ = ["open_pool", "time_is_virtual"]


@pytest.mark.parametrize("days", [(1, 1), (1, 2)], ids=["the same day", "another day"])
@pytest.mark.parametrize("corrects", [False, True], ids=["keeps the estimate", "corrects"])
async def test_waits_refusals_and_dollars_of_a_day_are_within_a_tenth(open_pool, days, corrects):
    upstreams = Upstreams.of(3, corrects=corrects, **(LIMITS | {"tpm": 5_500 if corrects else 9_000}))
    for compared in await compare(open_pool, upstreams, CASES, hours=24, days=days, workers=2):
        assert compared.is_within(0.1, chance=2), str(compared)
