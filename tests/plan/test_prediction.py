"""What `plan` predicts is what then happens: the real engine in virtual time, its record, a pool changed for real.

Whole days, strictly within a tenth: tests/soak/test_plan.py. Here an hour and a half, of which some hundred requests
are refused, and some twenty wait longer than the p99: how many, and how long, varies from one run of the engine to the
next, so refusals have three standard deviations, and waits a quarter.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from quotapool.plan.charging import charged_as_recorded

from tests.plan.days import Upstreams
from tests.plan.prediction import CASES, LIMITS, compare


@pytest.mark.parametrize("corrects", [False, True], ids=["keeps the estimate", "corrects"])
async def test_waits_refusals_and_dollars_are_predicted(open_pool, corrects):
    upstreams = Upstreams.of(3, corrects=corrects, **(LIMITS | {"tpm": 5_000 if corrects else 9_000}))
    found = await compare(open_pool, upstreams, (CASES[0], CASES[2]), hours=1.5, days=(1, 1), workers=2)
    for compared in found:
        assert compared.measured.refused.total() > 50
        assert compared.measured.waits.p99_s > 10
        assert compared.is_within(0.1, chance=3, of_waits=0.25), str(compared)
    # And had no answer shown how upstream charges, the record would.
    lived = found[0].measured
    unknown = replace(lived.scenario, accounts=tuple(replace(one, corrects={}) for one in lived.scenario.accounts))
    scenario, (why,) = charged_as_recorded(lived.record, unknown)
    assert all(account.corrects == {"gpt-4o": corrects, "gpt-4o-mini": corrects} for account in scenario.accounts), why
