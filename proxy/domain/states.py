"""States of keys and accounts: what they mean, which change may replace which.

Everything that decides whether one state may follow another lives here; `ledger/lua/state.lua` carries the
same rules into the store, and a test drives both with the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from proxy.domain.verdict import Kind, Scope, Verdict


class State(StrEnum):
    ACTIVE = "active"
    SUSPECT = "suspect"  # an ambiguous 401/403: rests briefly, tried again
    QUARANTINED = "quarantined"  # out of money: rests, is tried again, comes back by itself
    DRAINING = "draining"  # an operator's: no new requests
    DISABLED = "disabled"  # an operator's: out until enabled
    REMOVED = "removed"  # dead: out until an operator or a changed secret brings it back


RESTING: Final = frozenset({State.SUSPECT, State.QUARANTINED})

# How firmly a state holds against an observation. Operators outrank observations whatever the rank.
_RANK: Final = {
    State.ACTIVE: 0,
    State.SUSPECT: 1,
    State.QUARANTINED: 2,
    State.DRAINING: 3,
    State.DISABLED: 3,
    State.REMOVED: 4,
}

OBSERVED: Final = "observed"
OPERATOR: Final = "operator"

# First rest and its ceiling, seconds. Public clients saw top-ups propagate unevenly over minutes, and one saw a false
# outage of 57 s (docs/keys.md), so the first second look comes after about a minute and then ever more slowly.
FIRST_REST_S: Final = {State.SUSPECT: 30.0, State.QUARANTINED: 60.0}
LONGEST_REST_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Record:
    """Why a key or an account is not active. Times are Unix seconds of the store's clock."""

    state: State
    reason: str
    since: float
    until: float = 0.0  # RESTING only: when one request may try it again
    tries: int = 0  # how often it was tried again in vain
    status: int = 0  # evidence: HTTP status,
    message: str = ""  # upstream's words, redacted,
    request_id: str = ""  # upstream's request id
    by: str = OBSERVED
    fingerprint: str = ""  # of the secret(s) this was seen with; another fingerprint starts anew


def may_replace(old: Record | None, new: Record | None, *, by: str = OBSERVED) -> bool:
    """Whether `new` (None: active again, as `by` says) may take the place of `old` (None: active)."""
    if old is None:
        return new is not None
    by = by if new is None else new.by
    if by == OPERATOR:
        return True
    if old.by == OPERATOR:
        return False
    if new is None:
        return old.state in RESTING
    return _RANK[new.state] >= _RANK[old.state]


def rest_s(state: State, tries: int, jitter: float) -> float:
    """Seconds until the next try: doubling from the first rest, capped; `jitter` in [0, 1) adds up to a quarter."""
    first = FIRST_REST_S.get(state, 60.0)
    rest: float = min(first * 2.0 ** min(tries, 16), LONGEST_REST_S)
    return rest * (1.0 + 0.25 * jitter)


def state_after(verdict: Verdict) -> State | None:
    """The state a verdict asks for, None where it asks for none."""
    if verdict.kind is Kind.MONEY:
        return State.QUARANTINED
    if verdict.kind is Kind.DEAD:
        return State.REMOVED
    if verdict.kind is Kind.SUSPECT:
        return State.SUSPECT
    return None


def field_of(verdict: Verdict, key_id: str, account_id: str) -> str:
    """Name of the record a verdict is about: `a/<account>` takes all its keys, `k/<key>` only one."""
    return f"a/{account_id}" if verdict.scope is Scope.ACCOUNT else f"k/{key_id}"
