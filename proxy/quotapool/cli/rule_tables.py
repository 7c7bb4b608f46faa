"""Limits and budgets as tables: what is used of each, what is left, and when it resets."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Final

from rich.table import Table

from quotapool.cli import tables
from quotapool.request.rule_rows import RuleRow

LEVEL: Final = ("tightest rule", "used", "resets")
"""Titles of the columns that tell how a client or a team stands."""


def rules_table(rules: Sequence[RuleRow]) -> Table:
    """All of them, one a line."""
    figures = ("used", "held", "left", "%")
    made = tables.table("of", "may use", *figures, "resets", right=figures)
    for rule in rules:
        numbers = (figure(rule, n) for n in (rule.used, rule.held, rule.left))
        made.add_row(rule.subject, said(rule), *numbers, percent(rule), tables.moment(rule.resets_at))
    return made


def level_of(rules: Sequence[RuleRow]) -> tuple[str, str, str]:
    """The cells of `LEVEL`: what most is used of, how much, and when it resets."""
    rule = tightest(rules)
    if rule is None:
        return "", "", ""
    resets = "" if rule.resets_at is None else f"in {tables.span(rule.resets_at - time.time())}"
    return said(rule), percent(rule), resets


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
