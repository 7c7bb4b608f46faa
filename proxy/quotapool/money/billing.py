"""What upstream charges for an attempt, as far as it is known. The books and clients' budgets count the same."""

from __future__ import annotations

from typing import Final

from quotapool.domain.quantities import Certainty, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.money.price_list import PriceList, price

_BILLED_WITHOUT_USAGE: Final = frozenset({"audio", "images", "videos"})  # answers without usage that cost money anyway
_CANCELLED: Final = "cancelled"
_TIMEOUT: Final = "timeout"


def billed_usage(attempt: AttemptRecord, record: RequestRecord) -> Usage | None:
    """The usage to price; None: upstream did no work, so it costs nothing. An answer that was cut short counts for its
    prompt as estimated, and for what was seen of it."""
    usage = attempt.usage
    if usage is None or usage.certainty is Certainty.NOTHING:
        return None
    if usage.certainty is Certainty.EXACT:
        return usage
    if not _may_have_cost(attempt, record, usage):
        return None
    return Usage(
        Certainty.AT_LEAST,
        usage.prompt or attempt.prompt_estimate,
        usage.completion,
        usage.cached_prompt,
        details=usage.details,
    )


def price_of(prices: PriceList, model: str, tier: str, usage: Usage) -> int | None:
    """Picodollars, with what the answering model called as tools; None if a part of it has no known price."""
    card, _ = prices.card(model, tier)
    total = None if card is None else price(card, usage)
    for name, used in usage.by_tools:
        card, _ = prices.card(name, used.tier)
        part = None if card is None else price(card, used)
        total = None if total is None or part is None else total + part
    return total


def _may_have_cost(attempt: AttemptRecord, record: RequestRecord, usage: Usage) -> bool:
    """Whether an attempt without exact usage may have cost money: upstream began it, for a model."""
    if attempt.status == 0:  # upstream continues if the client left or we gave up; not if the connection broke
        return bool(attempt.prompt_estimate) and (attempt.outcome == _CANCELLED or attempt.reason == _TIMEOUT)
    if attempt.status >= 300:
        return False
    if record.endpoint in _BILLED_WITHOUT_USAGE:
        return record.method == "POST"
    return bool(record.model and (attempt.prompt_estimate or usage.total))
