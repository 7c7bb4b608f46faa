"""Rules as rows, for `quotapool me` and for operators: what each is about, and in words."""

from __future__ import annotations

from typing import Final

from quotapool.domain.rules import Kind, Measure, Mode, Rule
from quotapool.request.rule_words import words
from quotapool.settings.rules import Budget

_BEYOND: Final = {Mode.SOFT: "soft: serves beyond it and warns", Mode.SHADOW: "shadow: only notes what goes beyond it"}

USUAL_WARNINGS: Final = tuple(Budget.model_fields["warn_at"].default)


def unit_of(rule: Rule) -> str:
    """What its figures count: `usd`, `tokens` or `requests`."""
    return Measure.REQUESTS.value if rule.measure is Measure.CONCURRENT else rule.measure.value


def in_words(rule: Rule) -> str:
    """`$50.00 a month for gpt-5* (soft: serves beyond it and warns; warns at 50 %)`; warnings only where they are not
    the usual ones."""
    further = [_BEYOND[rule.mode]] if rule.mode in _BEYOND else []
    if rule.kind is Kind.BUDGET and rule.warn_at != USUAL_WARNINGS:
        shares = ", ".join(f"{100 * share:.4g} %" for share in rule.warn_at)
        further.append(f"warns at {shares}" if shares else "no warnings")
    return words(rule) + (f" ({'; '.join(further)})" if further else "")
