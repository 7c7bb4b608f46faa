"""An account's credit as `check` and the admin API show it."""

from __future__ import annotations

from datetime import UTC, date, datetime

from quotapool.domain.wallet import PICO, Grant, wallet
from quotapool.money.credit_report import credit_row

NOW = datetime(2026, 11, 15, 12, tzinfo=UTC)


def test_a_row_has_the_credit_in_usd_and_its_dates():
    # Given $70 of credit until December, of which $7 a day were spent for seven days, and a limit of $100 a month
    spent = {date(2026, 11, day): 7 * PICO for day in range(8, 15)}
    grants = [Grant(70 * PICO, date(2026, 11, 1), date(2026, 12, 1))]
    row = credit_row(wallet(grants, spent, NOW, month_limit=100 * PICO))
    assert (row["remaining_usd"], row["month_spent_usd"], row["month_limit_usd"]) == (21, 49, 100)
    assert row["next_expiry"] == "2026-12-01"
    assert set(row) == {
        *("remaining_usd", "month_spent_usd", "month_limit_usd", "per_day_usd", "expiring_unused_usd"),
        *("empty_at", "next_expiry"),
    }


def test_unknown_values_are_left_out():
    assert credit_row(wallet([], {}, NOW)) == {"month_spent_usd": 0, "per_day_usd": 0}
