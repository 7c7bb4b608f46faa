"""Who used what in a span of time, read from the store: the rows of `quotapool usage` and of the admin API.

Whole days by one name come from the days' sums, which have every name. All else comes from slots, whose tables are
bounded: names beyond are in the rows `other`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Container
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from heapq import nsmallest
from itertools import islice
from typing import Final

import msgspec

from quotapool.domain.wallet import PICO
from quotapool.money.question import BadQuestionError, Name, Question, iso, shown_zone
from quotapool.money.rollups import DAY, OTHER, Slot, Table
from quotapool.money.spend_store import Dimension, SpendStore
from quotapool.money.spent import Spent

_MOST_ROWS: Final = 100_000
_MOST_NAMES: Final = 100_000  # of which the largest are found: 50 MB
_AT_ONCE: Final = 1_000  # rows in one turn of the loop
ANONYMOUS: Final = "anonymous"
NO_NAME: Final = "-"
NOT_SEEN: Final = (
    "storage (files, vector stores, containers)",
    "tools' own fees (file search, code interpreter, web searches that answers do not count)",
    "fine-tuning jobs",
    "batch jobs",
    "background responses after their start",
    "WebRTC audio",
)
_PARTS: Final[dict[Table, tuple[str, ...]]] = {
    "client": ("client", "model"),
    "key": ("account", "key", "model"),
    "refusal": ("client", "why"),
    "rescue": ("why",),
}


class Row(msgspec.Struct):
    """What one name used in one step of time (UTC; None: in all of it). `names`: in the order that was asked for.
    `refusals`: requests by error code and rules; None if they are not known by these names."""

    start: datetime | None
    names: tuple[str, ...]
    spent: Spent
    refusals: dict[str, int] | None = None

    @property
    def refused(self) -> int | None:
        return None if self.refusals is None else sum(self.refusals.values())


class Report(msgspec.Struct, frozen=True):
    """The most expensive rows first, within each step of time. `month`: of the pool, to date; `unpriced`: models;
    `prices`: versions of the price data."""

    question: Question
    rows: list[Row]
    total: Row
    month: Spent
    unpriced: list[str]
    prices: list[str]


class _Rows:
    """Rows in the making. `largest`: names that are kept apart; None: all. Raises BadQuestionError when there are more
    than `most`."""

    def __init__(self, question: Question, most: int, largest: Container[tuple[str, ...]] | None = None) -> None:
        self.question = question
        self.most = most
        self.found: dict[tuple[datetime | None, tuple[str, ...]], Row] = {}
        self.total = Row(None, (), Spent(), {} if self.knows_refusals else None)
        self.unpriced: set[str] = set()  # models
        self._largest = largest
        others = (OTHER,) * len(question.names)
        self._others = others if question.only is None else (question.only, *others[1:])

    @property
    def knows_refusals(self) -> bool:
        return not self.question.names or "client" in self.question.names

    def takes(self, names: tuple[str, ...]) -> bool:
        """Whether these are asked for."""
        return self.question.only is None or names[0] == self.question.only

    def _row(self, start: datetime | None, names: tuple[str, ...]) -> Row:
        if self._largest is not None and names not in self._largest:
            names = self._others
        row = self.found.get((start, names))
        if row is None:
            if len(self.found) >= self.most:
                raise _too_many(self.question, self.most)
            row = self.found[start, names] = Row(start, names, Spent(), {} if self.knows_refusals else None)
        return row

    def add(self, start: datetime | None, names: tuple[str, ...], spent: Spent) -> None:
        """`start`: of the row."""
        if self.takes(names):
            self._row(start, names).spent.add(spent)
            self.total.spent.add(spent)

    def refuse(self, start: datetime | None, names: tuple[str, ...], why: str, requests: int) -> None:
        if not self.takes(names):
            return
        for row in (self._row(start, names), self.total):
            if row.refusals is not None:
                row.refusals[why] = row.refusals.get(why, 0) + requests

    async def largest(self, number: int) -> set[tuple[str, ...]]:
        """The names that used most, of rows without steps of time. What is `other` already is no name."""
        best: list[Row] = []
        rows = iter(self.found.values())
        while some := list(islice(rows, _AT_ONCE)):
            best = nsmallest(number, (*best, *(row for row in some if row.names != self._others)), key=_size)
            await asyncio.sleep(0)
        return {row.names for row in best}

    async def folded(self, largest: Container[tuple[str, ...]], most: int) -> _Rows:
        """The same, with what the others used in one row."""
        new = _Rows(self.question, most, largest)
        new.unpriced = self.unpriced
        for number, row in enumerate(self.found.values(), 1):
            new.add(row.start, row.names, row.spent)
            for why, requests in (row.refusals or {}).items():
                new.refuse(row.start, row.names, why, requests)
            if number % _AT_ONCE == 0:
                await asyncio.sleep(0)
        return new


def _too_many(question: Question, most: int) -> BadQuestionError:
    """With what to ask instead."""
    these = f"these are more than {most:,} rows: ask for"
    names = "one of the names (only)" if question.top is not None else "the largest names (top) or one (only)"
    fewer = f", or {names}" if question.names else ""
    if question.every is None:
        return BadQuestionError("by", f"{these} less time{fewer}")
    if question.every == DAY.size:
        return BadQuestionError("since", f"{these} less time{fewer}")
    return BadQuestionError("every", f"{these} longer steps or less time{fewer}")


async def report(store: SpendStore, question: Question, now: datetime, most_rows: int = _MOST_ROWS) -> Report:
    """Read what was used. Raises StoreLost, and BadQuestionError for more than `most_rows`."""
    if question.top is None:
        rows = await _read(store, _Rows(question, most_rows))
    else:
        in_all = replace(question, every=None, per_day=False)
        sums = await _read(store, _Rows(in_all, _MOST_NAMES))
        largest = await sums.largest(question.top)
        if question.every is None:
            rows = await sums.folded(largest, most_rows)
        else:
            rows = await _read(store, _Rows(question, most_rows, largest))
    today = now.date()
    month = Spent()
    for names in (await store.totals("pool", today.replace(day=1), today)).values():
        for spent in names.values():
            month.add(spent)
    last = (question.until - timedelta(microseconds=1)).date()
    prices = await store.versions(question.since.date(), last)
    ordered = sorted(rows.found.values(), key=_order)
    unpriced = sorted(rows.unpriced) if rows.total.spent.unpriced_requests else []
    return Report(question, ordered, rows.total, month, unpriced, prices)


async def _read(store: SpendStore, rows: _Rows) -> _Rows:
    """Fill `rows`."""
    question = rows.question
    slots = list(question.slots)
    if len(question.names) < 2:
        for start in [start for resolution, start in slots if resolution is DAY]:
            await _add_day(store, rows, start)
        slots = [slot for slot in slots if slot[0] is not DAY]
    await _add_slots(store, rows, slots)
    if rows.knows_refusals:
        await _add_refusals(store, rows, question.slots)
    return rows


async def _add_day(store: SpendStore, rows: _Rows, start: datetime) -> None:
    """One day at a time: of thousands of names, a year would not fit into memory."""
    name: Name | None = next(iter(rows.question.names), None)
    dimension: Dimension = name or "pool"
    day, row_start, only = start.date(), rows.question.row_start(start), rows.question.only
    wanted = None if only is None else [stored for stored in dict.fromkeys((only, "")) if _shown(name, stored) == only]
    found = (await store.totals(dimension, day, day, wanted)).get(day, {})
    for number, (stored, spent) in enumerate(found.items(), 1):
        rows.add(row_start, (_shown(name, stored),) if name else (), spent)
        if number % _AT_ONCE == 0:
            await asyncio.sleep(0)
    models = found if name == "model" else (await store.totals("model", day, day)).get(day, {})
    rows.unpriced.update(model for model, spent in models.items() if spent.unpriced_requests)


async def _add_slots(store: SpendStore, rows: _Rows, slots: list[Slot]) -> None:
    names = rows.question.names
    table: Table = "key" if "key" in names or "account" in names else "client"
    places = [(_PARTS[table].index(name), name) for name in names]
    async for (_, start), found in store.used(table, slots):
        row_start = rows.question.row_start(start)
        for parts, spent in found.items():
            named = tuple(_shown(name, parts[place]) for place, name in places)
            rows.add(row_start, named, spent)
            if spent.unpriced_requests and rows.takes(named):
                rows.unpriced.add(parts[-1])


async def _add_refusals(store: SpendStore, rows: _Rows, slots: tuple[Slot, ...]) -> None:
    """A refused request used no model: where rows are told apart by model, it is in a row of its client without one."""
    names = rows.question.names
    async for (_, start), found in store.used("refusal", slots):
        row_start = rows.question.row_start(start)
        for (client, why), spent in found.items():
            named = tuple(_shown(name, client) if name == "client" else NO_NAME for name in names)
            rows.refuse(row_start, named, why, spent.requests)


def _shown(name: Name | None, stored: str) -> str:
    return stored or (ANONYMOUS if name == "client" else NO_NAME)


def _size(row: Row) -> tuple[int, int, int, int, tuple[str, ...]]:
    """For sorting: by dollars, then tokens, then requests, the most first; then by name."""
    spent = row.spent
    tokens = spent.prompt_tokens + spent.completion_tokens
    return -spent.total, -tokens, -spent.requests, -(row.refused or 0), row.names


def _order(row: Row) -> tuple[datetime, int, int, tuple[str, ...]]:
    return row.start or datetime.min.replace(tzinfo=UTC), -row.spent.total, -(row.refused or 0), row.names


# ---- as columns: of CSV, JSON and the admin API, whose names are promises


NUMBERS: Final = (
    *("usd", "exact_usd", "estimated_usd", "probe_usd", "unpriced_requests"),
    *("requests", "prompt_tokens", "cached_tokens", "completion_tokens"),
)


def usd(pico: int) -> Decimal:
    """To the micro-dollar, without zeros at the end."""
    return round(Decimal(pico) / PICO, 6).normalize() + Decimal(0)


def numbers(spent: Spent) -> list[Decimal | int]:
    """The values of NUMBERS."""
    money = (spent.total, spent.exact, spent.estimated, spent.probes)
    tokens = (spent.prompt_tokens, spent.cached_tokens, spent.completion_tokens)
    return [*map(usd, money), spent.unpriced_requests, spent.requests, *tokens]


def labels(question: Question) -> tuple[str, ...]:
    """The columns before the numbers: `day`, or `from` if there are steps of time; and what rows are by."""
    when = ("day",) if question.per_day else ("from",) if question.every is not None else ()
    return (*when, *question.names)


def labelled(question: Question, row: Row) -> tuple[str, ...]:
    """The values of `labels`."""
    if row.start is None:
        return row.names
    return (row.start.date().isoformat() if question.per_day else iso(row.start, shown_zone(question)), *row.names)


def row_document(question: Question, row: Row) -> dict[str, object]:
    """One row of `document`."""
    return {**dict(zip(labels(question), labelled(question, row), strict=True)), **_sums(row)}


def _sums(row: Row) -> dict[str, object]:
    values = (float(value) if isinstance(value, Decimal) else value for value in numbers(row.spent))
    return {**dict(zip(NUMBERS, values, strict=True)), "refused_requests": row.refused, "refusals": row.refusals}


def document(found: Report) -> dict[str, object]:
    """The report as JSON-like values: dollars are numbers, times are ISO 8601 with an offset, `until` is exclusive."""
    question = found.question
    zone = shown_zone(question)
    return {
        "by": question.by,
        "since": iso(question.since, zone),
        "until": iso(question.until, zone),
        "every": question.every_word,
        **({} if question.only is None else {"only": question.only}),
        **({} if question.top is None else {"top": question.top}),
        "time_zone": str(zone),
        "rows": [row_document(question, row) for row in found.rows],
        "total": _sums(found.total),
        "month_to_date_usd": float(usd(found.month.total)),
        "unpriced": found.unpriced,
        "price_data": found.prices,
        "not_seen": NOT_SEEN,
    }
