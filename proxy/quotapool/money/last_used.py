"""When each key last had a request that upstream charged: it is in the spend. Days that are over are read once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime, timedelta
from typing import Final

from quotapool.money.rollups import HOUR
from quotapool.money.spend_store import SpendStore
from quotapool.store.store import Store

DAYS_LOOKED_AT: Final = 90
_AT_ONCE: Final = 500  # keys in one question to the store


class LastUsed:
    """One process's memory of it, of one pool. Every call raises StoreLost."""

    def __init__(self, store: Store, pool: str) -> None:
        self._store = store
        self._spend = SpendStore(store, pool)
        self._days: dict[str, date | None] = {}  # the last day of use among those before `_before`; None: on none
        self._before: date | None = None

    async def of(self, names: Sequence[str], now: datetime) -> dict[str, str]:
        """ISO 8601 (UTC) by key: the hour, if it was today and is known; else the day. Those that were not used in 90
        days are left out. `now` in UTC.

        An hour has a few hundred rows of its own (`rollups.py`), a day has all keys."""
        today = now.date()
        await self._read_days(names, today)
        hours = await self._hours(now)
        in_hours = {name for name in names if name in hours}
        used_today = await self._used_on(today, [name for name in names if name not in in_hours])
        found: dict[str, str] = {}
        for name in names:
            if name in in_hours:
                found[name] = f"{hours[name]:%Y-%m-%dT%H:%MZ}"
            elif name in used_today:
                found[name] = today.isoformat()
            elif (day := self._days.get(name)) is not None and today - day < timedelta(DAYS_LOOKED_AT):
                found[name] = day.isoformat()
        return found

    async def _hours(self, now: datetime) -> dict[str, datetime]:
        """Today's last hour of use by key, of those that have rows."""
        first = now.replace(hour=0, minute=0, second=0, microsecond=0)
        slots = [(HOUR, first + hour * HOUR.size) for hour in range(now.hour + 1)]
        found: dict[str, datetime] = {}
        async for (_, start), rows in self._spend.used("key", slots):
            for _, key, _ in rows:
                found[key] = max(start, found.get(key, start))
        return found

    async def _read_days(self, names: Sequence[str], today: date) -> None:
        """Look at the days before today: for known names at those that have ended since, for others at all."""
        known = self._days
        self._days = {name: known[name] for name in names if name in known}
        if self._before is not None and self._before < today:
            ended = _days_before(today, min(DAYS_LOOKED_AT, (today - self._before).days))
            await self._search(list(self._days), ended)
        self._before = today
        new = [name for name in names if name not in self._days]
        if new:
            self._days |= dict.fromkeys(new)
            await self._search(new, _days_before(today, DAYS_LOOKED_AT))

    async def _search(self, names: Sequence[str], days: Iterable[date]) -> None:
        """Note for each the first of `days` on which it was used."""
        left = list(names)
        days = list(days)
        for day in await self._with_spend(days):
            if not left:
                return
            used = await self._used_on(day, left)
            self._days |= dict.fromkeys(used, day)
            left = [name for name in left if name not in used]

    async def _with_spend(self, days: Sequence[date]) -> list[date]:
        pipeline = self._store.client.pipeline(transaction=False)
        for day in days:
            pipeline.exists(self._key_of(day))
        there = await self._store.guard(pipeline.execute()) if days else []
        return [day for day, exists in zip(days, there, strict=True) if exists]

    async def _used_on(self, day: date, names: Sequence[str]) -> set[str]:
        used: set[str] = set()
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            counts = await self._store.guard(self._store.client.hmget(self._key_of(day), [f"r:{n}" for n in some]))
            used |= {name for name, count in zip(some, counts, strict=True) if count}
        return used

    def _key_of(self, day: date) -> str:
        return f"{self._spend.prefix}:day:{day.isoformat()}:key"


def _days_before(today: date, count: int) -> list[date]:
    """The newest first."""
    return [today - timedelta(days=ago) for ago in range(1, count + 1)]
