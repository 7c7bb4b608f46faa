"""docs/doctor.md: a row for each check, and the figures of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from quotapool.doctor import certificates, machine, server_facts, store, upstream
from quotapool.doctor.examine import SECONDS
from quotapool.doctor.finding import Check
from quotapool.store.store import CALL_S

PAGE = (Path(__file__).parents[2] / "docs/doctor.md").read_text()
ROWS = re.findall(r"^\| (`[a-z_.]+`(?:, `[a-z_.]+`)*) \|(.*)\|(.*)\|$", PAGE, re.MULTILINE)


def cells(check: str) -> str:
    return next(f"{problem}|{warning}" for names, problem, warning in ROWS if f"`{check}`" in names)


def test_every_check_has_a_row_and_every_row_is_a_check():
    documented = [name for names, _, _ in ROWS for name in re.findall(r"`([a-z_.]+)`", names)]
    assert documented == list(get_args(Check))


def test_its_figures_are_those_of_the_code():
    assert f"have {SECONDS:.0f} s together" in PAGE
    limits = f"the {CALL_S * 1000:.0f} ms that a call has | p99 is {store._SLOW_S * 1000:.0f} ms"
    assert limits in cells("store.delay")
    assert f"{store._SKEW_S:.0f} s" in cells("store.clock")
    assert f"{upstream._SKEW_S:.0f} s" in cells("upstream.clock")
    assert f"the first {upstream._MOST} of them" in PAGE
    assert f"within {certificates._SOON_DAYS} days" in PAGE
    assert f"{server_facts._FULL:.0%}".replace("%", " %") in cells("store.memory")
    assert f"{server_facts._MUCH:.0%}".replace("%", " %") in cells("store.memory")
    for size, cell in ((machine._NONE_LEFT, "state_dir.space"), (machine._COUNTERS, "metrics_dir")):
        assert f"{size >> 20} MiB" in cells(cell)
