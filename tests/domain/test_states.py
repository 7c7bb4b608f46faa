"""Which state may follow which, all in one table; and how long a resting key rests."""

from __future__ import annotations

import pytest
from quotapool.domain.states import OBSERVED, OPERATOR, State, may_replace, rest_s, state_after, subject_of
from quotapool.domain.verdict import Kind, Scope, Verdict

from tests.fakes.states import TRANSITIONS, record


@pytest.mark.parametrize("transition", TRANSITIONS, ids=str)
def test_one_state_may_follow_another_exactly_if_the_table_says_so(transition):
    assert may_replace(transition.before, transition.after, by=transition.by) is transition.allowed


def test_the_table_names_every_pair_of_states_once():
    pairs = [(t.before and (t.before.state, t.before.by), t.after and t.after.state, t.by) for t in TRANSITIONS]
    assert len(pairs) == len(set(pairs))
    observed = [s for s in State if s not in {State.ACTIVE, State.DRAINING, State.DISABLED}]
    for before in (None, *observed):
        for after in (None, *observed):
            assert (before and (before, OBSERVED), after, OBSERVED) in pairs, (before, after)


@pytest.mark.parametrize(
    ("state", "tries", "jitter", "seconds"),
    [
        (State.SUSPECT, 0, 0.0, 30),
        (State.SUSPECT, 1, 0.0, 60),
        (State.SUSPECT, 5, 0.0, 900),  # 960, capped
        (State.QUARANTINED, 0, 0.0, 60),
        (State.QUARANTINED, 3, 0.0, 480),
        (State.QUARANTINED, 4, 0.0, 900),
        (State.QUARANTINED, 1_000_000, 0.0, 900),
        (State.QUARANTINED, 0, 0.5, 67.5),  # half of the quarter that jitter may add
        (State.QUARANTINED, 4, 0.8, 1_080),  # jitter comes on top of the cap, so that keys do not return together
    ],
)
def test_rests_double_from_the_first_to_a_quarter_of_an_hour_and_are_spread(state, tries, jitter, seconds):
    assert rest_s(state, tries, jitter) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        (Kind.MONEY, State.QUARANTINED),
        (Kind.DEAD, State.REMOVED),
        (Kind.SUSPECT, State.SUSPECT),
        *[(kind, None) for kind in Kind if kind not in {Kind.MONEY, Kind.DEAD, Kind.SUSPECT}],
    ],
)
def test_only_money_death_and_suspicion_change_a_state(kind, state):
    assert state_after(Verdict(kind)) is state


@pytest.mark.parametrize(
    ("scope", "field"), [(Scope.ACCOUNT, "a/acme"), (Scope.KEY, "k/alpha"), (Scope.NONE, "k/alpha")]
)
def test_a_verdict_on_an_account_takes_all_its_keys_and_any_other_takes_one(scope, field):
    assert subject_of(Verdict(Kind.DEAD, scope=scope), "alpha", "acme") == field


def test_an_operator_may_undo_even_a_removal():
    assert may_replace(record(State.REMOVED), None, by=OPERATOR)
