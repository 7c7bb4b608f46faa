"""Counts a worker's spend: prices every attempt as it ends, and stores the sums twice a second.

`count` is on the request path, so it only adds to a row in memory. While the store is away rows wait, summed by day,
minute and name, and bounded; a batch under way keeps its id until the store has answered for it. A worker that is
killed loses what it counted in the last half second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Final

import structlog

from quotapool.domain.observer import Observer
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord, Saved
from quotapool.domain.wallet import PICO
from quotapool.money.billing import billed_usage
from quotapool.money.price_list import STANDARD, PriceList, price, standard_or
from quotapool.money.rate_cards import CardSet, RateCard
from quotapool.money.rescues import rescues_of
from quotapool.money.spend_store import Entry, Kind, SpendBatch, SpendStore, new_batch_id
from quotapool.money.spent import Spent
from quotapool.store.store import StoreError

_log = structlog.get_logger()
EVERY_S: Final = 0.5
OTHER: Final = "other"  # models beyond _MOST_MODELS, and those for which upstream has not answered
UNNAMED: Final = "unnamed"  # the request named no model that could be read, as uploads do not
_MOST_MODELS: Final = 1000
_MOST_EARLY: Final = 10_000  # attempts that ended before the price cards came, a moment after the start
_MOST_ROWS: Final = 60  # of one script call: half a millisecond, for which no reserve can be served
_MOST_FOLDED: Final = 100  # in one turn of the loop, for the same reason
_LAST_S: Final = 2.0  # at the end, for a store that does not answer
_NOTHING: Final = Saved()
_TIERS: Final = frozenset({STANDARD, "flex", "priority", "fast", "batch", "scale"})

_Name = tuple[str, str, str, str, str, bool]  # account, key, model, client, tier, whether it was called as a tool


class _Row:
    """The usage under one name since the last fold."""

    __slots__ = (
        *("cached", "card", "completion", "estimated", "exact", "guessed", "known"),
        *("prompt", "requests", "sure", "unpriced"),
    )

    def __init__(self, card: RateCard | None, sure: bool) -> None:
        self.card = card
        self.sure = sure
        self.known = False  # upstream answered for this model
        self.exact = self.estimated = 0  # picodollars
        self.requests = self.guessed = self.unpriced = 0
        self.prompt = self.cached = self.completion = 0


class SpendCounter:
    """One worker's spend. `take_cards` when they come, `run` beside everything else, `close` at the end."""

    def __init__(
        self, store: SpendStore, observer: Observer, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._store = store
        self._observer = observer
        self._now = now
        self._prices: PriceList | None = None
        self._early: list[tuple[AttemptRecord, RequestRecord]] = []
        self._open: dict[_Name, _Row] = {}
        self._refused: dict[tuple[str, str], int] = {}  # requests by client and reason
        self._rescued: dict[str, int] = {}  # requests by what they were saved from
        self._cached: dict[str, int] = {}  # requests by what the cache did
        self._saved: dict[tuple[str, str], Spent] = {}  # by client and model
        self._models: set[str] = set()
        self._unsent = SpendBatch()
        self._in_flight: tuple[str, SpendBatch] | None = None
        self._sender, self._sent = new_batch_id(), 0
        self._away = False
        self._sending = asyncio.Lock()

    @property
    def prices(self) -> PriceList | None:
        """None: the cards have not come yet."""
        return self._prices

    def take_cards(self, cards: CardSet) -> None:
        """Price with these from now on."""
        self._fold(list(self._open))
        self._prices = PriceList(cards)
        self._count_early()

    def _count_early(self) -> None:
        early, self._early = self._early, []
        for attempt, record in early:
            self.count(attempt, record)

    def count(self, attempt: AttemptRecord, record: RequestRecord) -> None:
        """An attempt ended. It costs nothing if upstream did no work; else that is added to the record's cost."""
        usage = billed_usage(attempt, record)
        if usage is None:
            return
        if self._prices is None and len(self._early) < _MOST_EARLY:
            self._early.append((attempt, record))
            record.pico = None
            return
        row = self._row((attempt.account, attempt.key, record.model, record.client, attempt.tier, False))
        if 200 <= attempt.status < 300:
            row.known = True
        pico = _add(row, usage)
        for model, used in usage.by_tools:
            row_of_tool = self._row((attempt.account, attempt.key, model, record.client, used.tier, True))
            row_of_tool.known = True
            part = _add(row_of_tool, used)
            pico = None if pico is None or part is None else pico + part
        record.pico = None if pico is None or record.pico is None else record.pico + pico

    def refused(self, record: RequestRecord) -> None:
        """The proxy answered a request with an error of its own."""
        why = f"{record.code} {'+'.join(record.rules)}" if record.rules else record.code
        name = record.client, why
        self._refused[name] = self._refused.get(name, 0) + 1

    def rescued(self, record: RequestRecord) -> None:
        """A request ended that took more than one attempt, or waited in the queue."""
        for why in rescues_of(record):
            self._rescued[why] = self._rescued.get(why, 0) + 1

    def cached(self, record: RequestRecord) -> None:
        """A request ended that the cache is there for."""
        self._cached[record.cache] = self._cached.get(record.cache, 0) + 1
        saved = record.saved
        if saved is None or saved == _NOTHING:  # an error that was shared tells nothing of its model
            return
        name = record.client, record.model
        sums = self._saved.get(name)
        if sums is None:
            sums = self._saved[name] = Spent()
        sums.requests += saved.requests
        sums.prompt_tokens += saved.prompt
        sums.completion_tokens += saved.completion
        if saved.pico is None:
            sums.unpriced_requests += 1
        else:
            sums.exact += saved.pico

    def _row(self, name: _Name) -> _Row:
        row = self._open.get(name)
        if row is None:
            card, sure = (None, False) if self._prices is None else self._prices.card(name[2], name[4])
            row = self._open[name] = _Row(card, sure)
        return row

    async def run(self) -> None:
        """Store twice a second, forever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 - whatever it is, the next half second's spend must be stored
                _log.exception("spend cannot be stored")

    async def flush(self) -> bool:
        """Send what was counted; False if the store did not take it, which is tried again next time."""
        async with self._sending:
            return await self._send_all()

    async def _send_all(self) -> bool:
        names = list(self._open)
        for start in range(0, len(names), _MOST_FOLDED):
            self._fold(names[start : start + _MOST_FOLDED])
            await asyncio.sleep(0)
        while self._refused:
            now = self._now()
            for client, why in list(islice(self._refused, _MOST_FOLDED)):
                self._unsent.refuse(client, why, self._refused.pop((client, why)), now)
            await asyncio.sleep(0)
        while self._rescued:  # a handful of words
            why, requests = self._rescued.popitem()
            self._unsent.rescue(why, requests, self._now())
        while self._cached:
            result, requests = self._cached.popitem()
            self._unsent.cache(result, requests, self._now())
        while self._saved:
            now = self._now()
            for client, model in list(islice(self._saved, _MOST_FOLDED)):
                saved = self._saved.pop((client, model))
                self._unsent.save(client, self._name(model, known=True), saved, now)
            await asyncio.sleep(0)
        while self._in_flight or self._unsent:
            if self._in_flight is None:
                self._sent += 1
                self._in_flight = f"{self._sender}:{self._sent}", self._unsent.take(_MOST_ROWS)
            batch_id, batch = self._in_flight
            try:
                await self._store.send(batch, batch_id)
            except StoreError as lost:
                if not self._away:
                    self._away = True
                    _log.warning("spend cannot be stored and waits in memory", problem=str(lost))
                return False
            self._in_flight = None
        self._away = False
        return True

    async def close(self) -> None:
        """Store all that is left. What the store does not take within 2 seconds is lost, and logged."""
        self._prices = self._prices or PriceList(CardSet())
        self._count_early()
        deadline = time.monotonic() + _LAST_S
        while not await self.flush():
            if time.monotonic() > deadline:
                lost = self._unsent.total + (self._in_flight[1].total if self._in_flight else 0)
                _log.error("spend that the store did not take is lost", usd=lost / PICO)
                return
            await asyncio.sleep(0.1)

    def _fold(self, names: Sequence[_Name]) -> None:
        """Turn these open rows into entries of this hour."""
        now = self._now()
        if self._prices is not None:
            self._unsent.version = self._prices.version
        for key_of_row in names:
            row = self._open.pop(key_of_row, None)
            if row is None:  # folded in another turn
                continue
            account, key, model, client, tier, as_tool = key_of_row
            name = self._name(model, known=row.known)
            tier = tier if standard_or(tier) in _TIERS else OTHER  # an upstream may invent tiers
            exact = row.requests - row.guessed - row.unpriced
            tokens = row.prompt, row.cached, row.completion
            for kind, pico, requests in _split(row, exact):
                entry = Entry(account, key, name, client, kind, pico, requests, *tokens, tier=tier, as_tool=as_tool)
                self._unsent.add(entry, now)
                tokens = 0, 0, 0  # only once: tokens are not split by kind
                if kind == "unpriced":
                    self._observer.unpriced(name, requests)
                else:
                    self._observer.spent(account, kind, pico / PICO)

    def _name(self, model: str, *, known: bool) -> str:
        """The stored name: callers invent names, so only those for which upstream answered are kept."""
        if not model:
            return UNNAMED
        if model in self._models:
            return model
        if not known or len(self._models) >= _MOST_MODELS:
            return OTHER
        self._models.add(model)
        return model


def _add(row: _Row, usage: Usage) -> int | None:
    """One call's tokens, and what they cost, which is returned; None: its price is not known."""
    row.requests += 1
    row.prompt += usage.prompt
    row.cached += usage.cached_prompt
    row.completion += usage.completion
    exact = usage.certainty is Certainty.EXACT
    pico = None if row.card is None else price(row.card, usage)
    if pico is None or not (exact or pico or usage.total):
        row.unpriced += 1
        return None
    if exact and row.sure:
        row.exact += pico
    else:
        row.estimated += pico
        row.guessed += 1
    return pico


def _split(row: _Row, exact: int) -> list[tuple[Kind, int, int]]:
    parts: list[tuple[Kind, int, int]] = []
    if exact:
        parts.append(("exact", row.exact, exact))
    if row.guessed:
        parts.append(("estimated", row.estimated, row.guessed))
    if row.unpriced:
        parts.append(("unpriced", 0, row.unpriced))
    return parts
