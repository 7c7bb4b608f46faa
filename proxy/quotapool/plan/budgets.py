"""The budgets of a replayed pool: reserve, settle and claims, as the store's script does them (`ledger/lua/ledger`).

The arithmetic of levels is `domain/bucket.py`'s, evidence from upstream included.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from quotapool.domain.bucket import DIMENSIONS, NEVER, Bucket, Moment
from quotapool.domain.quantities import Cost, Dimension, Limits
from quotapool.ledger.grants import Refused
from quotapool.plan.demand import Demand
from quotapool.plan.fill import Filling
from quotapool.plan.rules import Charge, Held
from quotapool.plan.scenario import PlanAccount, Scenario
from quotapool.plan.upstream import LimitedAccount, Told

_CLAIM_S: Final = 1.0  # these four as in the script
_CLAIM_GRACE_S: Final = 0.15
_UNHEARD_S: Final = 30.0
_HINTS: Final = 8
_UNBOUNDED: Final = Limits()  # none is written: those in force count as learned
_OBSERVED: Final = (Dimension.RPM, Dimension.TPM, Dimension.RPD)  # in rate headers


@dataclass(slots=True)
class Want:
    """One request at admission. `only`: the accounts that can serve it; None: any. `queued_s`: in all queues so far.
    `short`: the last answer that was no grant."""

    one: Demand
    group: str
    cost: Cost
    patience_s: float
    weight: float
    leave: float
    priority: int
    only: tuple[str, ...] | None = None
    charge: Charge | None = None
    exclude: set[str] = field(default_factory=set)
    queued_s: float = 0.0
    short: Refused | Held | None = None

    @property
    def queue(self) -> str:
        return self.group if self.only is None else f"{self.group}\n{self.only}"

    @property
    def client_queue(self) -> str:
        return f"\n{self.one.client}"

    @property
    def share(self) -> float:
        """As of the real `Want`."""
        return self.cost.requests + self.cost.tokens / 1000


@dataclass(slots=True)
class Grant:
    """A reservation; `headroom` as of the account's emptiest bucket, right after it."""

    want: Want
    account: str
    at: float
    headroom: float
    room: Room
    moments: dict[Dimension, Moment | None]
    told: Told | None = None  # what upstream said of it, once it was sent


@dataclass(slots=True)
class Room:
    """The bucket of an account and a model group, and how much of its limits is used when."""

    bucket: Bucket
    burst_s: float
    filling: Filling
    upstream: LimitedAccount
    seen_at: float = 0.0  # when the bucket was refilled, if nothing came back since

    def headroom(self) -> float:
        least = 1.0
        for i in range(len(DIMENSIONS)):
            level, limit = self.bucket.level(i), self.bucket.learned[i]
            if level is not None:
                least = min(least, level / limit if limit > 0 else 0.0)
        return least


@dataclass(slots=True)
class _Claim:
    owner: str
    arrived: float
    until: float


class _NextReady:
    """When each account fits a request like its last one: the script's sorted set."""

    def __init__(self) -> None:
        self._when: dict[str, float] = {}
        self._sorted: list[tuple[float, str]] = []

    def put(self, account: str, when: float) -> None:
        self.drop(account)
        self._when[account] = when
        bisect.insort(self._sorted, (when, account))

    def drop(self, account: str) -> None:
        old = self._when.pop(account, None)
        if old is not None:
            del self._sorted[bisect.bisect_left(self._sorted, (old, account))]

    def drop_until(self, when: float) -> None:
        unheard = bisect.bisect_right(self._sorted, (when, "\U0010ffff"))
        for _, account in self._sorted[:unheard]:
            del self._when[account]
        del self._sorted[:unheard]

    def soonest(self) -> list[tuple[float, str]]:
        return self._sorted[:_HINTS]


class Budgets:
    """All accounts' budgets, from which every process reserves. Times are Unix seconds that never fall."""

    def __init__(self, scenario: Scenario, since: float) -> None:
        self._accounts = {account.id: account for account in scenario.accounts}
        self._since = since
        self._next: dict[str, _NextReady] = {}
        self._claims: dict[str, dict[str, _Claim]] = {}
        self.rooms: dict[tuple[str, str], Room] = {}
        self.out: set[str] = set()

    # ---- as the script

    def reserve(
        self,
        want: Want,
        accounts: Sequence[str],
        now: float,
        *,
        owner: str = "",
        arrived: float,
        forget: Collection[str] = (),
    ) -> Grant | Refused | Held:
        """From the first of these accounts that has room."""
        charge = want.charge
        if charge is not None and (held := charge.held_up(now)) is not None:
            return held
        group, cost = want.group, want.cost
        ready = self._next.setdefault(group, _NextReady())
        for account in forget:
            ready.drop(account)
        claims = self._claims_against(group, owner, arrived, now)
        soonest, dimension, refill_s = math.inf, None, 0.0
        best, best_wait, fits_somewhere = "", math.inf, False
        again: list[tuple[str, float]] = []
        for account in accounts:
            claim = claims.get(account)
            if claim is not None and claim.owner != owner:
                fits_somewhere = True
                wait = max(0.01, claim.until - now)
                if wait < soonest:
                    soonest, dimension = wait, None
                continue
            room = self._room(account, group, now)
            bucket = room.bucket
            wait, which = bucket.wait(cost, _UNBOUNDED, room.burst_s, want.leave)
            if wait == 0:
                bucket.take(cost)
                room.filling.took(now, cost)
                if owner:
                    self.release(group, owner)
                for name, when in again:
                    ready.put(name, when)
                next_wait, _ = bucket.wait(cost, _UNBOUNDED, room.burst_s, want.leave)
                ready.put(account, now + next_wait)
                if charge is not None:
                    charge.take(now)
                moments = {d: bucket.moment(DIMENSIONS.index(d)) for d in _OBSERVED}
                return Grant(want, account, now, room.headroom(), room, moments)
            if wait != NEVER:
                fits_somewhere = True
                if wait < best_wait:
                    best, best_wait = account, wait
                again.append((account, math.ceil((now + wait) * 1000) / 1000))
                if wait < soonest:
                    soonest, dimension = wait, which
                    refill_s = cost.of(which) / bucket.rate(DIMENSIONS.index(which), _UNBOUNDED) if which else 0.0
            elif not fits_somewhere:
                dimension = which
        if owner and best:
            self._claim(group, owner, arrived, best, now + min(best_wait, _CLAIM_S) + _CLAIM_GRACE_S)
        for name, when in again:
            ready.put(name, when)
        hints: list[str] = []
        if want.only is None:
            ready.drop_until(now - _UNHEARD_S)
            for at, name in ready.soonest():
                if name not in accounts:
                    wait = max(0.0, at - now)
                    soonest = min(soonest, wait)
                    if wait == 0:
                        hints.append(name)
        return Refused(None if soonest == math.inf else soonest, dimension, tuple(hints), refill_s=refill_s)

    def send(self, grant: Grant, now: float) -> bool:
        """The request goes upstream. False: it was not admitted there, and the account rests."""
        room, cost = grant.room, grant.want.cost
        told = grant.told = room.upstream.ask(cost, now, grant.moments)
        if told.refused_for_s is None:
            return True
        bucket = room.bucket
        bucket.refill(now, _UNBOUNDED, burst_s=room.burst_s)
        bucket.follow(grant.at, told.evidence, _UNBOUNDED, room.burst_s)
        room.seen_at = 0.0
        bucket.settle(Cost(0, cost.tokens), 0.0)
        bucket.cool_until = max(bucket.cool_until, now + told.refused_for_s)
        self._next[grant.want.group].put(grant.account, bucket.cool_until)
        room.filling.took(now, Cost(0, -cost.tokens, -cost.images))
        if grant.want.charge is not None:
            grant.want.charge.give_back(grant.at)
        return False

    def settle(self, grant: Grant, now: float) -> float:
        """Upstream has answered: what was reserved and not used is known. The account's headroom."""
        want, room = grant.want, grant.room
        bucket, used = room.bucket, want.one.tokens if want.cost.requests else 0
        bucket.refill(now, _UNBOUNDED, burst_s=room.burst_s)
        room.seen_at = 0.0
        if grant.told is not None:
            bucket.follow(grant.at, grant.told.evidence, _UNBOUNDED, room.burst_s)
        bucket.settle(Cost(0), want.cost.tokens - used)
        room.upstream.answered(want.cost.tokens, used, now)
        room.filling.used(now, used)
        if want.charge is not None:
            want.charge.settle(grant.at)
        return room.headroom()

    def release(self, group: str, owner: str) -> None:
        """`owner` has left its queue."""
        claims = self._claims.get(group)
        if claims:
            for account in [account for account, claim in claims.items() if claim.owner == owner]:
                del claims[account]

    # ---- rooms and claims

    def largest(self, group: str) -> str:
        """The account with the largest token limit."""
        in_use = [account for account in self._accounts.values() if account.id not in self.out]
        return max(in_use, key=lambda account: _tokens_of(account, group)).id if in_use else ""

    def _room(self, account: str, group: str, now: float) -> Room:
        room = self.rooms.get((account, group))
        if room is None:
            of = self._accounts[account]
            limits = of.limits_of(group)
            bucket = Bucket(now)
            bucket.learned = [math.inf if (limit := limits.of(d)) is None else limit for d in DIMENSIONS]
            room = self.rooms[account, group] = Room(
                bucket,
                of.burst_s,
                Filling(bucket.learned, self._since),
                LimitedAccount(limits, now, corrects=of.is_corrected(group)),
            )
        if room.seen_at != now:  # several ask at one moment
            room.bucket.refill(now, _UNBOUNDED, burst_s=room.burst_s)
            room.seen_at = now
        return room

    def _claims_against(self, group: str, owner: str, arrived: float, now: float) -> dict[str, _Claim]:
        """Those that keep this caller from an account, and its own."""
        claims = self._claims.get(group)
        if not claims:
            return {}
        for account in [account for account, claim in claims.items() if claim.until < now]:
            del claims[account]
        return {account: claim for account, claim in claims.items() if claim.owner == owner or claim.arrived < arrived}

    def _claim(self, group: str, owner: str, arrived: float, account: str, until: float) -> None:
        """A refused one that waits gets the next room of the account that has it soonest."""
        self.release(group, owner)
        self._claims.setdefault(group, {})[account] = _Claim(owner, arrived, until)


def _tokens_of(account: PlanAccount, group: str) -> float:
    limit = account.limits_of(group).of(Dimension.TPM)
    return math.inf if limit is None else limit
