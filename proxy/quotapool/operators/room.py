"""What room the pool has, from the buckets of its usable accounts, and what was really used between two readings.

Only accounts count that can be used now, and only model groups for which upstream has answered: callers can invent
names. An account that has not served a model group yet has no budget of it here, so the room of a pool that has just
begun is understated until each account has had a request.

What was used. Requests and images are counted by the buckets themselves, exactly: each request that upstream admitted,
of all replicas. Tokens are charged by an estimate and corrected afterwards, so what was used of them is the refill less
the change of the level, which includes every correction, and what others used of the account as upstream's headers
show it. Where a bucket was full meanwhile, that difference is too large, as refill was lost: then it is what was
charged, as far as the levels allow it. So tokens are as upstream's own limiter counts them, with these errors: requests
under way count by their estimate until they end; while a bucket is full, each request counts by its estimate (a
request may use less); and buckets are read one after another, so some seconds' use may appear one sample later.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import Final

from quotapool.domain.bucket import DIMENSIONS, Bucket
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.observe.samples import Name, Reading, Room
from quotapool.operators.overview import Overview

SHOWN: Final = tuple((i, d) for i, d in enumerate(DIMENSIONS) if d is not Dimension.PROJECT_TPM)
_OF_TOKENS: Final = frozenset(d for _, d in SHOWN if Cost(0, 1).of(d))
_PER_BUCKET: Final = 2 * len(SHOWN)  # level and charge of each
_NONE: Final = float("nan")


class RoomReader:
    """Reads all buckets. It remembers their levels (about 200 bytes each), so one that is asked again knows what was
    used since."""

    def __init__(self, overview: Overview) -> None:
        self._overview = overview
        self._before: dict[tuple[str, str], array[float]] = {}
        self._before_at = 0.0

    async def read(self) -> Reading:
        """All buckets, as they are; the loop gets its turn every few hundred. Raises StoreUnavailable."""
        overview = self._overview
        now = await overview.ledger.registry.time()
        span_s = max(0.0, now - self._before_at) if self._before_at else 0.0
        before = self._before
        after: dict[tuple[str, str], array[float]] = {}
        rooms: dict[Name, Room] = {}
        async for name, bucket in overview.ledger.stored.each():
            if max(bucket.learned) < 0:
                continue
            account = overview.roster.pool.accounts.get(name[0])
            configured = overview.settings.limits_for(*name)
            burst_s = overview.settings.burst_for(name[0])
            bucket.refill(now, configured, burst_s=burst_s)
            after[name] = _numbers(bucket)
            if account is None or not account.usable:
                continue
            known = before.get(name)
            used = None if not span_s else _used(bucket, configured, burst_s, known, span_s)
            self._add(rooms, name[1], bucket, configured, used)
        self._before, self._before_at = after, now
        return Reading(now, span_s, [rooms[name] for name in sorted(rooms)])

    @staticmethod
    def _add(
        rooms: dict[Name, Room], group: str, bucket: Bucket, configured: Limits, used: dict[Dimension, float] | None
    ) -> None:
        cooling = int(bucket.cool_until > bucket.at)
        for i, dimension in SHOWN:
            level = bucket.level(i)
            if level is None:
                continue
            room = rooms.get((group, dimension.value))
            if room is None:
                name = group, dimension.value
                room = rooms[name] = Room(*name, 0.0, 0.0, 0.0, 0, 0, None if used is None else 0.0)
            room.limit += bucket.limit(i, configured)
            room.remaining += max(0.0, level)
            room.refill_per_minute += 60 * bucket.rate(i, configured)
            room.accounts += 1
            room.cooling += cooling
            if used is not None and room.used is not None:
                room.used += used.get(dimension, 0.0)


def _numbers(bucket: Bucket) -> array[float]:
    numbers = array("d")
    for i, _ in SHOWN:
        level = bucket.level(i)
        numbers.extend((_NONE if level is None else level, bucket.charged[i]))
    return numbers


def _used(
    bucket: Bucket, configured: Limits, burst_s: float, before: array[float] | None, span_s: float
) -> dict[Dimension, float]:
    """Since the reading before. A bucket that was not there then is new."""
    used: dict[Dimension, float] = {}
    for n, (i, dimension) in enumerate(SHOWN):
        level = bucket.level(i)
        if level is None:
            continue
        charged = bucket.charged[i]
        if before is None:
            used[dimension] = charged
            continue
        charged -= before[2 * n + 1]
        if charged < -bucket.limit(i, configured):  # the store was emptied: it counts from 0 again
            charged = bucket.charged[i]
        was = before[2 * n]
        if dimension in _OF_TOKENS and was == was:  # noqa: PLR0124 - NaN: it was unbounded
            full, most = bucket.depth(i, configured, burst_s), was + span_s * bucket.rate(i, configured)
            charged = most - level if most <= full else min(max(charged, full - level), most - level)
        used[dimension] = charged
    return used


def account_rows(bucket: Bucket, configured: Limits) -> Iterator[tuple[str, float, float]]:
    """Dimension, what is left and the limit of one bucket that was brought up to date."""
    for i, dimension in SHOWN:
        level = bucket.level(i)
        if level is not None:
            yield dimension.value, max(0.0, level), bucket.limit(i, configured)
