"""States of keys and accounts: what they mean, and which may replace which.

Everything that decides whether one state may follow another is here; `ledger/lua/state.lua` implements the same rules
in the store, and a test drives both with the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from quotapool.domain.subject import Subject
from quotapool.domain.verdict import Kind, Scope, Verdict


class State(StrEnum):
    ACTIVE = "active"
    SUSPECT = "suspect"  # an ambiguous 401/403, or a removal that the brake stopped: rests briefly, tried again
    QUARANTINED = "quarantined"  # out of money: rests, is tried again, comes back by itself
    DRAINING = "draining"  # set by an operator: no new requests
    DISABLED = "disabled"  # set by an operator: out until enabled
    REMOVED = "removed"  # dead: out until an operator or a changed secret brings it back


RESTING: Final = frozenset({State.SUSPECT, State.QUARANTINED})

# How firmly a state holds against an observation. Operators outrank observations of any rank.
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
WALLET: Final = "wallet"  # our own money limits: ranks as an observation, but only the wallet or an operator lifts it

# First rest and its ceiling, seconds. Public clients saw top-ups propagate unevenly over minutes, and one saw a false
# outage of 57 s (docs/keys.md), so the first retry comes after about a minute and later ones ever more slowly.
FIRST_REST_S: Final = {State.SUSPECT: 30.0, State.QUARANTINED: 60.0}
LONGEST_REST_S: Final = 900.0

# Limits that are reset with the calendar month (error-code guide): a try before that would only be refused.
MONTHLY: Final = frozenset(
    {"organization_spend_limit_exceeded", "project_spend_limit_exceeded", "organization_usage_limit_exceeded"}
)
_MONTHS_TURN_SPREAD_S: Final = 600.0  # so that not all accounts are tried in the first second of the month

# How far a removal can be trusted, for the brake: only OpenAI itself says this of an account, nothing in between does.
_UNMISTAKABLE: Final = frozenset({"account_deactivated", "access_terminated"})
_BY_CODE: Final = frozenset({"invalid_api_key"})
BY_CODE_FACTOR: Final = 4  # times `max_removals` are allowed for a code that a broken gateway might send too


@dataclass(frozen=True, slots=True)
class Record:
    """Why a key or an account is not active. Times are Unix seconds of the store's clock."""

    state: State
    reason: str
    since: float
    until: float = 0.0  # RESTING only: when one request may try it again; 0: nothing tries it
    tries: int = 0  # how often it was tried again without success
    status: int = 0  # evidence: HTTP status,
    message: str = ""  # upstream's words, redacted,
    request_id: str = ""  # upstream's request id
    by: str = OBSERVED
    fingerprint: str = ""  # of the secret(s) this was seen with; another fingerprint starts afresh

    @property
    def firmness(self) -> int:
        """Of several records that hold for one key, the firmest explains best why it is out."""
        return _RANK[self.state]

    @property
    def may_be_tried(self) -> bool:
        """Whether traffic and probes may find out that it is over."""
        return self.state in RESTING and self.until > 0


def may_replace(old: Record | None, new: Record | None, *, by: str = OBSERVED) -> bool:
    """Whether `new` (None: active again, as `by` says) may take the place of `old` (None: active)."""
    if old is None:
        return new is not None
    by = by if new is None else new.by
    if by == OPERATOR:
        return True
    if old.by == OPERATOR:
        return False
    if old.by == WALLET and by != WALLET:
        return new is not None and _RANK[new.state] > _RANK[old.state]
    if new is None:
        return old.state in RESTING and (by != WALLET or old.by == WALLET)
    return _RANK[new.state] >= _RANK[old.state]


def rest_s(state: State, tries: int, jitter: float) -> float:
    """Seconds until the next try: doubling from the first rest, capped; `jitter` in [0, 1) adds up to a quarter."""
    first = FIRST_REST_S.get(state, 60.0)
    rest: float = min(first * 2.0 ** min(tries, 16), LONGEST_REST_S)
    return rest * (1.0 + 0.25 * jitter)


def first_rest_s(state: State, reason: str, now: float, jitter: float) -> float:
    """Seconds of a first rest: until the next month (UTC) if a monthly limit is the reason. `now`: Unix seconds."""
    if state is not State.QUARANTINED or reason not in MONTHLY:
        return rest_s(state, 0, jitter)
    today = datetime.fromtimestamp(now, UTC)
    year, month = (today.year + 1, 1) if today.month == 12 else (today.year, today.month + 1)
    turn = datetime(year, month, 1, tzinfo=UTC).timestamp()
    return turn - now + 1.0 + _MONTHS_TURN_SPREAD_S * jitter


def brake_of(record: Record, max_removals: int) -> tuple[str, int] | None:
    """The brake that applies to an observed removal: (its name, how many are allowed in a minute); None: no brake."""
    if record.state is not State.REMOVED or record.by != OBSERVED or record.reason in _UNMISTAKABLE:
        return None
    if record.reason in _BY_CODE:
        return "code", BY_CODE_FACTOR * max_removals
    return "ambiguous", max_removals


def state_after(verdict: Verdict) -> State | None:
    """The state that a verdict leads to; None: no change."""
    if verdict.kind is Kind.MONEY:
        return State.QUARANTINED
    if verdict.kind is Kind.DEAD:
        return State.REMOVED
    if verdict.kind is Kind.SUSPECT:
        return State.SUSPECT
    return None


def subject_of(verdict: Verdict, key_id: str, account_id: str, organization: str = "") -> Subject:
    """What a verdict is about: the key; the account with all its keys; or, if the account's organisation is known, the
    organisation with all its accounts, else the account."""
    if verdict.scope is Scope.ORGANIZATION and organization:
        return Subject.of_organization(organization)
    if verdict.scope in {Scope.ACCOUNT, Scope.ORGANIZATION}:
        return Subject.of_account(account_id)
    return Subject.of_key(key_id)
