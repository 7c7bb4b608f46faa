"""The admin API's handlers of what the first page shows: the pool now, the last hour, this month's savings."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from quotapool.admin.http import Call, Handler
from quotapool.domain.wallet import usd
from quotapool.money.cache_savings import CacheSavings, cache_savings
from quotapool.money.price_list import PriceList
from quotapool.money.savings import Saved, savings
from quotapool.money.spend_store import SpendStore
from quotapool.observe.samples import EVERY_S, Chunk, History, SampleStore, Track
from quotapool.operators.cache import sums_of
from quotapool.reports.forecasts import used_in_minute
from quotapool.reports.now import NowReader
from quotapool.shapes.now import SampleQuery, Samples, SampleSeries, Savings


class NowHandlers:
    """`prices`: today's."""

    def __init__(
        self, reader: NowReader, samples: SampleStore, spend: SpendStore, prices: Callable[[], PriceList]
    ) -> None:
        self._reader = reader
        self._samples = samples
        self._spend = spend
        self._prices = prices

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        return {"show_now": self._show_now, "show_samples": self._show_samples, "show_savings": self._show_savings}

    async def _show_now(self, _: Call) -> Any:
        return await self._reader.read()

    async def _show_samples(self, call: Call) -> Any:
        query: SampleQuery = call.query
        now = time.time()
        # The minute before the first one tells what was used in the minute before the first samples.
        chunks = await self._samples.chunks(now, query.minutes + 1)
        body = await asyncio.to_thread(_encoded, chunks, query.model, now - query.minutes * 60)
        return msgspec.Raw(body)

    async def _show_savings(self, _: Call) -> Any:
        now = datetime.now(UTC)
        return savings_of(await savings(self._spend, self._prices(), now), await cache_savings(self._spend, now))


def _encoded(chunks: Iterable[Chunk], model: str | None, since: float) -> bytes:
    """Up to 5 MB, for a thread."""
    return msgspec.json.encode(samples_of(chunks, model, since))


def samples_of(chunks: Iterable[Chunk], model: str | None, since: float) -> Samples:
    """The samples from `since` (Unix seconds) on."""
    history = History()
    for chunk in chunks:
        history.add(chunk, model)
    first = next((n for n, at in enumerate(history.at) if at >= since), len(history.at))
    tracks = sorted(history.tracks.items())
    series = [SampleSeries(*name, *_lists(track, history.spans_s, first)) for name, track in tracks]
    return Samples(EVERY_S, [round(at, 3) for at in history.at[first:]], history.waiting[first:], series)


def _lists(track: Track, spans_s: list[float], first: int) -> Iterable[list[float | None]]:
    yield _known(track.remaining[first:])
    yield _known(track.limit[first:])
    yield [None if used is None else round(used, 1) for used in used_in_minute(spans_s, track.used)[first:]]


def _known(values: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(value) else round(value, 1) for value in values]


def savings_of(saved: Saved, cache: CacheSavings) -> Savings:
    return Savings(
        since=f"{saved.since:%Y-%m-%dT%H:%M:%SZ}",
        rescued=saved.rescued,
        queued=saved.queued,
        cached_tokens=saved.cached_tokens,
        cached_usd=usd(saved.cached_pico),
        pool_cache=sums_of(cache.month),
        pool_cache_today=sums_of(cache.today),
    )
