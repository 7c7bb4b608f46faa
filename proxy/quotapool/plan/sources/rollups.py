"""Demand from usage, which goes back for 48 hours by the minute and for 90 days by the hour (`money/rollups.py`).

Usage has sums: requests, tokens and money of each client and model, and how many of a client's were refused. How sizes
are spread, and how requests follow each other within a minute or hour, is taken from the last requests (`samples.py`),
scaled so that each sum is what it was.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final

from quotapool.money.rollups import HOUR, MINUTE, OTHER, NotKeptError, Slot, ceiling, cover, floor
from quotapool.money.spend_store import PROBES, SpendStore
from quotapool.money.spent import Spent
from quotapool.openai import replies
from quotapool.plan.demand import UNSEEN, Demand
from quotapool.plan.sources.record import Collector, Known, Record, SourceError, long
from quotapool.plan.sources.samples import Samples

_AT_ONCE: Final = 30  # slots, newest first
_TIER: Final = re.compile(r" \((?:flex|priority|fast|batch|scale)\)$")
_OUTPUT_PER_S: Final = 60.0  # tokens: for calls of which no record says how long they took
_FIRST_S: Final = 0.5
_ROOM: Final = frozenset(
    error.code
    for error in (
        *(replies.RATE_LIMIT_EXCEEDED, replies.QUEUE_FULL, replies.QUEUE_TIMEOUT, replies.REQUEST_TOO_LARGE_FOR_POOL),
        *(replies.CLIENT_RATE_LIMITED, replies.CLIENT_CONCURRENCY, replies.CLIENT_BUDGET_EXHAUSTED),
        *(replies.POOL_CREDIT_EXHAUSTED, replies.POOL_SPEND_LIMIT_REACHED, replies.POOL_DAILY_LIMIT_REACHED),
        *(replies.POOL_NO_USABLE_KEYS, replies.STORE_UNAVAILABLE),
    )
)

_Rows = Mapping[tuple[str, ...], Spent]


def slots_of(since: datetime, until: datetime, now: datetime) -> list[Slot]:
    """The shortest slots there are, the newest first. Raises SourceError."""
    border = ceiling(now - MINUTE.kept, HOUR.size)
    try:
        hours = cover(floor(since, HOUR.size), min(border, until), HOUR.size, now) if since < border else []
        minutes = cover(max(floor(since, MINUTE.size), border), until, MINUTE.size, now)
    except NotKeptError as refused:
        raise SourceError(
            f"--since: usage by the hour is kept for 90 days, and {refused.at:%Y-%m-%d %H:%M} UTC is older"
        ) from None
    return [*reversed(minutes), *reversed(hours)]


async def read_usage(
    store: SpendStore,
    slots: Sequence[Slot],
    known: Known,
    samples: Samples,
    into: Collector,
    *,
    most: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> Record:
    """Requests of these slots (newest first) until there are `most`. Raises StoreLost, SourceError."""
    making = _Making(known, samples, into, random.Random(f"{seed} usage"))
    done = 0
    for first in range(0, len(slots), _AT_ONCE):
        some = slots[first : first + _AT_ONCE]
        used = {slot: rows async for slot, rows in store.used("client", some)}
        refused = {slot: rows async for slot, rows in store.used("refusal", some)}
        for slot in some:
            rows, no = used.get(slot, {}), refused.get(slot, {})
            count = sum(spent.requests for spent in (*rows.values(), *no.values()))
            if making.made + count > most:
                at = f"{slot[1]:%Y-%m-%d %H:%M}"
                into.assume(f"only what came after {at} UTC is replayed: that is {making.made:,} requests (--most)")
                return making.record()
            making.add(slot, rows, no)
        done += len(some)
        progress(done, len(slots))
    return making.record()


class _Making:
    def __init__(self, known: Known, samples: Samples, into: Collector, rng: random.Random) -> None:
        self._known = known
        self._samples = samples
        self._into = into
        self._rng = rng
        self._sized = self._unsized = 0  # requests whose sizes are drawn from like ones, and the others
        self.made = 0
        into.no_waits()

    def add(self, slot: Slot, used: _Rows, refused: _Rows) -> None:
        """`used`: by client and model; `refused`: by client and why."""
        resolution, start = slot
        begin, span_s = start.timestamp(), resolution.size.total_seconds()
        mix: dict[str, list[tuple[str, int]]] = {}  # by client, "": of all: models and how many requests
        for (client, named), spent in used.items():
            if client == PROBES or spent.requests <= 0:
                continue
            model = _TIER.sub("", named)
            if model != OTHER:
                for whose in {"", client}:
                    mix.setdefault(whose, []).append((model, spent.requests))
            self._served(client, model, spent, begin, span_s)
        for (client, why), spent in refused.items():
            code = why.partition(" ")[0]
            if code not in _ROOM:
                self._into.leave_out("refused before they asked for room", spent.requests)
                continue
            mixed = mix.get(client) or mix.get("") or []
            if not mixed:
                self._into.leave_out("refused, in a time in which no model is known", spent.requests)
                continue
            names, weights = zip(*mixed, strict=True)
            for model, count in Counter(self._rng.choices(names, weights, k=spent.requests)).items():
                self._refused(client, model, count, code, begin, span_s)

    def _served(self, client: str, model: str, spent: Spent, begin: float, span_s: float) -> None:
        rng, count = self._rng, spent.requests
        total = spent.prompt_tokens + spent.completion_tokens
        like = self._samples.like(client, model)
        drawn = [like[int(rng.random() * len(like))] for _ in range(count)] if like else []
        parts = [float(one.tokens) for one in drawn] or [rng.expovariate(1.0) for _ in range(count)]
        scale = total / sum(parts) if sum(parts) else 0.0
        price = None if spent.unpriced_requests >= count else spent.exact + spent.estimated
        moments = self._samples.arrivals(client, count, span_s, rng)
        for number, (part, offset) in enumerate(zip(parts, moments, strict=True)):
            tokens = round(part * scale)
            share = part * scale / total if total else 1 / count
            pico = None if price is None else round(price * share)
            if drawn:
                one = drawn[number]
                reserved, images, took_s, priority = round(one.reserved * scale), one.images, one.took_s, one.priority
            else:
                reserved, images, priority = tokens, 0, 0
                took_s = _FIRST_S + spent.completion_tokens * share / _OUTPUT_PER_S
            self._add(client, model, begin + offset, reserved, tokens, images, took_s, pico, priority)
        if drawn:
            self._sized += count
        else:
            self._unsized += count

    def _refused(self, client: str, model: str, count: int, code: str, begin: float, span_s: float) -> None:
        rng, like = self._rng, self._samples.like(client, model)
        for offset in self._samples.arrivals(client, count, span_s, rng):
            one = like[int(rng.random() * len(like))] if like else None
            reserved, images, priority = (one.reserved, one.images, one.priority) if one is not None else (0, 0, 0)
            self._add(client, model, begin + offset, reserved, UNSEEN, images, 0.0, None, priority, code)

    def _add(
        self,
        client: str,
        model: str,
        at: float,
        reserved: int,
        tokens: int,
        images: int,
        took_s: float,
        pico: int | None,
        priority: int,
        code: str = "",
    ) -> None:
        into = self._into
        group = into.name(self._known.group_of(model))
        name = into.name(model)
        who = into.name(client) if client else ""
        self.made += 1
        into.add(
            Demand(at, who, name, "" if group == name else group, reserved, tokens, images, took_s, pico, priority),
            code=code,
        )

    def record(self) -> Record:
        into, samples = self._into, self._samples
        into.assume("usage does not say how long requests waited, nor for which model a refused one was")
        within = "within a minute or hour requests come"
        if samples.shows_bursts():
            into.assume(f"{within} as in the {long(samples.span_s)} that the ring holds")
        else:
            into.assume(f"the ring holds too little to show bursts: {within} evenly at random (Poisson)")
        if self._unsized:
            into.assume(
                f"{self._unsized:,} requests have none like them in the ring: sizes are spread exponentially, each "
                f"reserves what it used, and takes {_FIRST_S:g} s and a second for {_OUTPUT_PER_S:g} tokens of output"
            )
        if self._sized:
            into.assume("sizes and times of calls are spread as in the ring")
        return into.record("Usage")
