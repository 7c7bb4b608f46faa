"""Spend in the store: what each account, key, model and client cost on each UTC day, and usage in slots of time.

Slots (`rollups.py`) have rows for each client and model, for each key and model, for a client's refusals, for what
requests were rescued from, and for what the cache saved; they are bounded, days are not. Amounts of money are
picodollars.

A batch is added once, however often it is sent, so a lost answer costs nothing but a repetition. Layout and arithmetic:
`lua/spend.lua`. The hash tag is not that of the budgets, so that in a cluster a long report never delays a reserve.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Final, Literal

import msgspec
from msgspec.structs import astuple, replace

from quotapool.money import rollups
from quotapool.money.price_list import STANDARD, standard_or
from quotapool.money.rollups import MINUTE, RESOLUTIONS, Slot, Table, joined
from quotapool.money.spent import Spent
from quotapool.store.store import Script, Store, text_of

Dimension = Literal["account", "key", "model", "client", "pool"]
Kind = Literal["exact", "estimated", "probe", "unpriced"]

DIMENSIONS: Final[tuple[Dimension, ...]] = ("account", "key", "model", "client", "pool")
POOL: Final = ""
"""The one name in the dimension `pool`."""
PROBES: Final = "(probes)"
"""The client of calls that the proxy itself makes; no client can have this name."""
DAYS_KEPT: Final = 400  # 13 months
HOURS_KEPT_DAYS: Final = 8
_DAY_S: Final = 86_400
_AT_ONCE: Final = 5_000  # fields read before others get their turn
_SLOTS_AT_ONCE: Final = 30  # in one answer of the store: a megabyte, if all are full
_MOST_WAITING: Final = (
    20_000  # rows of slots in a batch, 10 MB: an hour's without a store in a pool of 300 busy clients
)
_BATCH_ID_KEPT_S: Final = _DAY_S
_MONEY: Final = "xep"  # those of `_MEASURES` that are picodollars
_MEASURES: Final = "xepurico"
_PREFIXES: Final = tuple(f"{measure}:" for measure in _MEASURES)

_pack: Final = msgspec.msgpack.Encoder().encode


class Entry(msgspec.Struct, frozen=True):
    """A cost to add: `requests` calls of one kind. `pico`: picodollars, 0 if unpriced. `tier`: of the answer.
    `as_tool`: the calls were parts of requests to other models, which are counted there."""

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
    as_tool: bool = False


class SpendBatch:
    """Entries summed by day, minute and name, ready to be sent: its size is that of the names, not of the traffic.

    While the store is away for long, minutes add up: then new names in them become `other`.
    """

    def __init__(self) -> None:
        self.days: dict[tuple[str, Dimension], dict[str, Spent]] = {}
        self.hours: dict[tuple[str, str], int] = {}
        self.minutes: dict[tuple[datetime, Table], dict[str, Spent]] = {}
        self.version = ""
        self._in_minutes = 0  # rows
        self._at: datetime | None = None  # of the last entry; thousands have the same
        self._hour = "", ""
        self._names: list[dict[str, Spent]] = []  # of that day, one for each dimension
        self._of_clients: dict[str, Spent] = {}  # of that minute
        self._of_keys: dict[str, Spent] = {}

    def add(self, entry: Entry, at: datetime) -> None:
        """`at` in UTC."""
        if at is not self._at:
            day, minute = at.date().isoformat(), MINUTE.start(at)
            self._at, self._hour = at, (day, f"{at.hour:02d}")
            self._names = [self.days.setdefault((day, dimension), {}) for dimension in DIMENSIONS]
            self._of_clients = self.minutes.setdefault((minute, "client"), {})
            self._of_keys = self.minutes.setdefault((minute, "key"), {})
        spent, model = _spent(entry), model_name(entry.model, entry.tier)
        for names, name in zip(self._names, (entry.account, entry.key, model, entry.client, POOL), strict=True):
            row = names.get(name)
            if row is None:
                names[name] = replace(spent)
            else:
                row.add(spent)
        self._add_to_minute("client", self._of_clients, joined(entry.client, model), spent)
        self._add_to_minute("key", self._of_keys, joined(entry.account, entry.key, model), spent)
        if entry.pico:
            self.hours[self._hour] = self.hours.get(self._hour, 0) + entry.pico

    def refuse(self, client: str, why: str, requests: int, at: datetime) -> None:
        """The proxy refused this client's requests. `why`: the error code, and the rules, if any; `at` in UTC."""
        rows = self.minutes.setdefault((MINUTE.start(at), "refusal"), {})
        self._add_to_minute("refusal", rows, joined(client, why), Spent(requests=requests))

    def rescue(self, why: str, requests: int, at: datetime) -> None:
        """Requests were served although something stood in their way. `why`: of `money/rescues.py`; `at` in UTC."""
        rows = self.minutes.setdefault((MINUTE.start(at), "rescue"), {})
        self._add_to_minute("rescue", rows, why, Spent(requests=requests))

    def cache(self, result: str, requests: int, at: datetime) -> None:
        """What the cache did for this many requests: hit, miss, coalesced or bypass; `at` in UTC."""
        rows = self.minutes.setdefault((MINUTE.start(at), "cache"), {})
        self._add_to_minute("cache", rows, result, Spent(requests=requests))

    def save(self, client: str, model: str, saved: Spent, at: datetime) -> None:
        """What this client's requests for a model did not use, thanks to the cache; `at` in UTC."""
        rows = self.minutes.setdefault((MINUTE.start(at), "saved"), {})
        self._add_to_minute("saved", rows, joined(client, model), saved)

    def _add_to_minute(self, table: Table, rows: dict[str, Spent], name: str, spent: Spent) -> None:
        row = rows.get(name)
        if row is None and self._in_minutes >= _MOST_WAITING:
            name = rollups.ALL_OTHER[table]
            row = rows.get(name)
        if row is None:
            rows[name] = replace(spent)
            self._in_minutes += 1
        else:
            row.add(spent)

    def take(self, most: int) -> SpendBatch:
        """Take out rows that the script writes at most `most` of (3 or more), as a batch of their own; all hours go
        with it. A minute's row is written once for each resolution that its table has."""
        part = SpendBatch()
        part.version = self.version
        part.hours, self.hours = self.hours, {}
        self._at = None  # its day's rows may be taken out
        for of in list(self.days):
            names = self.days[of]
            if len(names) > most:
                if most:
                    part.days[of] = {name: names.pop(name) for name in list(islice(names, most))}
                break
            part.days[of] = self.days.pop(of)
            most -= len(names)
        else:
            self._take_minutes(part, most // len(RESOLUTIONS))
        return part

    def _take_minutes(self, part: SpendBatch, most: int) -> None:
        for of in list(self.minutes):
            rows = self.minutes[of]
            if len(rows) > most:
                if most:
                    part.minutes[of] = {name: rows.pop(name) for name in list(islice(rows, most))}
                    self._in_minutes -= most
                break
            part.minutes[of] = self.minutes.pop(of)
            self._in_minutes -= len(rows)
            most -= len(rows)

    @property
    def total(self) -> int:
        """Picodollars in it."""
        return sum(names[POOL].total for (_, dimension), names in self.days.items() if dimension == "pool")

    def __len__(self) -> int:
        """The number of rows that the script writes, at most."""
        return sum(map(len, self.days.values())) + len(RESOLUTIONS) * sum(map(len, self.minutes.values()))


class SpendStore:
    """The spend of one pool. Every method raises StoreLost while the store is away."""

    def __init__(self, store: Store, pool: str) -> None:
        self.prefix = f"qp:{{{pool}:spend}}"
        self._store = store
        self._script = Script.of(__package__, "spend")

    async def add(
        self, entries: Iterable[Entry], *, batch_id: str | None = None, at: datetime | None = None, version: str = ""
    ) -> bool:
        """Add entries of the moment `at` (UTC; None: now). False: a batch with this id was added before.

        A call that repeats one whose answer was lost has the same `batch_id`.
        """
        batch = SpendBatch()
        batch.version = version
        moment = at or datetime.now(UTC)
        for entry in entries:
            batch.add(entry, moment)
        return await self.send(batch, batch_id or new_batch_id())

    async def send(self, batch: SpendBatch, batch_id: str) -> bool:
        """Add a batch. False: it was added before.

        The id is `<sender>:<number>`, of a sender that sends one batch at a time, each with a higher number: then the
        store remembers one number for it, not two batches a second for a day. Or it is a word, used for one batch.
        """
        sender, _, number = batch_id.partition(":")
        keys = [f"{self.prefix}:batch:{sender}"]
        hashes: list[tuple[int, list[str]]] = []  # for each further key: seconds to live; field, amount, field, ...
        for (day, dimension), names in batch.days.items():
            fields = _fields(names)
            if dimension == "pool" and batch.version:
                fields += ("v", batch.version)
            keys.append(f"{self.prefix}:day:{day}:{dimension}")
            hashes.append((DAYS_KEPT * _DAY_S, fields))
        for (day, hour), pico in batch.hours.items():
            keys.append(f"{self.prefix}:hours:{day}")
            hashes.append(((HOURS_KEPT_DAYS + 1) * _DAY_S, [hour, str(pico)]))
        tables: list[tuple[str, list[tuple[int, int]], list[str | list[int]]]] = []
        for (minute, table), rows in batch.minutes.items():
            bounds = []
            for resolution in (one for one in RESOLUTIONS if table in one.rows):
                keys.append(f"{self.prefix}:{rollups.key_of(table, (resolution, resolution.start(minute)))}")
                bounds.append((rollups.seconds_to_live(resolution), resolution.rows[table]))
            flat = [part for name, spent in rows.items() for part in (name, rollups.counts(spent))]
            tables.append((rollups.ALL_OTHER[table], bounds, flat))
        arguments = (_BATCH_ID_KEPT_S, _pack(hashes), _pack(tables), number or 1)
        return bool(await self._store.evalsha(self._script, keys, arguments) == 1)

    async def totals(
        self, dimension: Dimension, since: date, until: date, only: Sequence[str] | None = None
    ) -> dict[date, dict[str, Spent]]:
        """Each day's spend by name, both days included; days without any are left out. `only`: of these names.

        Names of models carry their service tier, `gpt-5.5 (priority)`, unless it is the standard one.
        """
        found: dict[date, dict[str, Spent]] = {}
        for day in _days(since, until):
            key = f"day:{day.isoformat()}:{dimension}"
            raw = await (self._hash(key) if only is None else self._fields_of(key, only))
            names: dict[str, Spent] = {}
            for n, (field, value) in enumerate(raw.items()):
                if n % _AT_ONCE == 0:
                    await asyncio.sleep(0)
                measure, colon, name = field.partition(":")
                if colon and measure in _MEASURES:
                    row = names.setdefault(name, Spent())
                    setattr(row, row.__struct_fields__[_MEASURES.index(measure)], int(value))
            if names:
                found[day] = names
        return found

    async def day_of(self, dimension: Dimension, day: date, names: Sequence[str]) -> dict[str, int]:
        """Picodollars that these names cost on one day, probes included; what cost nothing is left out."""
        if not names:
            return {}
        key = f"{self.prefix}:day:{day.isoformat()}:{dimension}"
        fields = [f"{measure}:{name}" for name in names for measure in _MONEY]
        values = [int(value or 0) for value in await self._store.guard(self._store.client.hmget(key, fields))]
        totals = (sum(values[n : n + len(_MONEY)]) for n in range(0, len(values), len(_MONEY)))
        return {name: total for name, total in zip(names, totals, strict=True) if total}

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

    async def used(
        self, table: Table, slots: Sequence[Slot]
    ) -> AsyncIterator[tuple[Slot, dict[tuple[str, ...], Spent]]]:
        """One table of each of these slots, by the parts of its names; empty ones are left out."""
        for first in range(0, len(slots), _SLOTS_AT_ONCE):
            some = slots[first : first + _SLOTS_AT_ONCE]
            pipeline = self._store.client.pipeline(transaction=False)
            for slot in some:
                pipeline.hgetall(f"{self.prefix}:{rollups.key_of(table, slot)}")
            for slot, raw in zip(some, await self._store.guard(pipeline.execute()), strict=True):
                if raw:
                    yield (
                        slot,
                        {
                            rollups.parts_of(table, text_of(name)): rollups.spent_of(packed)
                            for name, packed in raw.items()
                        },
                    )
                    await asyncio.sleep(0)

    async def versions(self, since: date, until: date) -> list[str]:
        """The versions of the price data that these days were priced with, the latest of each day."""
        seen: dict[str, None] = {}
        for day in _days(since, until):
            version = await self._store.guard(self._store.client.hget(f"{self.prefix}:day:{day.isoformat()}:pool", "v"))
            if version:
                seen[text_of(version)] = None
        return list(seen)

    async def _fields_of(self, name: str, only: Sequence[str]) -> dict[str, str]:
        """Of a day's hash, what is about these names."""
        fields = [prefix + one for one in only for prefix in _PREFIXES]
        values = await self._store.guard(self._store.client.hmget(f"{self.prefix}:{name}", fields))
        return {field: text_of(value) for field, value in zip(fields, values, strict=True) if value is not None}

    async def _hash(self, name: str) -> dict[str, str]:
        raw = await self._store.guard(self._store.client.hgetall(f"{self.prefix}:{name}"))
        return {text_of(field): text_of(value) for field, value in raw.items()}


def new_batch_id() -> str:
    return secrets.token_hex(8)


def model_name(model: str, tier: str) -> str:
    """The name under which a model's spend is kept."""
    tier = standard_or(tier)
    return model if tier == STANDARD else f"{model} ({tier})"


def _spent(entry: Entry) -> Spent:
    spent = Spent(
        requests=0 if entry.as_tool else entry.requests,
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


def _fields(names: dict[str, Spent]) -> list[str]:
    """What to add to a day's hash of one dimension: field, amount, field, ... Amounts of 0 are left out."""
    fields: list[str] = []
    add = fields.append
    for name, row in names.items():
        for prefix, amount in zip(_PREFIXES, astuple(row), strict=True):
            if amount:
                add(prefix + name)
                add(str(amount))
    return fields


def _days(since: date, until: date) -> Iterator[date]:
    for offset in range((until - since).days + 1):
        yield since + timedelta(days=offset)
