"""What clients could do to need less of the pool, as the admin API, the page and `quotapool advise` show it."""

from __future__ import annotations

from typing import Literal

import msgspec


class AdviceRow(msgspec.Struct):
    """`usd_per_month`: what it would save; null: no money. `tpm`, `rpm`: how much more the pool could do within its
    limits for the model (0.38: 38 % more); null: nothing. `facts`: the counts it is computed from; `how` says how."""

    kind: Literal["repeats", "maximum", "cache_key", "single_embeddings", "can_wait", "snapshot"]
    client: str
    model: str
    usd_per_month: float | None
    tpm: float | None
    rpm: float | None
    facts: dict[str, float]
    advice: str
    how: str


class AdviceRows(msgspec.Struct):
    """Of the last seven days, those first that save most. `enabled`: requests are being noted; `days`: how long they
    have been, seven at most; `requests`: how many were noted."""

    enabled: bool
    days: float
    requests: int
    rows: list[AdviceRow]
