"""Upstream in a replay: its own limiter, and the rate headers that the real buckets learn from.

The limiter is the simulated OpenAI's. Without it the two predictions of a bucket would drift apart, while in earnest
each answer brings them together (`domain/bucket.py`, "Evidence").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from quotapool.domain.bucket import Evidence, Moment
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.simulator.buckets import Budget
from quotapool.simulator.config import Limits as LimiterLimits

# By the words of the headers. They tell of a day's requests instead of a minute's where there is such a limit.
_SHOWN: Final = {"requests": Dimension.RPM, "tokens": Dimension.TPM}
_SHOWN_BY_DAY: Final = {**_SHOWN, "requests": Dimension.RPD}


@dataclass(frozen=True, slots=True)
class Told:
    """What upstream said of one request. `refused_for_s`: seconds until it would admit it; None: it did."""

    evidence: list[Evidence]
    refused_for_s: float | None


class LimitedAccount:
    """One account and model group upstream. `corrects`: it charges what was used in the end, not the estimate."""

    __slots__ = ("_budget", "_corrects", "_shown")

    def __init__(self, limits: Limits, now: float, *, corrects: bool) -> None:
        rpm, tpm, rpd, tpd = (
            int(limit) if limit else None for limit in (limits.rpm, limits.tpm, limits.rpd, limits.tpd)
        )
        self._budget = Budget(LimiterLimits(rpm=rpm, tpm=tpm, rpd=rpd, tpd=tpd), now)
        self._corrects = corrects
        self._shown = _SHOWN if limits.rpd is None else _SHOWN_BY_DAY

    def ask(self, cost: Cost, now: float, moments: Mapping[Dimension, Moment | None]) -> Told:
        """A request arrives, reserved when the bucket was as in `moments`."""
        refusal = self._budget.admit(cost.tokens, now) if cost.requests else None
        not_admitted = Cost(0) if refusal is None else cost
        found = []
        for gauge in self._budget.gauges(now):
            dimension = self._shown[gauge.kind]
            remaining = gauge.remaining - not_admitted.of(dimension)
            found.append(Evidence(dimension, gauge.limit, remaining, moments.get(dimension)))
        return Told(found, None if refusal is None else refusal.wait_s or 1.0)

    def answered(self, estimate: int, used: int, now: float) -> None:
        if self._corrects:
            self._budget.correct(estimate, used, now)
