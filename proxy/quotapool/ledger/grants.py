"""The ledger's requests and answers: candidates, grants, refusals, and what upstream's headers reported."""

from __future__ import annotations

import math
from enum import IntEnum
from functools import lru_cache

import msgspec

from quotapool.domain.bucket import DIMENSIONS, UNKNOWN, Moment
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.domain.rules import Kind
from quotapool.domain.subject import Subject
from quotapool.ledger.msgpack import as_string, raw_string
from quotapool.ledger.rules import Charge, Standing

Written = tuple[float, float, float, float, float]
"""Configured limits: rpm, tpm, rpd, tpd, ipm; UNKNOWN if not configured."""


@lru_cache(maxsize=1024)
def written_limits(limits: Limits) -> Written:
    """`limits` as the script reads them, whole numbers as integers, which take one to five bytes instead of nine.
    Equal ones are one object, which saves cache misses in a large pool."""
    values = [v if (v := limits.of(d)) is not None else UNKNOWN for d in DIMENSIONS]
    rpm, tpm, rpd, tpd, ipm, *_ = (int(v) if v == int(v) else v for v in values)
    return rpm, tpm, rpd, tpd, ipm


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """A key that may serve a request. `written` are the configured limits."""

    # What each request needs comes first: it is then in one or two cache lines.
    packed: bytes  # as the script reads it
    place: int  # of the account, in the pool
    account: str
    terms: msgspec.Raw  # `written` and `burst_s`, as the script reads them
    written: Written
    burst_s: float  # how many seconds of a minute's limit may come at once
    key: str
    account_fingerprint: str
    key_fingerprint: str
    organization: str  # "": unknown


def candidate_of(
    *,
    account: str,
    key: str,
    account_fingerprint: str,
    key_fingerprint: str,
    written: Written,
    burst_s: float = 60.0,
    organization: str = "",
    place: int = 0,
) -> Candidate:
    states = [str(Subject.of_account(account)), account_fingerprint, str(Subject.of_key(key)), key_fingerprint]
    if organization:
        states.append(str(Subject.of_organization(organization)))
    terms = packed_terms(written, burst_s)
    packed = b"\x93" + msgspec.msgpack.encode(account) + bytes(terms) + as_string(msgspec.msgpack.encode(states))
    prints = account_fingerprint, key_fingerprint
    return Candidate(packed, place, account, terms, written, burst_s, key, *prints, organization)


@lru_cache(maxsize=1024)
def packed_terms(written: Written, burst_s: float) -> msgspec.Raw:
    """Equal ones are one object, which saves cache misses in a large pool."""
    return raw_string(msgspec.msgpack.encode((burst_s, *written)))


class Granted(msgspec.Struct, eq=False):
    """A reservation. `at` is the store's time; `moments` are the account's bounded buckets right after it, and
    `learned` the limits that upstream has named for them. `local`: granted from this process's share."""

    id: str
    group: str
    cost: Cost
    candidate: Candidate
    at: float
    headroom: float
    is_trial: bool
    moments: dict[Dimension, Moment]
    learned: dict[Dimension, float]
    charge: Charge | None = None  # of its client's rules; None: it has none
    settled: bool = False
    local: bool = False


class Hold(msgspec.Struct, eq=False):
    """What is held of a client's rules beside any account's budget, since the store's second `at`. `local`: of this
    process's share."""

    charge: Charge
    at: float
    settled: bool = False
    local: bool = False


class Refused(msgspec.Struct, frozen=True):
    """No candidate has room. `wait_s` None: waiting does not help; `dead`: candidates that may not be used, by the
    store's states.

    `refill_s`: how long the account that decides takes to gain this cost once more; 0: unknown.
    """

    wait_s: float | None
    dimension: Dimension | None
    hints: tuple[str, ...] = ()
    dead: tuple[Candidate, ...] = ()
    refill_s: float = 0.0


class BlockedRule(msgspec.Struct, frozen=True):
    """A rule that does not let a request through. `wait_s`: 0: as soon as others have settled; None: never."""

    standing: Standing
    amount: float
    used: float
    held: float
    wait_s: float | None


class Blocked(msgspec.Struct, frozen=True):
    """A request that its client's own rules do not let through; nothing was taken from any account."""

    rules: tuple[BlockedRule, ...]
    at: float  # the store's second
    guessed: bool = False  # it named no maximum for its answer
    again_s: float | None = None  # when it may be asked again: a time that no other request was told; None: see wait_s

    @property
    def refill_s(self) -> float:
        """How long the rate that decides takes to gain this request's cost once more; 0: it is no rate."""
        decides = max(self.rules, key=lambda rule: math.inf if rule.wait_s is None else rule.wait_s)
        rule = decides.standing.rule
        return decides.amount / rule.limit * rule.period_s if rule.kind is Kind.RATE and rule.limit > 0 else 0.0

    @property
    def wait_s(self) -> float | None:
        """Until all of them let it through; None: never."""
        longest = 0.0
        for rule in self.rules:
            if rule.wait_s is None:
                return None
            longest = max(longest, rule.wait_s)
        return longest


class Observed(msgspec.Struct, frozen=True, gc=False):
    """What upstream's headers reported for one dimension when it admitted the request (or refused it)."""

    dimension: Dimension
    limit: float
    remaining: float


class Event(IntEnum):
    """What an answer shows about the account besides its headers."""

    NOTHING = 0
    HEADERLESS = 1  # success, and upstream named no limits
    SLOW_DOWN = 2  # traffic grew too fast for upstream
    SHORTER_SPAN = 3  # upstream refused although enough was left for the minute
