"""Our spend compared with OpenAI's costs, by hand: what is equal, what differs, and what may explain it."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

import pytest
from quotapool.money.spent import Spent
from quotapool.openai_admin.client import KeyCost, KeyUsage
from quotapool.openai_admin.collect import Collected
from quotapool.openai_admin.reconcile import reconcile

USD = 10**12  # picodollars
MONDAY, TUESDAY = date(2026, 11, 16), date(2026, 11, 17)
LATER = date(2026, 11, 22)
ACCOUNTS = {"alpha": "acme", "beta": "acme", "gamma": "other"}


def collected(**more):
    return Collected(key_ids={"key_1": "alpha", "key_2": "beta"}, projects={"proj_acme": "acme"}, **more)


def compare(our_spend, costs, usage=(), *, compared=("acme",), today=LATER, known=None):
    return reconcile(our_spend, costs, usage, known or collected(), ACCOUNTS, compared, today)


def cost(day, key, usd):
    return KeyCost(day, "proj_acme", key, Decimal(usd))


def test_equal_amounts_need_no_explanation():
    our_spend = {
        MONDAY: {"alpha": Spent(exact=USD, probes=USD // 4, requests=3)},
        TUESDAY: {"alpha": Spent(exact=1_234_000_000, requests=1), "beta": Spent(exact=2 * USD, requests=9)},
    }
    costs = [cost(MONDAY, "key_1", "1.25"), cost(TUESDAY, "key_1", "0.001234"), cost(TUESDAY, "key_2", "2")]
    result = compare(our_spend, costs)
    assert (result.ours, result.theirs) == (3_251_234_000_000, 3_251_234_000_000)
    assert (result.difference, result.percent, result.not_compared) == (0, 0, 0)
    assert result.reasons == []
    assert [(line.day, line.key, line.difference) for line in result.rows] == [
        (MONDAY, "alpha", 0), (TUESDAY, "alpha", 0), (TUESDAY, "beta", 0),
    ]  # fmt: skip


def test_the_difference_is_in_usd_and_in_percent_of_theirs():
    result = compare({MONDAY: {"alpha": Spent(exact=3 * USD, requests=3)}}, [cost(MONDAY, "key_1", "4")])
    assert (result.difference, result.percent) == (-USD, -25)
    assert (result.rows[0].difference, result.rows[0].percent) == (-USD, -25)
    assert any("storage" in reason and "WebRTC" in reason for reason in result.reasons)


def test_differences_that_cancel_out_are_still_explained():
    our_spend = {MONDAY: {"alpha": Spent(exact=USD), "beta": Spent(exact=USD)}}
    result = compare(our_spend, [cost(MONDAY, "key_1", "2")])
    assert result.difference == 0
    assert [line.difference for line in result.rows] == [-USD, USD]  # OpenAI knows beta, and charges it nothing


@pytest.mark.parametrize(
    ("our_spend", "costs", "usage", "today", "word"),
    [
        ({"alpha": Spent(exact=USD)}, [], [], MONDAY, "today is in it"),
        ({"alpha": Spent(exact=USD, estimated=USD // 2)}, [], [], LATER, "$0.500000 of ours is estimated"),
        ({"alpha": Spent(unpriced_requests=7, requests=7)}, ["1"], [], LATER, "7 of our requests have no price"),
        ({"alpha": Spent(exact=USD, requests=7)}, ["2"], [12], LATER, "5 requests did not pass here"),
        ({"alpha": Spent(exact=2 * USD, requests=7)}, ["1"], [7], LATER, "less than its list"),
    ],
)
def test_each_reason_is_given_if_and_only_if_it_applies(our_spend, costs, usage, today, word):
    result = compare(
        {MONDAY: our_spend},
        [cost(MONDAY, "key_1", usd) for usd in costs],
        [KeyUsage(MONDAY, "proj_acme", "key_1", count, 0, 0) for count in usage],
        today=today,
    )
    assert [word in reason for reason in result.reasons].count(True) == 1
    plain = compare({MONDAY: {"alpha": Spent(exact=USD, requests=1)}}, [cost(MONDAY, "key_1", "1.5")])
    assert not any(word in reason for reason in plain.reasons)


def test_costs_of_keys_that_are_not_ours_are_separate():
    costs = [cost(MONDAY, "key_1", "1"), cost(MONDAY, "key_9", "5"), cost(MONDAY, None, "0.5"),
             KeyCost(MONDAY, "proj_of_others", "key_8", Decimal(99))]  # fmt: skip
    result = compare({MONDAY: {"alpha": Spent(exact=USD)}}, costs)
    assert [(line.key, line.theirs) for line in result.rows] == [("", 5_500_000_000_000), ("alpha", USD)]
    assert result.theirs == 6_500_000_000_000
    assert any("not in this pool" in reason for reason in result.reasons)


def test_accounts_whose_costs_were_not_reported_are_not_compared():
    our_spend = {MONDAY: {"alpha": Spent(exact=USD), "gamma": Spent(exact=5 * USD), "long-gone": Spent(exact=7 * USD)}}
    result = compare(our_spend, [cost(MONDAY, "key_1", "1")])
    assert (result.ours, result.theirs, result.not_compared) == (USD, USD, 12 * USD)
    assert [(line.account, line.key, line.theirs) for line in result.rows] == [
        ("", "long-gone", None), ("acme", "alpha", USD), ("other", "gamma", None),
    ]  # fmt: skip


def test_a_key_that_openai_does_not_name_is_not_counted_as_free():
    result = compare({MONDAY: {"beta": Spent(exact=USD)}}, [], known=Collected(projects={"proj_acme": "acme"}))
    assert (result.rows[0].theirs, result.rows[0].difference) == (None, None)
