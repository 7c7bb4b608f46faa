"""The part of a series that counts: cells of shared memory, without the checks that the library makes at every call.

The library is responsible for names, labels, exposition and adding up the workers; only the addition itself is ours. If
values are not in shared memory (the supervisor's, a test's), a series is the library's own object, which counts alike.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Protocol, cast

from prometheus_client import Counter, Gauge, Histogram

from quotapool.observe.shared_values import SlotValue

# ruff: noqa: SLF001 - the library has no public way to a metric's values; a test compares its counts with ours


class Counts(Protocol):
    """One number. Only to a gauge's may less than 0 be added."""

    def inc(self, amount: float = 1, /) -> None: ...


class Observes(Protocol):
    """One histogram's numbers."""

    def observe(self, amount: float, /) -> None: ...


def counting(series: Counter | Gauge) -> Counts:
    """The object that adds to `series`."""
    value: Any = series._value
    return SlotCounter(value) if isinstance(value, SlotValue) else series


def observing(series: Histogram) -> Observes:
    """The object that adds to `series`."""
    values: list[Any] = [series._sum, *series._buckets]
    if not all(isinstance(value, SlotValue) for value in values):
        return series
    return SlotHistogram(series._upper_bounds, cast("list[SlotValue]", values))


class SlotCounter:
    """One number."""

    __slots__ = ("_at", "_cells")

    def __init__(self, value: SlotValue) -> None:
        self._cells, self._at = value.cell

    def inc(self, amount: float = 1) -> None:
        self._cells[self._at] += amount


class SlotHistogram:
    """A sum, and for each bucket the number of values above the previous bound; they are added up at exposition."""

    __slots__ = ("_bounds", "_buckets", "_sum")

    def __init__(self, bounds: list[float], values: list[SlotValue]) -> None:
        self._bounds = bounds  # ascending, the last is infinity
        self._sum, *self._buckets = (value.cell for value in values)

    def observe(self, amount: float) -> None:
        cells, at = self._sum
        cells[at] += amount
        cells, at = self._buckets[bisect_left(self._bounds, amount)]
        cells[at] += 1
