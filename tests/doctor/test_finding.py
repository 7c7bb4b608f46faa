"""What findings add up to, for a pipeline."""

from __future__ import annotations

import pytest
from quotapool.doctor.finding import Finding, Status, exit_code, worst

OK, SKIPPED, WARNING, PROBLEM = Status.OK, Status.SKIPPED, Status.WARNING, Status.PROBLEM


@pytest.mark.parametrize(
    ("statuses", "status", "code", "strict"),
    [
        ([], OK, 0, 0),
        ([OK, OK], OK, 0, 0),
        ([OK, SKIPPED], SKIPPED, 0, 0),
        ([WARNING, OK, SKIPPED], WARNING, 0, 1),
        ([OK, PROBLEM, WARNING], PROBLEM, 1, 1),
    ],
)
def test_the_worst_decides(statuses, status, code, strict):
    findings = [Finding("store", each, "text") for each in statuses]
    assert worst(findings) is status
    assert exit_code(findings) == code
    assert exit_code(findings, strict=True) == strict
