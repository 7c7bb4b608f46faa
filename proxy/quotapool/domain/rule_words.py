"""Limits and budgets in words."""

from __future__ import annotations

import math
from typing import Final

from quotapool.domain.periods import Per
from quotapool.domain.rules import Kind, Measure, Rule
from quotapool.domain.wallet import PICO

_UNITS: Final = {Measure.REQUESTS: "requests", Measure.TOKENS: "tokens", Measure.CONCURRENT: "requests at once"}
_MINUTE_S: Final = 60.0


def amount(measure: Measure, value: float) -> str:
    """`$1.25`, `1,000 tokens`."""
    if measure is not Measure.USD:
        return f"{math.ceil(value):,} {_UNITS[measure]}"
    whole, _, part = f"{value / PICO:,.6f}".partition(".")
    return f"${whole}.{part.rstrip('0'):0<2}"


def words(rule: Rule) -> str:
    """`$50.00 a month for gpt-5*`, `60 requests a minute`."""
    about = f" for {rule.models}" if rule.models else ""
    if rule.kind is Kind.RATE:
        return f"{amount(rule.measure, rule.limit)} a {'minute' if rule.period_s <= _MINUTE_S else 'day'}{about}"
    if rule.kind is Kind.SLOTS:
        return f"{amount(rule.measure, rule.limit)}{about}"
    return f"{amount(rule.measure, rule.limit)} {'in total' if rule.per is Per.TOTAL else f'a {rule.per}'}{about}"
