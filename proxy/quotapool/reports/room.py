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
from quotapool.observe.samples import Reading, Room
from quotapool.operators.overview import Overview

SHOWN: Final = tuple((i, d.value) for i, d in enumerate(DIMENSIONS) if d is not Dimension.PROJECT_TPM)
_OF_TOKENS: Final = frozenset(i for i, _ in SHOWN if Cost(0, 1).of(DIMENSIONS[i]))
_UNBOUNDED: Final = float("nan")


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
        rooms: dict[str, dict[int, Room]] = {}
        async for name, bucket in overview.ledger.stored.each():
            if max(bucket.learned) < 0:
                continue
            account, group = name
            settings = overview.settings
            configured, burst_s = settings.limits_for(account, group), settings.burst_for(account)
            bucket.refill(now, configured, burst_s=burst_s)
            levels = [bucket.level(i) for i, _ in SHOWN]
            numbers = after[name] = array("d")
            for (i, _), level in zip(SHOWN, levels, strict=True):
                numbers.append(_UNBOUNDED if level is None else level)
                numbers.append(bucket.charged[i])
            holder = overview.roster.pool.accounts.get(account)
            if holder is None or not holder.usable:
                continue
            known, of_group = before.get(name), rooms.setdefault(group, {})
            cooling = int(bucket.cool_until > bucket.at)
            for (i, dimension), level in zip(SHOWN, levels, strict=True):
                if level is None:
                    continue
                room = of_group.get(i)
                if room is None:
                    room = of_group[i] = Room(group, dimension, 0.0, 0.0, 0.0, 0, 0, 0.0 if span_s else None)
                rate = bucket.rate(i, configured)
                room.limit += bucket.limit(i, configured)
                room.remaining += max(0.0, level)
                room.refill_per_minute += 60 * rate
                room.accounts += 1
                room.cooling += cooling
                if room.used is not None:
                    full = bucket.depth(i, configured, burst_s)
                    room.used += _used(bucket, i, level, known, span_s * rate, full)
        self._before, self._before_at = after, now
        return Reading(now, span_s, [of_group[i] for _, of_group in sorted(rooms.items()) for i in sorted(of_group)])


def _used(bucket: Bucket, i: int, level: float, before: array[float] | None, refill: float, full: float) -> float:
    """Since the reading before; a bucket that was not there then is new. `refill`: what came back since, if there was
    place for it; `full`: what a full bucket holds."""
    charged = bucket.charged[i]
    if before is None:
        return charged
    was = before[2 * i]
    if charged - before[2 * i + 1] >= -full:  # else the store was emptied, and it counts from 0 again
        charged -= before[2 * i + 1]
    if i in _OF_TOKENS and was == was:  # noqa: PLR0124 - NaN: it was unbounded
        most = was + refill
        return most - level if most <= full else min(max(charged, full - level), most - level)
    return charged


def account_rows(bucket: Bucket, configured: Limits) -> Iterator[tuple[str, float, float]]:
    """Dimension, what is left and the limit of one bucket that was brought up to date."""
    for i, dimension in SHOWN:
        level = bucket.level(i)
        if level is not None:
            yield dimension, max(0.0, level), bucket.limit(i, configured)
