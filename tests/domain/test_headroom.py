"""Head-room as one process heard it: what it expects of an account, and for how much of it there is room."""

from __future__ import annotations

import random

import pytest
from quotapool.domain.headroom import Headroom, Levels
from quotapool.domain.pool import Key, Pool

GROUP = "gpt-4o"


def levels(*heard: tuple[float, float]) -> Levels:
    """(share, heard at) by place."""
    found = Levels(len(heard))
    for place, (share, at) in enumerate(heard):
        found.shares[place], found.at[place] = share, at
    return found


@pytest.mark.parametrize(
    ("share", "heard_at", "now", "expected"),
    [
        (0.25, 100.0, 100.0, 0.25),
        (0.25, 100.0, 130.0, 0.75),  # half a minute refills half of a minute's budget
        (0.25, 100.0, 145.0, 1.0),
        (0.25, 100.0, 1e9, 1.0),
        (0.25, 100.0, 90.0, 0.25),  # a clock that was set back takes nothing away
        (0.0, 100.0, 106.0, 0.1),
    ],
)
def test_a_minutes_budget_refills_within_a_minute(share, heard_at, now, expected):
    assert levels((share, heard_at)).expected(0, now) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("heard", "weights", "order"),
    [
        ([(0.9, 0.0), (0.2, 0.0), (0.5, 0.0)], [1, 1, 1], [0, 2, 1]),
        ([(0.52, 3.0), (0.50, 2.0), (0.48, 1.0)], [1, 1, 1], [2, 1, 0]),  # all near a half: the longest unheard of
        ([(0.9, 0.0), (0.5, 0.0)], [1, 2], [1, 0]),  # half full of a double weight is as good as full
    ],
)
def test_the_fuller_one_comes_first_and_among_equals_the_longest_unheard_of(heard, weights, order):
    found = levels(*heard)
    assert sorted(range(len(heard)), key=lambda place: found.rank(place, weights[place], 3.0)) == order


def test_what_was_never_asked_counts_as_full():
    some = Headroom()
    some.grow(3)
    some.update(GROUP, 1, 0.1, 1000.0)
    assert [some.of(GROUP).expected(place, 1000.0) for place in range(3)] == pytest.approx([1.0, 0.1, 1.0])
    assert some.of("another").expected(1, 1000.0) == 1.0


def test_a_pool_that_grows_keeps_what_it_heard():
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


def test_what_is_heard_late_of_an_account_that_left_is_no_other_accounts():
    """An answer under way across two reloads tells the head-room of an account that is not there any more."""
    pool = Pool([Key("a1", "a", "fp"), Key("b1", "b", "fp")])
    left = pool.accounts["a"].place
    pool.replace([Key("b1", "b", "fp")])
    pool.replace([Key("b1", "b", "fp"), Key("c1", "c", "fp")])
    pool.note_headroom(left, GROUP, 0.0, 1000.0)
    for name in "bc":
        assert pool.headroom.of(GROUP).expected(pool.accounts[name].place, 1000.0) == 1.0
    pool.replace([Key("a2", "a", "fp"), Key("b1", "b", "fp")])  # and it is remembered when that one is back
    assert pool.headroom.of(GROUP).expected(pool.accounts["a"].place, 1000.0) == 0.0


def test_weights_hold_for_accounts_of_the_pool_alone():
    pool = Pool([Key("a1", "a", "fp"), Key("b1", "b", "fp")])
    pool.weigh("a", 4.0)
    pool.weigh("nobody", 2.0)
    assert (pool.weight_of("a"), pool.weight_of("b")) == (4.0, 1.0)
    pool.replace(list(pool.keys.values()), weights={"b": 0.5, "nobody": 3.0})
    assert (pool.weight_of("a"), pool.weight_of("b")) == (1.0, 0.5)


def test_seats_are_those_of_the_keys_of_today():
    pool = Pool([Key("a1", "a", "fp"), Key("b1", "b", "fp"), Key("b2", "b", "fp")])
    gone = pool.keys["a1"]
    pool.replace([Key("b1", "b", "fp"), Key("b2", "b", "fp")])
    assert pool.index_of(gone) is None
    assert {
        pool.key_at(seat).id for _ in range(2) for seat in pool.pick(GROUP, GROUP, now=0.0, rng=random.Random(1))
    } == {
        "b1",
        "b2",
    }
