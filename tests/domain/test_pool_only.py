"""A request that needs one certain account is given that account's keys, or none."""

from __future__ import annotations

import random

from quotapool.domain.access import Use
from quotapool.domain.pool import Key, Pool
from quotapool.domain.states import Record, State


def pick(pool: Pool, *only: str, **options) -> list[str]:
    indexes = pool.pick("gpt-4o", Use("gpt-4o"), now=100.0, rng=random.Random(1), only=frozenset(only), **options)
    return [pool.key_at(index).id for index in indexes]


def pool() -> Pool:
    return Pool(
        Key(id=f"{account}{n}", account=account, fingerprint=f"{account}{n}") for account in "abc" for n in "12"
    )


def test_no_other_account_is_picked_and_its_keys_take_turns():
    three = pool()
    assert {pick(three, "b")[0] for _ in range(4)} == {"b1", "b2"}
    assert sorted(key[0] for key in pick(three, "a", "c")) == ["a", "c"]


def test_an_account_that_refused_or_left_is_not_picked():
    assert pick(pool(), "b", exclude={"b"}) == []
    assert pick(pool(), "gone") == []


def test_a_resting_account_is_tried_when_its_time_has_come():
    three = pool()
    three.apply_states({"a/b": Record(State.QUARANTINED, "money", 0.0, until=50.0)})
    assert pick(three, "b") == []
    assert pick(three, "b", may_try_resting=True)[0][0] == "b"
