"""Who used what in a span of time, read from the store: the rows of `quotapool usage` and of the admin API.

Whole days by one name come from the days' sums, which have every name. All else comes from slots, whose tables are
bounded: names beyond are in the rows `other`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Final

import msgspec

from quotapool.domain.wallet import PICO
from quotapool.money.question import BadQuestionError, Name, Question, iso, shown_zone
from quotapool.money.rollups import DAY, Slot, Table
from quotapool.money.spend_store import Dimension, SpendStore
from quotapool.money.spent import Spent

_MOST_ROWS: Final = 100_000
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
    """Rows in the making. Raises BadQuestionError when there are too many."""

    def __init__(self, question: Question, most: int) -> None:
        self.question = question
        self.most = most
        self.found: dict[tuple[datetime | None, tuple[str, ...]], Row] = {}
        self.total = Row(None, (), Spent(), {} if self.knows_refusals else None)

    @property
    def knows_refusals(self) -> bool:
        return not self.question.names or "client" in self.question.names

    def row(self, slot_start: datetime, names: tuple[str, ...]) -> Row:
        key = self.question.row_start(slot_start), names
        row = self.found.get(key)
        if row is None:
            if len(self.found) >= self.most:
                raise BadQuestionError(
                    "every", f"these are more than {self.most:,} rows: use longer steps or less time"
                )
            row = self.found[key] = Row(*key, Spent(), {} if self.knows_refusals else None)
        return row

    def add(self, slot_start: datetime, names: tuple[str, ...], spent: Spent) -> None:
        self.row(slot_start, names).spent.add(spent)
        self.total.spent.add(spent)

    def refuse(self, slot_start: datetime, names: tuple[str, ...], why: str, requests: int) -> None:
        for row in (self.row(slot_start, names), self.total):
            if row.refusals is not None:
                row.refusals[why] = row.refusals.get(why, 0) + requests


async def report(store: SpendStore, question: Question, now: datetime, most_rows: int = _MOST_ROWS) -> Report:
    """Read what was used. Raises StoreLost, and BadQuestionError for more than `most_rows`."""
    rows, unpriced = _Rows(question, most_rows), set[str]()
    slots = list(question.slots)
    if len(question.names) < 2:
        days = [start.date() for resolution, start in slots if resolution is DAY]
        slots = [slot for slot in slots if slot[0] is not DAY]
        if days:  # they follow each other, since what is not a whole day is at the ends
            await _add_days(store, rows, unpriced, days[0], days[-1])
    await _add_slots(store, rows, unpriced, slots)
    if rows.knows_refusals:
        await _add_refusals(store, rows, question.slots)
    today = now.date()
    month = Spent()
    for names in (await store.totals("pool", today.replace(day=1), today)).values():
        for spent in names.values():
            month.add(spent)
    last = (question.until - timedelta(microseconds=1)).date()
    prices = await store.versions(question.since.date(), last)
    ordered = sorted(rows.found.values(), key=_order)
    return Report(question, ordered, rows.total, month, sorted(unpriced), prices)


async def _add_days(store: SpendStore, rows: _Rows, unpriced: set[str], first: date, last: date) -> None:
    name: Name | None = next(iter(rows.question.names), None)
    dimension: Dimension = name or "pool"
    for day, found in (await store.totals(dimension, first, last)).items():
        for stored, spent in found.items():
            rows.add(_midnight(day), (_shown(name, stored),) if name else (), spent)
    for found in (await store.totals("model", first, last)).values():
        unpriced.update(model for model, spent in found.items() if spent.unpriced_requests)


async def _add_slots(store: SpendStore, rows: _Rows, unpriced: set[str], slots: list[Slot]) -> None:
    names = rows.question.names
    table: Table = "key" if "key" in names or "account" in names else "client"
    places = [(_PARTS[table].index(name), name) for name in names]
    async for (_, start), found in store.used(table, slots):
        for parts, spent in found.items():
            rows.add(start, tuple(_shown(name, parts[place]) for place, name in places), spent)
            if spent.unpriced_requests:
                unpriced.add(parts[-1])


async def _add_refusals(store: SpendStore, rows: _Rows, slots: tuple[Slot, ...]) -> None:
    """A refused request used no model: where rows are told apart by model, it is in a row of its client without one."""
    names = rows.question.names
    async for (_, start), found in store.used("refusal", slots):
        for (client, why), spent in found.items():
            named = tuple(_shown(name, client) if name == "client" else NO_NAME for name in names)
            rows.refuse(start, named, why, spent.requests)


def _shown(name: Name | None, stored: str) -> str:
    return stored or (ANONYMOUS if name == "client" else NO_NAME)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


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


def document(found: Report) -> dict[str, object]:
    """The report as JSON-like values: dollars are numbers, times are ISO 8601 with an offset, `until` is exclusive."""
    question = found.question
    zone = shown_zone(question)
    columns = labels(question)

    def row_of(row: Row) -> dict[str, object]:
        values = (float(value) if isinstance(value, Decimal) else value for value in numbers(row.spent))
        return {
            **dict(zip(NUMBERS, values, strict=True)),
            "refused_requests": row.refused,
            "refusals": row.refusals,
        }

    return {
        "by": question.by,
        "since": iso(question.since, zone),
        "until": iso(question.until, zone),
        "every": question.every_word,
        "time_zone": str(zone),
        "rows": [{**dict(zip(columns, labelled(question, row), strict=True)), **row_of(row)} for row in found.rows],
        "total": row_of(found.total),
        "month_to_date_usd": float(usd(found.month.total)),
        "unpriced": found.unpriced,
        "price_data": found.prices,
        "not_seen": NOT_SEEN,
    }
