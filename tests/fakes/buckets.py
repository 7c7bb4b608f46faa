"""Buckets of the domain, as the tests of their arithmetic make them: dimensions by number, times as they are told."""

from __future__ import annotations

from typing import Any

import pytest
from quotapool.domain.bucket import Bucket, Evidence, Moment
from quotapool.domain.quantities import Dimension, Limits

RPM, TPM, RPD, TPD, IPM, PROJECT_TPM = range(6)
WRITTEN = Limits(rpm=60, tpm=60_000)
NOTHING_WRITTEN = Limits()


def bucket(at: float = 0.0, written: Limits = WRITTEN, **fields: Any) -> Bucket:
    fresh = Bucket(at, **fields)
    fresh.refill(at, written)
    return fresh


def close(value: float | None) -> float:
    assert value is not None
    return pytest.approx(value, abs=1e-6)


def told(made: Bucket, index: int, limit: float, remaining: float, then: Moment | None = None) -> Evidence:
    return Evidence(tuple(Dimension)[index], limit, remaining, then or made.moment(index))
