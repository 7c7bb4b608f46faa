"""How much of a limit is used, for people: shares that do not flatter, money as money, the tightest first."""

from __future__ import annotations

import time

import pytest
from quotapool.cli.rule_tables import figure, level_of, percent, said, tightest
from quotapool.domain.periods import Per
from quotapool.domain.rules import Kind, Measure, Mode, Rule
from quotapool.domain.wallet import PICO
from quotapool.ledger.stored_rules import Level
from quotapool.request.rule_rows import RuleRow, in_words, row_of

BUDGET = Rule("usd/month", Kind.BUDGET, Measure.USD, 50 * PICO, per=Per.MONTH, warn_at=(0.8, 0.95))


def row(used: float = 0, held: float = 0, limit: float = 100, **more) -> RuleRow:
    given = {"id": "tokens/day", "words": "w", "subject": "client app", "unit": "tokens", "mode": "hard", **more}
    return RuleRow(**given, used=used, held=held, limit=limit, left=limit - used - held, resets_at=None)


@pytest.mark.parametrize(
    ("used", "held", "shown"),
    [(0, 0, "0 %"), (50, 25, "75 %"), (99.99, 0, "99 %"), (100, 0, "100 %"), (150, 0, "150 %")],
)
def test_a_share_is_all_only_when_all_is_taken(used, held, shown):
    assert percent(row(used, held)) == shown


def test_the_tightest_is_the_fullest_of_those_that_refuse():
    fullest, soft, empty = row(60), row(90, mode="soft"), row(1)
    assert tightest([empty, soft, fullest]) is fullest
    assert tightest([soft]) is soft
    assert tightest([]) is None


@pytest.mark.parametrize(
    ("unit", "amount", "shown"),
    [("usd", 1.25, "$1.25"), ("usd", 0.00015, "$0.000150"), ("usd", 1234.5, "$1,234.50"),
     ("tokens", 2_000_000, "2,000,000"), ("requests", 0.25, "0.25"), ("tokens", 0, "0")],
)  # fmt: skip
def test_figures_are_readable(unit, amount, shown):
    assert figure(row(unit=unit), amount) == shown


def test_a_rule_that_refuses_nothing_says_so():
    assert said(row(mode="soft")) == "w (soft)"
    assert in_words(BUDGET) == "$50.00 a month"
    soft = Rule("tokens/day", Kind.BUDGET, Measure.TOKENS, 1000, Mode.SOFT, 0.0, Per.DAY, "gpt-5*", (0.5,))
    assert in_words(soft) == "1,000 tokens a day for gpt-5* (soft: serves beyond it and warns; warns at 50 %)"


def test_money_is_in_dollars_to_the_last_picodollar():
    made = row_of("t/red", Level(BUDGET, 1_234_567_890_123.0, 1.0, 48_765_432_109_876.0, 1.5))
    assert (made.used, made.held, made.left, made.limit) == (1.234567890123, 1e-12, 48.765432109876, 50.0)
    assert (made.subject, made.unit, made.words) == ("team red", "usd", "$50.00 a month")


def test_a_list_tells_of_the_tightest_rule_and_when_it_resets():
    assert level_of([]) == ("", "", "")
    assert level_of([row(1), row(50, 25)]) == ("w", "75 %", "")
    resets = row(10)
    resets.resets_at = time.time() + 7_300
    assert level_of([resets]) == ("w", "10 %", "in 2 h")
