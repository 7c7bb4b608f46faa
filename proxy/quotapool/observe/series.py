"""The part of a series that counts: cells of shared memory, without what the library checks at every call.

The library owns names, labels, exposition and the adding up of workers; only the add itself is ours. Where values are
not in shared memory (the supervisor's, a test's), a series is the library's own object, which counts the same.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Protocol, cast

from prometheus_client import Counter, Gauge, Histogram

from quotapool.observe.shared_values import SlotValue

# ruff: noqa: SLF001 - the library has no public way to a metric's values; a test compares its counts with ours


class Counts(Protocol):
    """One number. Only a gauge's may be added less than 0."""

    def inc(self, amount: float = 1, /) -> None: ...


class Observes(Protocol):
    """One histogram's numbers."""

    def observe(self, amount: float, /) -> None: ...


def counting(series: Counter | Gauge) -> Counts:
    """What adds to `series`."""
    value: Any = series._value
    return value if isinstance(value, SlotValue) else series


def observing(series: Histogram) -> Observes:
    """What adds to `series`."""
    values: list[Any] = [series._sum, *series._buckets]
    if not all(isinstance(value, SlotValue) for value in values):
        return series
    return SlotHistogram(series._upper_bounds, cast("list[SlotValue]", values))


class SlotHistogram:
    """A sum, and a number for each bucket of what is above the bound before it: they are added up when shown."""

    __slots__ = ("_bounds", "_buckets", "_sum")

    def __init__(self, bounds: list[float], values: list[SlotValue]) -> None:
        self._bounds = bounds  # ascending, the last is infinity
        self._sum, *self._buckets = (value.cell for value in values)

    def observe(self, amount: float) -> None:
        cells, at = self._sum
        cells[at] += amount
        cells, at = self._buckets[bisect_left(self._bounds, amount)]
        cells[at] += 1
