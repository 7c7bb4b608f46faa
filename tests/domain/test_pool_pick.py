"""Which accounts the pool picks first: accounts that are about equally free share the load, emptier ones come last."""

from __future__ import annotations

import random
from collections import Counter

from quotapool.domain.access import Use
from quotapool.domain.pool import Key, Pool


def pool(*accounts: str) -> Pool:
    return Pool(Key(id=account, account=account, fingerprint=account) for account in accounts)


def asked(pool: Pool, *, now: float, rng: random.Random, **options) -> list[str]:
    """Accounts, in the order in which they would be tried."""
    return [pool.key_at(index).account for index in pool.pick("gpt-4o", Use("gpt-4o"), now=now, rng=rng, **options)]


def hear(pool: Pool, account: str, share: float, now: float) -> None:
    pool.note_headroom(pool.accounts[account].place, "gpt-4o", share, now)


def first_choices(pool: Pool, picks: int = 400) -> Counter[str]:
    rng = random.Random(1)
    return Counter(asked(pool, now=0.0, rng=rng)[0] for _ in range(picks))


def test_accounts_that_differ_by_a_few_calls_share_the_load_evenly():
    # If one of four has had two calls of 500 more than the others, and nothing has been observed since,
    four = pool("a", "b", "c", "d")
    for account, headroom in {"a": 0.998, "b": 0.998, "c": 0.998, "d": 0.994}.items():
        hear(four, account, headroom, 0.0)

    # I expect a quarter of 400 calls for each, within five standard deviations (8.7 each).
    assert all(abs(count - 100) < 44 for count in first_choices(four).values())
    assert len(first_choices(four)) == 4


def test_a_nearly_empty_account_is_picked_last():
    three = pool("full", "half", "empty")
    for account, headroom in {"full": 0.9, "half": 0.5, "empty": 0.02}.items():
        hear(three, account, headroom, 0.0)

    rng = random.Random(1)
    orders = {tuple(asked(three, now=0.0, rng=rng)) for _ in range(50)}

    assert orders == {("full", "half", "empty")}


def test_an_account_that_was_nearly_empty_is_picked_again_once_it_has_refilled():
    # Given two accounts of which one was nearly empty when it was last used, and the other is used all the time,
    two = pool("rested", "busy")
    hear(two, "rested", 0.02, 0.0)
    hear(two, "busy", 0.9, 60.0)

    # if a minute later, when a per-minute budget is full again, somebody asks, I expect the rested one first.
    assert asked(two, now=60.0, rng=random.Random(1)) == ["rested", "busy"]


def test_among_equals_the_one_observed_longest_ago_is_picked():
    """Given five accounts with room, of which each request sees two, I expect each to get about a fifth of a hundred:
    random pairs alone would leave one with fewer than ten now and then."""
    for seed in range(50):
        five = Pool(Key(f"k{n}", f"a{n}", f"fp{n}") for n in range(5))
        rng, turns = random.Random(seed), Counter()
        for moment in range(100):
            (first,) = asked(five, now=float(moment), rng=rng, few=True)
            hear(five, first, 0.99, float(moment))
            turns[first] += 1
        assert min(turns.values()) >= 12
        assert max(turns.values()) <= 28
