"""Rules as rows, for `quotapool me` and for operators: what each is about, in words, and how it stands."""

from __future__ import annotations

from typing import Final

import msgspec

from quotapool.domain.rule_words import words
from quotapool.domain.rules import Kind, Measure, Mode, Rule
from quotapool.domain.wallet import PICO
from quotapool.ledger.rules import TEAM
from quotapool.ledger.stored_rules import Level
from quotapool.settings.rules import Budget

USUAL_WARNINGS: Final = tuple(Budget.model_fields["warn_at"].default)
_BEYOND: Final = {Mode.SOFT: "soft: serves beyond it and warns", Mode.SHADOW: "shadow: only notes what goes beyond it"}


class RuleRow(msgspec.Struct, kw_only=True):
    """A limit or budget and how it stands. `subject`: whose it is, `client app` or `team red`. Figures in `unit`, USD
    as decimal numbers; `held`: by requests under way. `resets_at`: when all of it is there again, Unix seconds; null:
    there is nothing to wait for, or it never does."""

    id: str
    words: str
    subject: str
    unit: str
    mode: str
    limit: float
    used: float
    held: float
    left: float
    resets_at: float | None

    @property
    def share(self) -> float:
        """How much of it is taken, 1: all."""
        return (self.used + self.held) / self.limit


def row_of(subject: str, level: Level) -> RuleRow:
    """`subject`: `c/<client>` or `t/<team>`."""
    rule = level.rule
    kind = "team" if subject.startswith(TEAM) else "client"
    return RuleRow(
        id=rule.id,
        words=words(rule),
        subject=f"{kind} {subject.partition('/')[2]}",
        unit=unit_of(rule),
        mode=rule.mode.value,
        limit=_figure(rule, rule.limit),
        used=_figure(rule, level.used),
        held=_figure(rule, level.held),
        left=_figure(rule, level.left),
        resets_at=None if level.resets_at is None else round(level.resets_at, 3),
    )


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


def _figure(rule: Rule, amount: float) -> float:
    """Exact for budgets; what a rate refills by the second is rounded."""
    if rule.measure is Measure.USD:
        return round(amount / PICO, 12)
    return int(amount) if amount == int(amount) else round(amount, 3)
