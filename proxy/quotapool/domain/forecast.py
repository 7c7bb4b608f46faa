"""When a budget or a credit runs dry if the pace of late stays, and how far that may be off. Pure.

The pace is known from the means of equal blocks of time. Their scatter says two things: how well the mean is known, and
how unevenly the next minutes will be used. With m the mean of n blocks of b minutes, and s the standard deviation of a
block's mean, what is used in the next T minutes is m T on average, with the variance

    s^2 T^2 / n     since m is only estimated, plus
    s^2 b T         since use is uneven, as if blocks were independent

A level L is dry at the earliest and at the latest T at which |L - m T| is Student's t times the square root of that;
with t's quantile for one of ten cases on either side, the range is right in four of five. That is so for independent
blocks (tests/domain/test_forecast.py counts it), less often for bursts that are longer than a block, and of course only
as long as nothing changes: a range says how well the pace is known, not whether it will stay.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

FEWEST: Final = 3  # blocks: two have hardly a scatter
# Student's t: the quantile 0.9, by degrees of freedom from 1 on; beyond, that of the normal distribution.
_T: Final = (
    *(3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372),
    *(1.363, 1.356, 1.350, 1.345, 1.341, 1.337, 1.333, 1.330, 1.328, 1.325),
)
_T_OF_MANY: Final = 1.3


@dataclass(frozen=True, slots=True)
class Pace:
    """What is used in a unit of time (a minute, a day), net of what flows back. `scatter`: the standard deviation of
    the mean of one block; `block`: how many units of time a block has."""

    mean: float
    scatter: float
    blocks: int
    block: float


@dataclass(frozen=True, slots=True)
class Dry:
    """In how much time, in the units of the pace. `latest` None: by the scatter it may as well never be dry."""

    after: float
    earliest: float
    latest: float | None


def pace_of(spans: Iterable[tuple[float, float]], block: float) -> Pace | None:
    """The pace of consecutive (length, net use), the oldest first. Spans are put together to blocks of about `block`;
    what is left over at the old end counts for nothing. None: fewer than three blocks."""
    means: list[float] = []
    lengths: list[float] = []
    length = used = 0.0
    for span, amount in reversed(list(spans)):
        length += span
        used += amount
        if length >= block * 0.999:
            means.append(used / length)
            lengths.append(length)
            length = used = 0.0
    if len(means) < FEWEST:
        return None
    return Pace(statistics.fmean(means), statistics.stdev(means), len(means), statistics.fmean(lengths))


def dry(level: float, pace: Pace | None) -> Dry | None:
    """When `level` is used up; None: not at this pace, or nothing is known about it."""
    if level <= 0:
        return Dry(0.0, 0.0, 0.0)
    if pace is None or pace.mean <= 0:
        return None
    after = level / pace.mean
    if not math.isfinite(after):
        return None
    k2 = (_t(pace.blocks - 1) * pace.scatter) ** 2
    # (level - mean T)^2 = k2 (T^2 / blocks + block T), as a T^2 - b T + level^2 = 0
    a = pace.mean**2 - k2 / pace.blocks
    b = 2 * level * pace.mean + k2 * pace.block
    root = math.sqrt(max(0.0, b * b - 4 * a * level * level))
    return Dry(after, 2 * level * level / (b + root), (b + root) / (2 * a) if a > 0 else None)


def _t(freedom: int) -> float:
    return _T[freedom - 1] if freedom <= len(_T) else _T_OF_MANY


def error_days(remaining: float, daily: Sequence[float]) -> float | None:
    """How many days the end of a credit may be off, in four of five cases. `daily`: what the last whole days cost, the
    oldest first. None: fewer than three days, or they vary so much that there is no latest day."""
    found = dry(remaining, pace_of(((1.0, cost) for cost in daily), 1.0))
    if found is None or found.latest is None:
        return None
    return max(found.after - found.earliest, found.latest - found.after)
