"""The simulated OpenAI's own rate limiter: one set of token buckets for each (account, model).

A bucket is as deep as its limit and refills continuously, which matches OpenAI's measured `x-ratelimit-reset` values:
they are the time until the bucket is full. Admission checks the dimensions in order and names the first one that is
hit; a refused request takes nothing. Time is an argument, in seconds of any monotonic clock.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from quotapool.simulator.config import Limits

MINUTE_S: Final = 60.0
DAY_S: Final = 86_400.0
ROUNDING: Final = 1e-6  # what floating point may lose; far below one request or token


@dataclass(frozen=True, slots=True)
class Dimension:
    """One thing that is limited: `kind` is the word of headers and of an error's type."""

    name: str
    kind: str
    phrase: str
    period_s: float


RPM: Final = Dimension("rpm", "requests", "requests per min (RPM)", MINUTE_S)
RPD: Final = Dimension("rpd", "requests", "requests per day (RPD)", DAY_S)
TPM: Final = Dimension("tpm", "tokens", "tokens per min (TPM)", MINUTE_S)
TPD: Final = Dimension("tpd", "tokens", "tokens per day (TPD)", DAY_S)
ORDER: Final = (RPM, RPD, TPM, TPD)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Not admitted. `wait_s` is the wait after which it fits, None if it can never fit."""

    dimension: Dimension
    limit: int
    used: int
    requested: int
    wait_s: float | None


@dataclass(frozen=True, slots=True)
class Gauge:
    """What three `x-ratelimit-*` headers show; `reset_s` is the time until the bucket is full."""

    kind: str
    limit: int
    remaining: int
    reset_s: float


@dataclass(slots=True)
class Bucket:
    """`level` is what was left at the time `at`; a correction may push it below zero."""

    dimension: Dimension
    limit: int
    level: float
    at: float

    def refill(self, now: float) -> None:
        if now > self.at:
            gained = (now - self.at) * self.limit / self.dimension.period_s
            self.level = min(float(self.limit), self.level + gained)
            self.at = now

    def refusal_of(self, requested: int) -> Refusal | None:
        if self.level + ROUNDING >= requested:
            return None
        used = math.ceil(self.limit - self.level - ROUNDING)
        missing = used + requested - self.limit
        wait_s = None if requested > self.limit else missing * self.dimension.period_s / self.limit
        return Refusal(self.dimension, self.limit, used, requested, wait_s)

    def gauge(self) -> Gauge:
        reset_s = (self.limit - self.level) * self.dimension.period_s / self.limit
        return Gauge(self.dimension.kind, self.limit, max(0, math.floor(self.level + ROUNDING)), max(0.0, reset_s))


class Budget:
    """The buckets of one (account, model). They start full."""

    def __init__(self, limits: Limits, now: float) -> None:
        named = ((dimension, getattr(limits, dimension.name)) for dimension in ORDER)
        self.buckets = tuple(Bucket(dimension, limit, float(limit), now) for dimension, limit in named if limit)

    def admit(self, tokens: int, now: float) -> Refusal | None:
        """Take one request and `tokens` from every bucket, or nothing."""
        for bucket in self.buckets:
            bucket.refill(now)
        for bucket in self.buckets:
            refusal = bucket.refusal_of(tokens if bucket.dimension.kind == "tokens" else 1)
            if refusal is not None:
                return refusal
        for bucket in self.buckets:
            bucket.level -= tokens if bucket.dimension.kind == "tokens" else 1
        return None

    def correct(self, estimate: int, used: int, now: float) -> None:
        """Replace a charged estimate with the real usage, in tokens."""
        for bucket in self.buckets:
            if bucket.dimension.kind == "tokens":
                bucket.refill(now)
                bucket.level = min(float(bucket.limit), bucket.level + estimate - used)

    def gauges(self, now: float) -> list[Gauge]:
        """What the headers show: at most three for requests and three for tokens.

        If there is a daily request limit, the headers for requests show that one: OpenAI's captured headers with limit
        200 and reset 11m32s can only be of a day's bucket.
        """
        for bucket in self.buckets:
            bucket.refill(now)
        present = {bucket.dimension: bucket for bucket in self.buckets}
        shown = (present.get(RPD) or present.get(RPM), present.get(TPM) or present.get(TPD))
        return [bucket.gauge() for bucket in shown if bucket is not None]
