"""Budgets as they are written on a command line: what each text means, and what is said of one that means nothing."""

from __future__ import annotations

import re

import pytest
from quotapool.domain.periods import Per
from quotapool.domain.rules import Measure, Mode
from quotapool.domain.wallet import PICO
from quotapool.settings.budget_text import limits_of, parse_budget, parse_budgets
from quotapool.settings.rules import Budget, RateLimits


@pytest.mark.parametrize(("text", "measure", "limit", "per", "models", "mode", "warn_at"), [
    ("usd=50/month", Measure.USD, 50 * PICO, Per.MONTH, "", Mode.HARD, (0.8, 0.95)),
    ("usd=$0.25/hour", Measure.USD, 0.25 * PICO, Per.HOUR, "", Mode.HARD, (0.8, 0.95)),
    ("tokens=2M/day models=gpt-5* mode=soft warn_at=0.8,0.95",
     Measure.TOKENS, 2_000_000, Per.DAY, "gpt-5*", Mode.SOFT, (0.8, 0.95)),
    ("requests=1000/hour", Measure.REQUESTS, 1000, Per.HOUR, "", Mode.HARD, (0.8, 0.95)),
    ("  mode=shadow   requests=1.5k/total ", Measure.REQUESTS, 1500, Per.TOTAL, "", Mode.SHADOW, (0.8, 0.95)),
    ("tokens=500k/minute warn_at=0.5", Measure.TOKENS, 500_000, Per.MINUTE, "", Mode.HARD, (0.5,)),
    ("usd=1/week warn_at=", Measure.USD, PICO, Per.WEEK, "", Mode.HARD, ()),
    ("usd=1/day models=gpt-4o=mini", Measure.USD, PICO, Per.DAY, "gpt-4o=mini", Mode.HARD, (0.8, 0.95)),
])  # fmt: skip
def test_a_budget_is_what_its_text_says(text, measure, limit, per, models, mode, warn_at):
    rule = Budget.model_validate(parse_budget(text)).rule
    assert (rule.measure, rule.limit, rule.per, rule.models, rule.mode, rule.warn_at) == (
        *(measure, limit, per, models, mode),
        warn_at,
    )


@pytest.mark.parametrize(("text", "problem"), [
    ("", "needs an amount and its period, as in usd=50/month"),
    ("models=gpt-5*", "needs an amount and its period"),
    ("50/month", "'50/month' is no part of a budget"),
    ("usd=50", "usd needs a period: minute, hour, day, week, month or total"),
    ("eur=50/month", "'eur=50/month' is no part of a budget"),
    ("usd=/month", "usd: must be an amount in dollars, such as 50 or 2k"),
    ("usd=fifty/month", "usd: must be an amount in dollars, such as 50 or 2k"),
    ("usd=0/month", "usd: must be greater than 0"),
    ("usd=nan/month", "usd: "),
    ("tokens=-5/day", "tokens: must be greater than 0"),
    ("tokens=2X/day", "tokens: must be a number, such as 1000, 500k or 2M"),
    ("usd=50/fortnight", "per: must be one of 'minute', 'hour', 'day', 'week', 'month' or 'total'"),
    ("usd=50/month/day", "per: must be one of"),
    ("usd=50/month tokens=1/day", "needs one of usd, tokens and requests"),
    ("usd=50/month usd=60/month", "needs one of usd, tokens and requests"),
    ("usd=50/month mode=hard mode=soft", "each option once"),
    ("usd=50/month mode=strict", "mode: must be one of 'hard', 'soft' or 'shadow'"),
    ("usd=50/month warn_at=80", "warn_at[0]: must be at most 1"),
    ("usd=50/month warn_at=a,b", "warn_at[0]: must be a number"),
    ("usd=50/month please", "'please' is no part of a budget"),
])  # fmt: skip
def test_a_text_that_is_no_budget_is_told_why_in_one_line(text, problem):
    with pytest.raises(ValueError, match=re.escape(problem)) as raised:
        parse_budget(text)
    assert "\n" not in str(raised.value)


def test_given_budgets_are_all_there_are_and_nothing_is_none():
    assert parse_budgets(["usd=5/day", "requests=10/hour"]) == [
        {"usd": "5", "per": "day"},
        {"requests": "10", "per": "hour"},
    ]
    assert parse_budgets([""]) == parse_budgets([" "]) == []
    with pytest.raises(ValueError, match="--budget '': needs an amount"):
        parse_budgets(["usd=5/day", ""])


def test_limits_are_counts_and_nothing_takes_one_back():
    given = limits_of({"rpm": "60", "tpm": " 2M ", "rpd": None, "tpd": "", "concurrent": None})
    assert given == {"rpm": "60", "tpm": "2M", "tpd": None}
    limits = RateLimits.model_validate(given)
    assert (limits.rpm, limits.tpm, limits.rpd, limits.tpd) == (60.0, 2_000_000.0, None, None)
