"""What the tests of the doctor share: a configuration of one key, and findings by their names."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from quotapool.doctor.finding import Finding, Status
from quotapool.settings import Settings

BUSY = {"store.delay", "state_dir.space", "metrics_dir"}
SECRET = "sk-proj-of-the-doctors-tests-0123456789"
_MODEST = {"max_concurrent": 100, "upstream_connections": 100}  # any machine allows as many files as these take


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    """Settings with a key, a state_dir that is not there yet, and more options."""

    def of(**options: Any) -> Settings:
        given = {"state_dir": tmp_path / "state", "keys": [{"secret": SECRET}], **_MODEST, **options}
        return Settings.model_validate(given)

    return of


async def gathered(check: AsyncIterator[Finding]) -> list[Finding]:
    return [finding async for finding in check]


def named(findings: Iterable[Finding], check: str) -> Finding:
    """The only one of this name."""
    (finding,) = [finding for finding in findings if finding.check == check]
    return finding


def statuses(findings: Iterable[Finding]) -> dict[str, Status]:
    return {finding.check: finding.status for finding in findings}


def lasting(findings: Iterable[Finding]) -> dict[str, Status]:
    """The same without those that are about how busy this machine is, or how full."""
    return {check: status for check, status in statuses(findings).items() if check not in BUSY}
