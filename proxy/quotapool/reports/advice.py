"""The pool's advice: the notes of the last days, at today's prices."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime, timedelta

from quotapool.advice.findings import LEAST_REQUESTS, WINDOW_DAYS, Finding, Week, findings, week_of
from quotapool.advice.note_store import NoteStore
from quotapool.domain.bucket import TRUSTED
from quotapool.ledger.stored_buckets import StoredBuckets
from quotapool.money.price_list import PriceList
from quotapool.settings import Settings
from quotapool.shapes.advice import AdviceRow, AdviceRows


async def advice(
    notes: NoteStore, buckets: StoredBuckets, settings: Settings, prices: PriceList, now: datetime
) -> AdviceRows:
    """`now` in UTC. Raises StoreError."""
    today = now.date()
    week = week_of(await notes.days(today - timedelta(WINDOW_DAYS - 1), today), now.timestamp())
    corrected = await _corrected(buckets, settings, week)
    found = findings(week, prices, cached_for_s=settings.cache.ttl, corrected=corrected)
    requests = sum(row.requests for row in week.sums.values())
    return AdviceRows(settings.advice.enabled, round(week.days, 2), requests, [_row(one) for one in found])


async def _corrected(buckets: StoredBuckets, settings: Settings, week: Week) -> set[str]:
    """The models whose answers show that upstream gives back what was reserved and not used."""
    models = {model for (_, model), row in week.sums.items() if row.limited >= LEAST_REQUESTS}
    if not models:
        return set()
    leans: dict[str, list[float]] = defaultdict(list)
    async for (_, group), bucket in buckets.each():
        leans[group].append(bucket.lean)
    return {model for model in models if _mean(leans[settings.group_of(model)]) < TRUSTED}


def _mean(values: Iterable[float]) -> float:
    known = list(values)
    return sum(known) / len(known) if known else 0.0


def _row(one: Finding) -> AdviceRow:
    usd = None if one.usd_month is None else round(one.usd_month, 2)
    return AdviceRow(
        one.kind, one.client, one.model, usd, _share(one.tpm), _share(one.rpm), one.facts, one.advice, one.how
    )


def _share(share: float | None) -> float | None:
    return None if share is None else round(share, 4)
