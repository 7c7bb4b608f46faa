"""A worker's meter: prices every attempt as it ends, and books the sums twice a second.

`note` is on the request path, so it only adds to a row in memory. While the store is away rows wait, summed by day and
name, so their number is bounded by the pool's and not by the outage; a batch under way keeps its name until the store
has answered for it. A worker that is killed loses what it noted in the last half second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final

import structlog

from quotapool.domain.observer import Observer
from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.money.rate_cards import PICO, STANDARD, CardSet, PriceBook, RateCard, price, standard_or
from quotapool.money.spend_store import Entry, Kind, Sheet, SpendStore, new_batch
from quotapool.store.store import StoreError

_log = structlog.get_logger()
EVERY_S: Final = 0.5
OTHER: Final = "other"  # models beyond MOST_MODELS, and those that upstream has not answered for
UNNAMED: Final = "unnamed"  # the request named no model that we could read, as uploads do not
_MOST_MODELS: Final = 1000
_MOST_EARLY: Final = 10_000  # attempts that ended before the price cards came, a moment after the start
_MOST_ROWS: Final = 150  # of one script call: a millisecond, for which no reserve can be served
_MOST_FOLDED: Final = 100  # in one turn of the loop, for the same reason
_LAST_S: Final = 2.0  # at the end, for a store that does not answer
_BILLED_UNTOLD: Final = frozenset({"audio", "images", "videos"})  # answers without usage that cost money all the same


_TIERS: Final = frozenset({STANDARD, "flex", "priority", "fast", "batch", "scale"})
_CANCELLED: Final = "cancelled"
_TIMEOUT: Final = "timeout"

_Name = tuple[str, str, str, str, str]  # account, key, model, client, tier


class _Row:
    """What one of these used since the last fold."""

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
    """One worker's. `take_cards` when they come, `run` beside everything else, `close` at the end."""

    def __init__(
        self, book: SpendStore, observer: Observer, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._book = book
        self._observer = observer
        self._now = now
        self._prices: PriceBook | None = None
        self._early: list[tuple[AttemptRecord, RequestRecord]] = []
        self._open: dict[_Name, _Row] = {}
        self._models: set[str] = set()
        self._waiting = Sheet()
        self._flying: tuple[str, Sheet] | None = None
        self._away = False
        self._sending = asyncio.Lock()

    def take_cards(self, cards: CardSet) -> None:
        """Price with these from now on."""
        self._fold(list(self._open))
        self._prices = PriceBook(cards)
        early, self._early = self._early, []
        for leg, trip in early:
            self.note(leg, trip)

    def note(self, leg: AttemptRecord, trip: RequestRecord) -> None:
        """An attempt ended. Costs nothing where upstream did no work."""
        usage = leg.usage
        if usage is None or usage.certainty is Certainty.NOTHING:
            return
        exact = usage.certainty is Certainty.EXACT
        if not exact and not self._may_have_cost(leg, trip, usage):
            return
        if self._prices is None and len(self._early) < _MOST_EARLY:
            self._early.append((leg, trip))
            return
        name = leg.account, leg.key, trip.model, trip.client, leg.tier
        row = self._open.get(name)
        if row is None:
            row = self._open[name] = self._row(trip.model, leg.tier)
        if 200 <= leg.status < 300:
            row.known = True
        if not exact:
            usage = Usage(
                Certainty.AT_LEAST,
                usage.prompt or leg.prompt_estimate,
                usage.completion,
                usage.cached_prompt,
                details=usage.details,
            )
        row.requests += 1
        row.prompt += usage.prompt
        row.cached += usage.cached_prompt
        row.completion += usage.completion
        pico = None if row.card is None else price(row.card, usage)
        if pico is None or not (exact or pico or usage.total):
            row.unpriced += 1
        elif exact and row.sure:
            row.exact += pico
        else:
            row.estimated += pico
            row.guessed += 1

    async def run(self) -> None:
        """Book twice a second, for ever."""
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                await self.flush()
            except Exception:  # noqa: BLE001 - whatever it is, the next half second's spend is booked all the same
                _log.exception("spend cannot be booked")

    async def flush(self) -> bool:
        """Send what was noted; False where the store did not take it, which is tried again next time."""
        async with self._sending:
            return await self._send_all()

    async def _send_all(self) -> bool:
        names = list(self._open)
        for start in range(0, len(names), _MOST_FOLDED):
            self._fold(names[start : start + _MOST_FOLDED])
            await asyncio.sleep(0)
        while self._flying or self._waiting:
            if self._flying is None:
                self._flying = new_batch(), self._waiting.cut(_MOST_ROWS)
            batch, sheet = self._flying
            try:
                await self._book.send(sheet, batch)
            except StoreError as lost:
                if not self._away:
                    self._away = True
                    _log.warning("spend cannot be booked and waits in memory", problem=str(lost))
                return False
            self._flying = None
        self._away = False
        return True

    async def close(self) -> None:
        """Book all that is left. What a store does not take within 2 seconds is lost, and said so."""
        self._prices = self._prices or PriceBook(CardSet())
        early, self._early = self._early, []
        for leg, trip in early:
            self.note(leg, trip)
        deadline = time.monotonic() + _LAST_S
        while not await self.flush():
            if time.monotonic() > deadline:
                lost = self._waiting.total + (self._flying[1].total if self._flying else 0)
                _log.error("spend that the store did not take is lost", usd=lost / PICO)
                return
            await asyncio.sleep(0.1)

    @staticmethod
    def _may_have_cost(leg: AttemptRecord, trip: RequestRecord, usage: Usage) -> bool:
        """Whether an attempt that nobody counted is worth a line: one that upstream took up, of a model."""
        if leg.status == 0:  # upstream goes on for a client that left, and for us when we gave up; not when it broke
            return bool(leg.prompt_estimate) and (leg.outcome == _CANCELLED or leg.reason == _TIMEOUT)
        if leg.status >= 300:
            return False
        if trip.endpoint in _BILLED_UNTOLD:
            return trip.method == "POST"
        return bool(trip.model and (leg.prompt_estimate or usage.total))

    def _row(self, model: str, tier: str) -> _Row:
        if self._prices is None:
            return _Row(None, sure=False)
        return _Row(*self._prices.card(model, tier))

    def _fold(self, names: Sequence[_Name]) -> None:
        """Turn these open rows into entries of this hour."""
        now = self._now()
        if self._prices is not None:
            self._waiting.version = self._prices.version
        for whole in names:
            row = self._open.pop(whole, None)
            if row is None:  # folded in another turn
                continue
            account, key, model, client, tier = whole
            name = self._name(model, known=row.known)
            tier = tier if standard_or(tier) in _TIERS else OTHER  # whoever answers may invent it
            exact = row.requests - row.guessed - row.unpriced
            tokens = row.prompt, row.cached, row.completion
            for kind, pico, requests in _split(row, exact):
                entry = Entry(account, key, name, client, kind, pico, requests, *tokens, tier=tier)
                self._waiting.add(entry, now)
                tokens = 0, 0, 0  # told once: tokens are not split by kind
                if kind == "unpriced":
                    self._observer.unpriced(name, requests)
                else:
                    self._observer.spent(account, kind, pico / PICO)

    def _name(self, model: str, *, known: bool) -> str:
        """What the book calls it: callers invent names, so only those that upstream answered for are kept."""
        if not model:
            return UNNAMED
        if model in self._models:
            return model
        if not known or len(self._models) >= _MOST_MODELS:
            return OTHER
        self._models.add(model)
        return model


def _split(row: _Row, exact: int) -> list[tuple[Kind, int, int]]:
    parts: list[tuple[Kind, int, int]] = []
    if exact:
        parts.append(("exact", row.exact, exact))
    if row.guessed:
        parts.append(("estimated", row.estimated, row.guessed))
    if row.unpriced:
        parts.append(("unpriced", 0, row.unpriced))
    return parts
