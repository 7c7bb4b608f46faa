"""What `plan` predicts is what then happens: the real engine in virtual time, its record, a pool changed for real.

Whole days, strictly within a tenth: tests/soak/test_plan.py. Here an hour and a half, of which some hundred requests
are refused, and some twenty wait longer than the p99: how many, and how long, varies from one run of the engine to the
next, so refusals have three standard deviations, and waits a quarter.
"""

from __future__ import annotations

import pytest

from tests.plan.days import Upstreams
from tests.plan.prediction import CASES, LIMITS, compare


@pytest.mark.parametrize("corrects", [False, True], ids=["keeps the estimate", "corrects"])
async def test_waits_refusals_and_dollars_are_predicted(open_pool, corrects):
    upstreams = Upstreams.of(3, corrects=corrects, **(LIMITS | {"tpm": 5_000 if corrects else 9_000}))
    for compared in await compare(open_pool, upstreams, (CASES[0], CASES[2]), hours=1.5, days=(1, 1), workers=2):
        assert compared.measured.refused.total() > 50
        assert compared.measured.waits.p99_s > 10
        assert compared.is_within(0.1, chance=3, of_waits=0.25), str(compared)
