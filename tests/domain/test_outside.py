"""What operators are told of outside use: who is new, what it costs, and which accounts are taken out of service."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from quotapool.domain.outside import MOST, OutsideUse, Usual, bounded, changes, to_drain, usd_per_hour

NOW = 1_800_000_000.0
USE = OutsideUse("acme", "gpt-4o", NOW - 300, 40.4, 12_000.2)


def use(account: str, group: str = "gpt-4o", **more) -> OutsideUse:
    return replace(USE, account=account, group=group, **more)


def test_who_is_new_and_who_is_gone_goes_by_account_and_model_group():
    before = [use("a"), use("b"), use("a", "gpt-5")]
    after = [use("a", requests_per_minute=99.0), use("c"), use("b", "gpt-5")]
    found = changes(before, after)
    assert [one.name for one in found.began] == [("c", "gpt-4o"), ("b", "gpt-5")]
    assert [one.name for one in found.ended] == [("b", "gpt-4o"), ("a", "gpt-5")]
    assert changes(after, after) == changes([], [])


NAMES = st.tuples(st.sampled_from("abc"), st.sampled_from("xy"))


@given(st.sets(NAMES), st.sets(NAMES))
def test_what_began_and_what_lasts_is_all_there_is(before: set, after: set):
    found = changes([use(*name) for name in before], [use(*name) for name in after])
    began, ended = {one.name for one in found.began}, {one.name for one in found.ended}
    assert (before - ended) | began == after
    assert not began & before
    assert not ended & after


def test_a_hundred_are_kept_and_those_that_were_told_of_first():
    many = [use(f"a-{n:03}", tokens_per_minute=float(n)) for n in range(MOST + 20)]
    told = [replace(one, named=NOW) for one in many[:5]]
    kept = {one.account for one in bounded([*many[5:], *told])}
    # The five that were told of, though they use least, and the 95 of the others that use most
    assert kept == {f"a-{n:03}" for n in [*range(5), *range(25, 120)]}
    assert [one.account for one in bounded([use("b"), use("a"), use("b")])] == ["a", "b"]


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ((40.4, 12_000.2), "about 40 requests and 12,000 tokens a minute"),
        ((1.0, 0.0), "about 1 request a minute"),
        ((0.2, 900.0), "about 900 tokens a minute"),
        ((0.0, 0.0), "at a rate that is not known yet"),
    ],
)
def test_rates_in_words(rates, words):
    assert replace(USE, requests_per_minute=rates[0], tokens_per_minute=rates[1]).rates == words


def test_the_cost_is_told_where_a_price_is_known():
    assert USE.words == "about 40 requests and 12,000 tokens a minute of gpt-4o"
    assert replace(USE, usd_per_hour=1234.5).words.endswith("of gpt-4o, up to $1,234.50 an hour")


@pytest.mark.parametrize(
    ("requests", "tokens", "usual", "expected"),
    [
        (0, 0, Usual(), None),
        (10, 1_000, Usual(0, 5, 500), None),
        # Ours: $2 for 100 requests and a million tokens: 2 cents a request, $2 a million
        (10, 1_000, Usual(2 * 10**12, 100, 10**6), 12.0),  # 600 requests an hour; by tokens it were $0.12
        (0, 10**6, Usual(2 * 10**12, 100, 10**6), 120.0),
        (0, 5, Usual(10**12, 100, 0), 0.0),  # nothing of ours has tokens, as with images
    ],
)
def test_the_higher_one_of_two_estimates(requests, tokens, usual, expected):
    assert usd_per_hour(requests, tokens, usual) == (None if expected is None else pytest.approx(expected))


def drain(named, usable="abcd", drained=0, most=3):
    return to_drain(named, NOW, after_s=600.0, usable=usable, drained=drained, most=most)


def named(account: str, ago: float = 600.0, **more) -> OutsideUse:
    return use(account, named=NOW - ago, **more)


def test_an_account_is_taken_out_once_it_has_been_named_for_long_enough():
    assert drain([named("a", 599.0), use("b"), named("c"), named("d", 601.0)]).accounts == ["d", "c"]
    assert drain([named("a"), named("a", group="gpt-5")]).accounts == ["a"]


def test_the_last_account_stays():
    assert drain([named("a")], usable="a") == drain([named("a")], usable="a", most=0)
    assert drain([named("a")], usable="a").spared == {"a": "no other account serves"}
    both = drain([named("a", 700.0), named("b")], usable="ab")
    assert (both.accounts, list(both.spared)) == (["a"], ["b"])


def test_no_more_are_out_than_may_be_removed_at_once():
    found = drain([named("a", 700.0), named("b")], drained=2)
    assert (found.accounts, list(found.spared)) == (["a"], ["b"])
    assert "max_removals is 3" in found.spared["b"]
    assert drain([named("a")], most=0).accounts == []


def test_what_an_operator_has_enabled_again_is_not_taken_out_a_second_time():
    assert drain([named("a", drained=True), named("a", group="gpt-5")]).accounts == []
    assert drain([named("gone")]) == drain([])  # or what does not serve anyway


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 2_000), st.booleans()), max_size=12),
    st.sets(st.sampled_from("abcdef")),
    st.integers(0, 6),
    st.integers(0, 6),
)
def test_somebody_always_serves_and_the_bound_holds(rows, usable, drained, most):
    found = drain([named(name, ago, drained=was) for name, ago, was in rows], usable, drained, most)
    assert len(set(found.accounts)) == len(found.accounts)
    assert set(found.accounts) <= usable
    assert not usable or usable - set(found.accounts)
    assert not found.accounts or drained + len(found.accounts) <= most
    assert not set(found.accounts) & set(found.spared)
