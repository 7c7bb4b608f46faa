"""How long an account cools down after a rate limit, for one model group."""

from __future__ import annotations

from typing import Final

from quotapool.domain.verdict import Kind, Verdict

WITHOUT_A_TIME_S: Final = 5.0  # a rate limit that names no time
LONGEST_S: Final = 86_400.0
COOLING: Final = frozenset({Kind.WAIT, Kind.SLOW_DOWN})


def cool_down_s(verdict: Verdict) -> float:
    """Seconds from the answer; 0: the verdict asks for none."""
    if verdict.kind not in COOLING:
        return 0.0
    return min(WITHOUT_A_TIME_S if verdict.retry_after_s is None else verdict.retry_after_s, LONGEST_S)
