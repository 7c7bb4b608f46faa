"""Headroom as one process last saw it: what it expects of an account, and how many groups it remembers."""

from __future__ import annotations

import random

import pytest
from quotapool.domain.access import Use
from quotapool.domain.headroom import Headroom, Levels
from quotapool.domain.pool import Key, Pool

GROUP = "gpt-4o"


def levels(*heard: tuple[float, float]) -> Levels:
    """(share, observed at) by place."""
    found = Levels(len(heard))
    for place, (share, at) in enumerate(heard):
        found.shares[place], found.at[place] = share, at
    return found


@pytest.mark.parametrize(
    ("share", "observed_at", "now", "expected"),
    [
        (0.25, 100.0, 100.0, 0.25),
        (0.25, 100.0, 130.0, 0.75),  # half a minute refills half of a minute's budget
        (0.25, 100.0, 145.0, 1.0),
        (0.25, 100.0, 1e9, 1.0),
        (0.25, 100.0, 90.0, 0.25),  # a clock that was set back takes nothing away
        (0.0, 100.0, 106.0, 0.1),
    ],
)
def test_a_minutes_budget_refills_within_a_minute(share, observed_at, now, expected):
    assert levels((share, observed_at)).expected(0, now) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("observed", "weights", "order"),
    [
        ([(0.9, 0.0), (0.2, 0.0), (0.5, 0.0)], [1, 1, 1], [0, 2, 1]),
        ([(0.52, 3.0), (0.50, 2.0), (0.48, 1.0)], [1, 1, 1], [2, 1, 0]),  # all near a half: the oldest observation
        ([(0.9, 0.0), (0.5, 0.0)], [1, 2], [1, 0]),  # half full of a double weight is as good as full
    ],
)
def test_the_fuller_one_comes_first_and_among_equals_the_one_observed_longest_ago(observed, weights, order):
    found = levels(*observed)
    assert sorted(range(len(observed)), key=lambda place: found.rank(place, weights[place], 3.0)) == order


def test_an_account_never_used_counts_as_full():
    some = Headroom()
    some.grow(3)
    some.update(GROUP, 1, 0.1, 1000.0)
    assert [some.of(GROUP).expected(place, 1000.0) for place in range(3)] == pytest.approx([1.0, 0.1, 1.0])
    assert some.of("another").expected(1, 1000.0) == 1.0


def test_a_pool_that_grows_keeps_its_observations():
    some = Headroom()
    some.grow(1)
    some.update(GROUP, 0, 0.25, 1000.0)
    some.grow(3)
    some.update(GROUP, 2, 0.5, 1000.0)
    some.grow(2)  # never fewer
    assert [some.of(GROUP).expected(place, 1000.0) for place in range(3)] == pytest.approx([0.25, 1.0, 0.5])
    assert some.of("another").expected(2, 1000.0) == 1.0


@pytest.mark.parametrize(("places", "most"), [(10, 1_000), (10_000, 200), (10_000_000, 1)])
def test_groups_that_clients_invent_take_no_more_than_their_memory(places, most):
    some = Headroom()
    some.grow(places)
    for n in range(most + 2 if places > 1_000_000 else 1_205):
        some.update(f"invented-{n}", 0, 0.5, 0.0)
        assert len(some) <= most


def test_a_late_observation_of_an_account_that_left_goes_to_no_other_account():
    """An answer under way across two reloads reports the headroom of an account that is no longer there."""
    pool = Pool([Key("a1", "a", "fp"), Key("b1", "b", "fp")])
    left = pool.accounts["a"].place
    pool.replace([Key("b1", "b", "fp")])
    pool.replace([Key("b1", "b", "fp"), Key("c1", "c", "fp")])
    pool.note_headroom(left, GROUP, 0.0, 1000.0)
    for name in "bc":
        assert pool.headroom.of(GROUP).expected(pool.accounts[name].place, 1000.0) == 1.0
    pool.replace([Key("a2", "a", "fp"), Key("b1", "b", "fp")])  # and it is remembered when that one is back
    assert pool.headroom.of(GROUP).expected(pool.accounts["a"].place, 1000.0) == 0.0


def test_weights_apply_only_to_accounts_of_the_pool():
    pool = Pool([Key("a1", "a", "fp"), Key("b1", "b", "fp")])
    pool.weigh("a", 4.0)
    pool.weigh("nobody", 2.0)
    assert (pool.weight_of("a"), pool.weight_of("b")) == (4.0, 1.0)
    pool.replace(list(pool.keys.values()), weights={"b": 0.5, "nobody": 3.0})
    assert (pool.weight_of("a"), pool.weight_of("b")) == (1.0, 0.5)


def test_indexes_are_those_of_the_current_keys():
    pool = Pool([Key("a1", "a", "fp"), Key("b1", "b", "fp"), Key("b2", "b", "fp")])
    gone = pool.keys["a1"]
    pool.replace([Key("b1", "b", "fp"), Key("b2", "b", "fp")])
    assert pool.index_of(gone) is None
    assert {
        pool.key_at(index).id for _ in range(2) for index in pool.pick(GROUP, Use(GROUP), now=0.0, rng=random.Random(1))
    } == {
        "b1",
        "b2",
    }
