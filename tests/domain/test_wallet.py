"""Wallets: conservation of money, the soonest expiry first, and pace, all by hand arithmetic."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.wallet import CREDIT_STOP, MONTHLY_STOP, PICO, Grant, burn_rate, wallet

TODAY = date(2026, 11, 15)
NOON = datetime(2026, 11, 15, 12, tzinfo=UTC)


def usd(amount: float) -> int:
    return round(amount * PICO)


def ago(days: int) -> date:
    return TODAY - timedelta(days)


def ahead(days: int) -> date:
    return TODAY + timedelta(days)


# ---- examples


def test_the_grant_that_expires_soonest_is_spent_first():
    later, sooner = Grant(usd(10), ago(9), ahead(300)), Grant(usd(5), ago(9), ahead(20))
    seen = wallet([later, sooner], {ago(1): usd(4)}, NOON)
    assert [(balance.grant, balance.left) for balance in seen.balances] == [(sooner, usd(1)), (later, usd(10))]
    assert (seen.remaining, seen.next_expiry) == (usd(11), ahead(20))
    # Given three dollars more, I expect the sooner one used up and two dollars taken from the later one.
    seen = wallet([later, sooner], {ago(1): usd(4), TODAY: usd(3)}, NOON)
    assert [(balance.grant, balance.left) for balance in seen.balances] == [(later, usd(8))]
    assert seen.next_expiry == ahead(300)


def test_what_was_not_spent_by_its_last_day_has_expired():
    old = Grant(usd(5), ago(30), TODAY)
    seen = wallet([old], {ago(2): usd(2)}, NOON)
    assert (seen.remaining, seen.used, seen.expired) == (0, usd(2), usd(3))
    # The day before, it was still there.
    assert wallet([old], {ago(2): usd(2)}, NOON - timedelta(1)).remaining == usd(3)


@pytest.mark.parametrize("microsecond", [0, 1, 999_999])
def test_credit_that_will_not_be_spent_in_time_is_empty_when_its_last_day_begins(microsecond):
    # Given 100 dollars, of which one is spent a day, if they expire in three days, I expect them gone just then.
    now = NOON.replace(microsecond=microsecond)
    seen = wallet([Grant(usd(100), ago(9), ahead(3))], {ago(1): usd(1)}, now)
    assert seen.empty_at == datetime(2026, 11, 18, tzinfo=UTC)


def test_spending_from_before_a_grant_is_not_taken_from_it():
    seen = wallet([Grant(usd(5), ago(1))], {ago(9): usd(100), ago(1): usd(1)}, NOON)
    assert (seen.remaining, seen.uncovered) == (usd(4), usd(100))


def test_what_upstream_served_without_a_known_grant_does_not_reduce_the_next_top_up():
    grants = [Grant(usd(5), ago(9))]
    assert wallet(grants, {ago(3): usd(8)}, NOON).remaining == 0
    assert wallet([*grants, Grant(usd(10), TODAY)], {ago(3): usd(8)}, NOON).remaining == usd(10)


def test_a_grant_does_not_pay_what_its_first_day_had_cost_before_it_came():
    spent = {TODAY: usd(8)}
    grants = [Grant(usd(5), ago(9)), Grant(usd(10), TODAY, None, usd(7))]
    # The first seven dollars were there before it: five of the old grant, two of nobody's. It pays the eighth.
    seen = wallet(grants, spent, NOON)
    assert (seen.remaining, seen.uncovered) == (usd(9), usd(2))
    # Given an expiry sooner than the old one's, it still does not pay what came before it.
    soon = [Grant(usd(50), ago(9), ahead(300)), Grant(usd(10), TODAY, ahead(9), usd(7))]
    assert [(b.grant, b.left) for b in wallet(soon, spent, NOON).balances] == [(soon[1], usd(9)), (soon[0], usd(43))]
    # The next day it pays like any other.
    assert wallet(grants, spent | {ahead(1): usd(3)}, NOON + timedelta(1)).remaining == usd(6)


def test_a_grant_that_has_not_begun_is_not_there_yet():
    seen = wallet([Grant(usd(5), ahead(1))], {TODAY: usd(1)}, NOON)
    assert (seen.remaining, seen.granted, seen.uncovered) == (0, 0, usd(1))


def test_without_grants_nothing_is_known_of_the_credit():
    seen = wallet([], {TODAY: usd(1)}, NOON, month_limit=usd(10))
    assert (seen.remaining, seen.empty_at, seen.next_expiry) == (None, None, None)
    assert (seen.month_spent, seen.month_limit) == (usd(1), usd(10))


def test_the_month_counts_from_its_first_day_in_utc():
    spent = {date(2026, 10, 31): usd(50), date(2026, 11, 1): usd(2), TODAY: usd(3)}
    assert wallet([], spent, NOON, month_limit=usd(10)).month_spent == usd(5)
    assert wallet([], spent, datetime(2026, 12, 1, tzinfo=UTC), month_limit=usd(10)).month_spent == 0


def test_the_pace_weighs_today_seven_and_yesterday_six():
    # Half of today is over: (7*3 + 6*2) dollars over (7/2 + 6) days = 33/9.5.
    assert burn_rate({TODAY: usd(3), ago(1): usd(2)}, NOON) == usd(33) * 2 // 19
    # A full week at one dollar a day, and half a dollar by noon, is one dollar a day.
    assert burn_rate({ago(n): usd(1) for n in range(1, 7)} | {TODAY: usd(0.5)}, NOON) == usd(1)
    # What is older than a week does not count, and an idle pool has no pace.
    assert burn_rate({ago(30): usd(100), ago(20): usd(100)}, NOON) == 0
    assert burn_rate({}, NOON) == 0


def test_the_day_it_is_empty_comes_from_the_pace():
    week = {ago(n): usd(1) for n in range(1, 7)} | {TODAY: usd(0.5)}
    seen = wallet([Grant(usd(8.5), ago(9))], week, NOON)  # 8.5 - 6.5 leaves two dollars, at one a day
    assert (seen.remaining, seen.burn_per_day) == (usd(2), usd(1))
    assert seen.empty_at == NOON + timedelta(2)
    assert seen.expiring_unused == 0
    assert seen.urgency == 1.0


def test_dollars_that_will_expire_are_reported_before_they_do():
    # One dollar a day until midnight in 2.5 days spends 2.50 of the 10 left; 7.50 expire.
    week = {ago(n): usd(1) for n in range(1, 7)} | {TODAY: usd(0.5)}
    seen = wallet([Grant(usd(16.5), ago(9), ahead(3))], week, NOON)
    assert (seen.remaining, seen.expiring_unused) == (usd(10), usd(7.5))
    assert seen.empty_at == datetime(2026, 11, 18, tzinfo=UTC)
    assert seen.urgency == 4.0  # ten dollars in two and a half days


def test_an_idle_account_loses_all_that_expires_and_keeps_the_rest():
    seen = wallet([Grant(usd(3), ago(9), ahead(5)), Grant(usd(4), ago(9))], {}, NOON)
    assert (seen.expiring_unused, seen.empty_at, seen.urgency) == (usd(3), None, 8.0)
    seen = wallet([Grant(usd(3), ago(9), ahead(5))], {}, NOON)
    assert seen.empty_at == datetime(2026, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("spent", "stop_at", "reason"),
    [
        (97.99, 0.98, ""),
        (98.0, 0.98, CREDIT_STOP),  # to the dollar: a share of 0.98 is not 0.97999…
        (200.0, 0.98, CREDIT_STOP),
        (200.0, None, ""),  # nobody asked for it: upstream says when it is over
        (99.99, 1.0, ""),
        (100.0, 1.0, CREDIT_STOP),
    ],
)
def test_credit_stops_at_the_share_that_was_set(spent, stop_at, reason):
    assert wallet([Grant(usd(100))], {TODAY: usd(spent)}, NOON).stop_reason(stop_at) == reason


def test_the_month_stops_at_the_share_of_its_limit_and_goes_on_with_the_next():
    spent = {TODAY: usd(49)}
    assert wallet([], spent, NOON, month_limit=usd(50)).stop_reason(0.98) == MONTHLY_STOP
    assert wallet([], spent, datetime(2026, 12, 1, tzinfo=UTC), month_limit=usd(50)).stop_reason(0.98) == ""


def test_a_top_up_counts_in_full_after_many_that_are_used_up():
    grants = [Grant(usd(100), ago(40 - n)) for n in range(40)]
    spent = {ago(1): usd(4000)}
    assert wallet(grants, spent, NOON).stop_reason(0.98) == CREDIT_STOP
    assert wallet([*grants, Grant(usd(20), TODAY)], spent, NOON).stop_reason(0.98) == ""


# ---- laws

amounts = st.integers(0, 10**15)
days = st.integers(-40, 40).map(ahead)
grants_ = st.lists(
    st.builds(Grant, amounts, st.none() | days, st.none() | days, amounts).filter(
        lambda g: g.granted_on is None or g.expires_on is None or g.granted_on < g.expires_on
    ),
    max_size=6,
)
spendings = st.dictionaries(days, amounts, max_size=12)
moments = st.integers(0, 86_399).map(lambda s: datetime(2026, 11, 15, tzinfo=UTC) + timedelta(seconds=s))


@given(grants_, spendings, moments)
def test_no_money_is_made_or_lost(grants, spent, now):
    seen = wallet(grants, spent, now)
    assert seen.granted == seen.used + seen.expired + (seen.remaining or 0)
    assert sum(amount for day, amount in spent.items() if day <= TODAY) == seen.used + seen.uncovered
    assert seen.granted == sum(g.amount for g in grants if g.granted_on is None or g.granted_on <= TODAY)


@given(grants_, spendings, moments)
def test_nothing_is_ever_negative(grants, spent, now):
    seen = wallet(grants, spent, now, month_limit=10**13)
    values = [seen.remaining or 0, seen.used, seen.expired, seen.uncovered, seen.burn_per_day]
    assert all(value >= 0 for value in values)
    assert 0 <= seen.expiring_unused <= (seen.remaining or 0)
    assert all(0 < balance.left <= balance.grant.amount for balance in seen.balances)
    assert seen.empty_at is None or seen.empty_at >= now
    assert 1.0 <= seen.urgency <= 8.0


@given(grants_, spendings, st.integers(-40, 0).map(ahead), amounts, moments)
def test_who_spends_more_has_not_more_left(grants, spent, day, more, now):
    before = wallet(grants, spent, now)
    after = wallet(grants, {**spent, day: spent.get(day, 0) + more}, now)
    assert (after.remaining or 0) <= (before.remaining or 0)
    assert after.month_spent >= before.month_spent


@given(grants_, spendings, moments)
def test_a_later_grant_is_touched_only_when_the_sooner_ones_that_were_there_are_used_up(grants, spent, now):
    everywhere = [Grant(g.amount, None, g.expires_on) for g in grants]  # all begun: nothing excuses the order
    alive = [g for g in everywhere if not g.is_over(TODAY)]
    balances = wallet(everywhere, spent, now).balances
    touched = [p for p in balances if p.left < p.grant.amount]
    for balance in touched:
        sooner = [p for p in balances if (p.grant.expires_on or date.max) < (balance.grant.expires_on or date.max)]
        assert not sooner
    assert len(balances) <= len(alive)


@given(grants_, spendings, moments)
def test_the_order_in_which_grants_are_written_does_not_matter(grants, spent, now):
    forward, backward = wallet(grants, spent, now), wallet(grants[::-1], spent, now)
    assert (forward.remaining, forward.expired, forward.uncovered) == (
        backward.remaining,
        backward.expired,
        backward.uncovered,
    )
    assert (forward.expiring_unused, forward.empty_at) == (backward.expiring_unused, backward.empty_at)
