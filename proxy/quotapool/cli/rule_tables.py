"""Limits and budgets as tables: what is used of each, what is left, and when it resets."""

from __future__ import annotations

import math
from collections.abc import Sequence

from rich.table import Table

from quotapool.cli import tables
from quotapool.request.rule_rows import RuleRow


def rules_table(rules: Sequence[RuleRow]) -> Table:
    """All of them, one a line."""
    figures = ("used", "held", "left", "limit", "%")
    made = tables.table("of", "may use", *figures, "resets", right=figures)
    for rule in rules:
        numbers = (figure(rule, n) for n in (rule.used, rule.held, rule.left, rule.limit))
        made.add_row(rule.subject, said(rule), *numbers, percent(rule), tables.moment(rule.resets_at))
    return made


def tightest(rules: Sequence[RuleRow]) -> RuleRow | None:
    """The one of which the largest share is taken. Rules that refuse come before those that only warn."""
    return max(rules, key=lambda rule: (rule.mode == "hard", rule.share), default=None)


def said(rule: RuleRow) -> str:
    """In words, with its mode if it refuses nothing."""
    return rule.words if rule.mode == "hard" else f"{rule.words} ({rule.mode})"


def percent(rule: RuleRow) -> str:
    """The share that is used or held, never shown as all before it is."""
    share = rule.share * 100
    return f"{math.floor(share) if share < 100 else round(share)} %"


def figure(rule: RuleRow, amount: float) -> str:
    """`1,000`, `$1.25`, `$0.000150`."""
    if rule.unit != "usd":
        return f"{amount:,.10g}"
    return f"${amount:,.2f}" if amount == round(amount, 2) else f"${amount:,.6f}"
