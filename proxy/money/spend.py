"""The book of spend in the store: what each account, key, model and client cost on each UTC day.

Amounts of money are picodollars. A batch is added once, however often it is sent, so that an answer that was lost
costs nothing but a repetition. Layout and arithmetic: `ledger/lua/spend.lua`. The hash tag is not the budgets', so
that a long report never stands in the way of a reserve in a cluster.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal

import msgspec

from proxy.ledger.connection import Script, Store
from proxy.money.cards import PICO, STANDARD, standard_or

Dimension = Literal["account", "key", "model", "client", "pool"]
Kind = Literal["exact", "estimated", "probe", "unpriced"]

DIMENSIONS: Final[tuple[Dimension, ...]] = ("account", "key", "model", "client", "pool")
POOL: Final = ""
"""The one name in the dimension `pool`."""
DAYS_KEPT: Final = 400  # 13 months
HOURS_KEPT_DAYS: Final = 8
_DAY_S: Final = 86_400
_MARK_S: Final = _DAY_S
_MEASURES: Final = "xepurico"


class Entry(msgspec.Struct, frozen=True):
    """A cost to book: `requests` calls of one kind. `pico`: picodollars, 0 where unpriced. `tier`: that answered."""

    account: str
    key: str
    model: str
    client: str
    kind: Kind
    pico: int = 0
    requests: int = 1
    prompt: int = 0
    cached: int = 0
    completion: int = 0
    tier: str = STANDARD


class Spent(msgspec.Struct):
    """What one name cost in one span: money in picodollars, tokens as upstream counts them."""

    exact: int = 0
    estimated: int = 0
    probes: int = 0
    unpriced_requests: int = 0
    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total(self) -> int:
        """Picodollars, probes included."""
        return self.exact + self.estimated + self.probes

    @property
    def usd(self) -> float:
        return self.total / PICO

    def add(self, other: Spent) -> None:
        for name in self.__struct_fields__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class Sheet:
    """Entries summed by day and name, ready to be sent: its size is that of the names, not of the traffic."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, Dimension, str], Spent] = {}
        self.hours: dict[tuple[str, str], int] = {}
        self.version = ""

    def add(self, entry: Entry, at: datetime) -> None:
        """`at` in UTC."""
        day = at.date().isoformat()
        spent = _spent(entry)
        names = (entry.account, entry.key, model_name(entry.model, entry.tier), entry.client, POOL)
        for dimension, name in zip(DIMENSIONS, names, strict=True):
            row = self.rows.get((day, dimension, name))
            if row is None:
                row = self.rows[day, dimension, name] = Spent()
            row.add(spent)
        if entry.pico:
            hour = day, f"{at.hour:02d}"
            self.hours[hour] = self.hours.get(hour, 0) + entry.pico

    def cut(self, most: int) -> Sheet:
        """A sheet with at most `most` of the rows, which this one loses; hours go with the first."""
        part = Sheet()
        part.version = self.version
        part.hours, self.hours = self.hours, {}
        if len(self.rows) <= most:
            part.rows, self.rows = self.rows, {}
        else:
            for key in list(self.rows)[:most]:
                part.rows[key] = self.rows.pop(key)
        return part

    @property
    def total(self) -> int:
        """Picodollars in it."""
        return sum(row.total for (_, dimension, _), row in self.rows.items() if dimension == "pool")

    def __bool__(self) -> bool:
        return bool(self.rows)


class SpendBook:
    """The spend of one pool. Every method raises StoreLost where the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self.prefix = f"qp:{{{pool}:spend}}"
        self._store = store
        self._script = Script("spend")

    async def add(
        self, entries: Iterable[Entry], *, batch: str | None = None, at: datetime | None = None, version: str = ""
    ) -> bool:
        """Book entries of the moment `at` (UTC; None: now). False: a batch of this name is in the book already.

        Who repeats a call whose answer was lost gives both the same `batch`.
        """
        sheet = Sheet()
        sheet.version = version
        moment = at or datetime.now(UTC)
        for entry in entries:
            sheet.add(entry, moment)
        return await self.send(sheet, batch or new_batch())

    async def send(self, sheet: Sheet, batch: str) -> bool:
        """Book a sheet. False: a batch of this name is in already."""
        days: dict[str, list[str | int]] = {}
        for (day, dimension, name), row in sheet.rows.items():
            fields = days.setdefault(f"{self.prefix}:day:{day}:{dimension}", [])
            for measure, amount in zip(_MEASURES, msgspec.structs.astuple(row), strict=True):
                if amount:
                    fields += (f"{measure}:{name}", amount)
            if dimension == "pool" and sheet.version:
                fields += ("v", sheet.version)
        hours: dict[str, list[str | int]] = {}
        for (day, hour), pico in sheet.hours.items():
            hours.setdefault(f"{self.prefix}:hours:{day}", []).extend((hour, pico))
        arguments: list[str | int] = [_MARK_S]
        for hashes, live_days in ((days, DAYS_KEPT), (hours, HOURS_KEPT_DAYS + 1)):
            for fields in hashes.values():
                arguments += (live_days * _DAY_S, len(fields) // 2, *fields)
        keys = [f"{self.prefix}:batch:{batch}", *days, *hours]
        return bool(await self._store.evalsha(self._script, keys, arguments) == 1)

    async def totals(self, dimension: Dimension, since: date, until: date) -> dict[date, dict[str, Spent]]:
        """Each day's spend by name, both days included; days without any are left out.

        Names of models carry their service tier, `gpt-5.5 (priority)`, where it is not the standard one.
        """
        found: dict[date, dict[str, Spent]] = {}
        for day in _days(since, until):
            raw = await self._hash(f"day:{day.isoformat()}:{dimension}")
            names: dict[str, Spent] = {}
            for field, value in raw.items():
                measure, colon, name = field.partition(":")
                if colon and measure in _MEASURES:
                    row = names.setdefault(name, Spent())
                    setattr(row, row.__struct_fields__[_MEASURES.index(measure)], int(value))
            if names:
                found[day] = names
        return found

    async def hours(self, since: datetime, until: datetime) -> dict[datetime, int]:
        """Picodollars of the pool in each UTC hour from `since`'s to `until`'s, kept 8 days; empty hours left out."""
        first, last = (moment.astimezone(UTC).replace(minute=0, second=0, microsecond=0) for moment in (since, until))
        found: dict[datetime, int] = {}
        for day in _days(first.date(), last.date()):
            for hour, value in (await self._hash(f"hours:{day.isoformat()}")).items():
                moment = datetime(day.year, day.month, day.day, int(hour), tzinfo=UTC)
                if first <= moment <= last:
                    found[moment] = int(value)
        return dict(sorted(found.items()))

    async def versions(self, since: date, until: date) -> list[str]:
        """The versions of the price data that these days were priced with, the latest of each day."""
        seen: dict[str, None] = {}
        for day in _days(since, until):
            version = await self._store.guard(self._store.client.hget(f"{self.prefix}:day:{day.isoformat()}:pool", "v"))
            if version:
                seen[_text(version)] = None
        return list(seen)

    async def _hash(self, name: str) -> dict[str, str]:
        raw = await self._store.guard(self._store.client.hgetall(f"{self.prefix}:{name}"))
        return {_text(field): _text(value) for field, value in raw.items()}


def new_batch() -> str:
    return secrets.token_hex(8)


def model_name(model: str, tier: str) -> str:
    """The name under which a model's spend is kept."""
    tier = standard_or(tier)
    return model if tier == STANDARD else f"{model} ({tier})"


def _spent(entry: Entry) -> Spent:
    spent = Spent(
        requests=entry.requests,
        prompt_tokens=entry.prompt,
        cached_tokens=entry.cached,
        completion_tokens=entry.completion,
    )
    if entry.kind == "exact":
        spent.exact = entry.pico
    elif entry.kind == "estimated":
        spent.estimated = entry.pico
    elif entry.kind == "probe":
        spent.probes = entry.pico
    else:
        spent.unpriced_requests = entry.requests
    return spent


def _days(since: date, until: date) -> Iterator[date]:
    for offset in range((until - since).days + 1):
        yield since + timedelta(days=offset)


def _text(value: bytes | str) -> str:
    return value if isinstance(value, str) else value.decode()
