"""The pool as one process sees it: which accounts may be tried, in which order, and at what cost."""

from __future__ import annotations

import random
from array import array
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quotapool.domain.access import Access, Use
from quotapool.domain.pool import CANDIDATES, PAIR, Key, Pool
from quotapool.domain.states import OPERATOR, Record, State

GPT = "gpt-4o"


def pool(*keys: str) -> Pool:
    """A pool of `account/key` names; the fingerprint is the key's name."""
    return Pool(Key(id=name, account=name.partition("/")[0], fingerprint=f"fp-{name}") for name in keys)


def picked(some: Pool, *, now: float = 100.0, seed: int = 1, **options) -> list[str]:
    return [some.key_at(index).id for index in some.pick(GPT, Use(GPT), now=now, rng=random.Random(seed), **options)]


def rest(state: State = State.QUARANTINED, *, until: float = 200.0, reason: str = "money", **fields) -> Record:
    return Record(state, reason, 0.0, until, **fields)


# ---- who is in


@pytest.mark.parametrize(
    ("records", "usable"),
    [
        ({}, {"a/1", "a/2", "b/1"}),
        ({"k/a/1": rest(State.REMOVED)}, {"a/2", "b/1"}),
        ({"a/a": rest(State.REMOVED)}, {"b/1"}),  # the account's death is its keys'
        ({"k/b/1": rest(State.DISABLED, by=OPERATOR), "k/a/2": rest(State.DRAINING, by=OPERATOR)}, {"a/1"}),
        ({"k/a/1": rest(State.QUARANTINED), "k/a/2": rest(State.SUSPECT)}, {"b/1"}),
        ({"a/nobody": rest(State.REMOVED)}, {"a/1", "a/2", "b/1"}),
        # Seen with another secret: says nothing about today's.
        ({"k/a/1": rest(State.REMOVED, fingerprint="fp-older")}, {"a/1", "a/2", "b/1"}),
        ({"k/a/1": rest(State.REMOVED, fingerprint="fp-a/1")}, {"a/2", "b/1"}),
        ({"a/a": rest(State.REMOVED, fingerprint="fp-a/1+fp-a/2")}, {"b/1"}),
        ({"a/a": rest(State.REMOVED, fingerprint="fp-a/1+fp-a/0")}, {"a/1", "a/2", "b/1"}),
    ],
)
def test_only_keys_that_are_active_like_their_account_are_picked(records, usable):
    three = pool("a/1", "a/2", "b/1")
    three.apply_states(records)
    seen = {key for seed in range(20) for key in picked(three, seed=seed)}
    assert seen == usable


_SUBJECTS = ("k/a/1", "k/a/2", "k/b/1", "k/c/1", "a/a", "a/b", "a/c", "o/org", "k/nobody")
_RECORDS = st.dictionaries(
    st.sampled_from(_SUBJECTS),
    st.builds(
        rest,
        st.sampled_from((State.SUSPECT, State.QUARANTINED, State.REMOVED)),
        until=st.sampled_from((0.0, 50.0, 200.0)),
        fingerprint=st.sampled_from(("", "fp-a/1", "fp-b/1", "fp-a/1+fp-a/2", "fp-older")),
    ),
)


@given(st.lists(st.tuples(_RECORDS, st.sampled_from(("all", "some")))))
def test_whatever_was_known_before_the_records_of_today_decide(steps):
    def one() -> Pool:
        made = Pool()
        keys = [Key(id=name, account=name[0], fingerprint=f"fp-{name}") for name in ("a/1", "a/2", "b/1", "c/1")]
        made.replace(keys, organizations={"b": "org", "c": "org"})
        return made

    kept, known = one(), {}
    for records, how in steps:
        if how == "all":
            known = records
            kept.apply_states(records)
        else:  # these are new or different, and each second one of the others is over
            gone = {subject: None for subject in list(known)[::2] if subject not in records}
            known = {name: record for name, record in {**known, **records}.items() if name not in gone}
            kept.apply_changes({**records, **gone})
        new = one()
        new.apply_states(known)
        for name, account in new.accounts.items():
            assert kept.accounts[name].usable == account.usable
            assert kept.accounts[name].resting == account.resting
        assert kept.records == known
        assert (kept._pickable, kept._only_keys) == (new._pickable, new._only_keys)
        assert [account.id for account in kept._resting] == [account.id for account in new._resting]


def test_each_account_offers_one_key_and_they_take_turns():
    two = pool("a/1", "a/2", "a/3", "b/1")
    turns = [picked(two) for _ in range(6)]
    assert all(len({name.partition("/")[0] for name in keys}) == len(keys) == 2 for keys in turns)
    assert Counter(key for keys in turns for key in keys) == {"a/1": 2, "a/2": 2, "a/3": 2, "b/1": 6}


def test_a_new_configuration_keeps_what_is_known_of_accounts_that_stay():
    some = pool("a/1", "b/1")
    some.apply_states({"k/a/1": rest(State.REMOVED, fingerprint="fp-a/1")})
    some.note_headroom(some.accounts["b"].place, GPT, 0.1, 100.0)
    some.replace([Key("a/1", "a", "fp-new"), Key("b/1", "b", "fp-b/1"), Key("c/1", "c", "fp-c/1")])
    assert picked(some)[-1] == "b/1"  # still the emptiest
    assert set(picked(some)) == {"a/1", "b/1", "c/1"}  # and a's new secret starts afresh


# ---- the order


def test_accounts_the_store_reported_as_ready_come_first():
    many = pool(*(f"{n:03}/1" for n in range(100)))
    assert picked(many, prefer=("042", "007", "nobody"))[:2] == ["042/1", "007/1"]


def test_accounts_that_refused_this_request_are_left_out():
    assert picked(pool("a/1", "b/1", "c/1"), exclude={"a", "c"}) == ["b/1"]


def test_an_account_that_lacks_a_model_is_not_tried_for_it_for_five_minutes():
    two = pool("a/1", "b/1")
    two.missing.refused(Access.MODEL, "", two.accounts["a"].place, "a/1", Use(GPT), 100.0)
    assert picked(two, now=399.0) == ["b/1"]
    assert set(picked(two, now=401.0)) == {"a/1", "b/1"}
    other_model = two.pick("gpt-4o-mini", Use("gpt-4o-mini"), now=100.0, rng=random.Random(1))
    assert {two.key_at(index).id for index in other_model} == {"a/1", "b/1"}


@pytest.mark.parametrize(
    ("now", "may_try", "exclude", "expected"),
    [
        (201.0, True, (), ["a/1", "b/1"]),  # its time has come: first, so that it is tried at all
        (199.0, True, (), ["b/1"]),
        (201.0, False, (), ["b/1"]),  # a request that may not be done twice is no trial
        (201.0, True, ("a",), ["b/1"]),
    ],
)
def test_a_resting_key_is_tried_when_its_time_has_come(now, may_try, exclude, expected):
    two = pool("a/1", "b/1")
    two.apply_states({"k/a/1": rest(until=200.0)})
    assert picked(two, now=now, may_try_resting=may_try, exclude=exclude) == expected


def test_of_an_accounts_resting_keys_the_one_due_first_is_tried():
    some = pool("a/1", "a/2", "a/3")
    some.apply_states({"k/a/1": rest(until=300.0), "k/a/2": rest(until=150.0), "k/a/3": rest(until=200.0)})
    assert picked(some, now=160.0, may_try_resting=True) == ["a/2"]


def test_a_removed_key_is_never_a_trial():
    some = pool("a/1")
    some.apply_states({"k/a/1": rest(State.REMOVED, until=0.0)})
    assert picked(some, now=1e9, may_try_resting=True) == []


def test_a_large_pools_load_is_spread_over_all_its_accounts():
    many = pool(*(f"{n:03}/1" for n in range(100)))
    rng = random.Random(3)
    firsts = Counter(many.key_at(many.pick(GPT, Use(GPT), now=0.0, rng=rng)[0]).account for _ in range(5_000))
    # 50 each, within six standard deviations (7 each)
    assert len(firsts) == 100
    assert max(firsts.values()) < 92


# ---- what it costs


class Counting(array):
    """Headroom that counts how often it is read."""

    reads = 0

    def __getitem__(self, place):
        Counting.reads += 1
        return super().__getitem__(place)


def cost_of_a_pick(keys: int, keys_an_account: int = 1, *, few: bool = False) -> tuple[int, int]:
    """(headroom reads, keys) of one pick."""
    some = Pool(Key(f"{n}", f"{n // keys_an_account}", f"fp-{n}") for n in range(keys))
    some.note_headroom(0, GPT, 1.0, 0.0)
    levels = some.headroom.of(GPT)
    levels.shares = Counting("f", levels.shares)
    Counting.reads = 0
    chosen = some.pick(GPT, Use(GPT), now=0.0, rng=random.Random(1), may_try_resting=True, few=few)
    return Counting.reads, len(chosen)


def test_a_pick_costs_the_same_from_ten_keys_and_from_ten_thousand():
    assert cost_of_a_pick(10) == (CANDIDATES, CANDIDATES)
    assert cost_of_a_pick(10_000) == (CANDIDATES, CANDIDATES)
    assert cost_of_a_pick(10_000, keys_an_account=100) == (CANDIDATES, CANDIDATES)


def test_while_there_is_room_a_random_pair_is_compared_and_one_of_it_picked():
    assert cost_of_a_pick(10, few=True) == (PAIR, 1)
    assert cost_of_a_pick(10_000, few=True) == (PAIR, 1)
    assert cost_of_a_pick(1, few=True) == (1, 1)


def test_finding_the_resting_key_that_is_due_costs_the_same_with_a_thousand_resting():
    some = Pool(Key(f"{n}", "a", f"fp-{n}") for n in range(1_000))
    some.apply_states({f"k/{n}": rest(until=100.0 + (n * 37) % 1_000) for n in range(1_000)})
    account = some.accounts["a"]
    account.resting[1:] = ["whoever looks at this fails"] * 999
    assert picked(some, now=100.0, may_try_resting=True) == ["0"]


# ---- why nobody is left


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ({"k/a/1": rest(State.REMOVED), "k/b/1": rest(State.REMOVED)}, "dead"),
        ({"k/a/1": rest(State.REMOVED), "k/b/1": rest(State.SUSPECT)}, "suspect"),
        ({"k/a/1": rest(State.REMOVED), "k/b/1": rest(reason="insufficient_quota")}, "money"),
        ({"k/a/1": rest(State.SUSPECT), "a/b": rest(reason="billing_hard_limit_reached")}, "spend_limit"),
        ({"k/a/1": rest(reason="insufficient_quota"), "a/b": rest(reason="billing_hard_limit_reached")}, "money"),
    ],
)
def test_an_empty_pools_reason_is_the_one_that_helps_most(records, reason):
    two = pool("a/1", "b/1")
    two.apply_states(records)
    assert two.size == 0
    assert two.why_empty() == reason


def test_the_firmest_record_explains_a_key_and_its_accounts_comes_first_among_equals():
    one = pool("a/1")
    of_key, of_account = rest(State.REMOVED), rest(State.QUARANTINED)
    one.apply_states({"k/a/1": of_key})
    assert (one.record_of(one.keys["a/1"]), one.state_of(one.keys["a/1"])) == (of_key, State.REMOVED)
    one.apply_states({"k/a/1": of_key, "a/a": of_account})
    assert one.state_of(one.keys["a/1"]) is State.REMOVED  # credit alone would not bring it back
    one.apply_states({})
    assert one.state_of(one.keys["a/1"]) is State.ACTIVE
    assert "pickable=1" in repr(one)


def test_what_is_remembered_of_models_and_headroom_is_bounded():
    one = pool("a/1")
    for n in range(12_000):
        one.missing.refused(Access.MODEL, "", 0, "a/1", Use(f"invented-{n}"), 0.0)
        one.note_headroom(0, f"invented-{n}", 0.5, 0.0)
    assert len(one.headroom) <= 1_001
    assert len(one.missing) <= 10_001


def test_a_pool_serves_its_old_keys_until_it_becomes_its_successor_and_knows_what_it_heard_meanwhile():
    one = pool("a/1", "b/1")
    new = one.successor([Key("b/1", "b", "fp-b/1"), Key("c/1", "c", "fp-c/1"), Key("d/1", "d", "fp-d/1")], {}, {})
    one.apply_states({"k/c/1": rest(State.REMOVED)})
    one.note_headroom(one.accounts["b"].place, GPT, 0.2, now=100.0)
    assert {key for seed in range(20) for key in picked(one, seed=seed)} == {"a/1", "b/1"}
    one.become(new)
    assert {key for seed in range(20) for key in picked(one, seed=seed)} == {"b/1", "d/1"}
    assert picked(one) == ["d/1", "b/1"]  # the fuller one first
    assert {picked(one, sticky=n * 80_000_000)[0] for n in range(50)} == {"b/1", "d/1"}  # the new one has its share


# ---- whether there is another


@pytest.mark.parametrize(
    ("keys", "options", "expected"),
    [
        (["a/1", "a/2"], {}, False),  # the account's other key shares its budget and its money
        (["a/1", "b/1"], {}, True),
        (["a/1", "b/1"], {"exclude": {"b"}}, False),
        (["a/1", "b/1", "c/1"], {"exclude": {"b", "gone"}}, True),
        (["a/1", "b/1"], {"only": {"a"}}, False),
        (["a/1", "b/1"], {"only": {"a", "b"}}, True),
        (["a/1", "b/1"], {"only": {"a", "gone"}}, False),
    ],
)
def test_another_account_is_one_that_may_be_picked_for_the_request(keys, options, expected):
    assert pool(*keys).has_other("a", **{"exclude": (), "only": None, **options}) is expected


def test_an_account_that_is_out_is_no_other_one():
    some = pool("a/1", "b/1")
    some.apply_states({"a/b": rest()})
    assert not some.has_other("a", (), None)
    assert some.has_other("b", (), None)


def test_among_more_accounts_than_a_reservation_names_there_is_always_another():
    """To be certain would take a look at each: here the cost must not grow with the keys."""
    many = [f"{n}/1" for n in range(CANDIDATES + 1)]
    assert pool(*many).has_other("0", {str(n) for n in range(1, CANDIDATES + 1)}, None)


# ---- keys that are prepared beside the pool in use


@pytest.mark.parametrize("changed_meanwhile", [{}, {"k/d/1": rest(until=50.0), "o/org": rest(until=60.0)}])
def test_a_pool_that_becomes_its_successor_is_as_if_it_had_got_the_keys_itself(changed_meanwhile):
    before, after = ("a/1", "b/1", "c/1"), ("d/1", "c/1", "c/2", "b/1")
    keys = [Key(id=name, account=name.partition("/")[0], fingerprint=f"fp-{name}") for name in after]
    weights, organizations = {"b": 0.25, "d": 3.0}, {"c": "org", "d": "org"}
    prepared, plain = pool(*before), pool(*before)
    for one in (prepared, plain):
        one.apply_states({"k/a/1": rest(), "a/b": rest(until=70.0)})
        one.note_headroom(1, GPT, 0.5, 90.0)
    successor = prepared.successor(keys, weights, organizations)
    if changed_meanwhile:
        prepared.apply_states(changed_meanwhile)
        plain.apply_states(changed_meanwhile)
    prepared.become(successor)
    plain.replace(keys, weights, organizations)

    def view(one: Pool) -> list[object]:
        picks = [
            picked(one, seed=seed, few=few, sticky=sticky, exclude=exclude, may_try_resting=True)
            for seed in range(20)
            for few in (True, False)
            for sticky in (None, seed * 214_748_364)
            for exclude in ((), ("c",), ("c", "d"))
        ]
        names = {name: [account.id for account in found] for name, found in one.organizations.items()}
        resting = {key.id for key in one.due(100.0, random.Random(1))}
        states = {key: one.state_of(known) for key, known in one.keys.items()}
        return [picks, one.size, sorted(one.accounts), names, resting, states, one.weight_of("b"), one.weight_of("d")]

    assert view(prepared) == view(plain)
    assert prepared.weight_of("d") == 3.0
    assert sorted(prepared.accounts) == ["b", "c", "d"]
    ring = len(prepared._ring)
    prepared.become(prepared.successor(keys, weights, organizations))
    assert len(prepared._ring) == ring  # nobody is on it twice
