"""The pool as one process sees it: accounts, their keys, who is usable, and whom to ask first.

Pure: time and randomness are arguments. The store has the last word on budgets and states; this view only
orders the candidates, so that the first one asked is nearly always the one that grants. No call here costs
more with more keys, but for `replace` and `apply_states`, which run when the pool changes.
"""

from __future__ import annotations

import bisect
import hashlib
import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from proxy.domain.states import Record, State
from proxy.domain.wallet import MONTHLY_STOP

_STEPS = 64  # how far to look for a usable one
_SHORT = 0.15  # head-room below which a sticky request goes elsewhere
PAIR = 2  # accounts that are compared while there is room: the fuller of two random ones is nearly the fullest
CANDIDATES = 6  # accounts that one reserve names while there is little
_REFILL_S = 60.0  # most budgets are per minute; for a daily one this errs for a moment, and the store decides
_FRESH = (1.0, 0.0)  # head-room of what was never asked, and when that was heard
_MOST_GROUPS = 1_000  # model groups of which an account's head-room is remembered
_MODEL_REST_S = 300.0  # how long an account that lacks a model is not asked for it again


@dataclass(frozen=True, slots=True)
class Key:
    """One upstream key without its secret. `fingerprint` identifies the secret, and reveals nothing of it."""

    id: str
    account: str
    fingerprint: str


@dataclass(slots=True)
class Account:
    """Keys that share budgets, credit and stored objects, and what we last heard of its head-room."""

    id: str
    keys: list[Key]
    usable: list[Key] = field(default_factory=list)
    resting: list[tuple[float, Key]] = field(default_factory=list)  # (from when one request may try it again, key)
    turn: int = 0
    weight: float = 1.0
    organization: str = ""  # "" where nobody named one
    # What was heard last, by model group: (0..1, heard at). The group asked last stands apart: most accounts are asked
    # for one, and in a large pool each object less to look at is a wait for memory less.
    headroom: dict[str, tuple[float, float]] = field(default_factory=dict)
    last_group: str = ""
    last_share: float = 1.0
    last_at: float = 0.0

    @property
    def fingerprint(self) -> str:
        """Changes when any secret of the account does."""
        return "+".join(sorted(k.fingerprint for k in self.keys))

    def expected(self, group: str, now: float) -> float:
        """Head-room now: what was heard, and what a minute's budget has refilled since. Else an account that was
        nearly empty when it was last used would be passed over for ever."""
        share, at = (self.last_share, self.last_at) if group == self.last_group else self.headroom.get(group, _FRESH)
        return min(1.0, share + max(0.0, now - at) / _REFILL_S)

    def rank(self, group: str, now: float) -> tuple[int, float]:
        """The lower, the sooner it is asked: by its head-room in tenths, and among equals the one unheard of for the
        longest. (What we last heard is some calls old; by exact figures one favourite would get them all.)"""
        share, at = (self.last_share, self.last_at) if group == self.last_group else self.headroom.get(group, _FRESH)
        return -round(10 * self.weight * min(1.0, share + max(0.0, now - at) / _REFILL_S)), at

    def hear(self, group: str, share: float, now: float) -> None:
        if group != self.last_group:
            if len(self.headroom) > _MOST_GROUPS:
                self.headroom.clear()
            self.headroom[self.last_group] = self.last_share, self.last_at
            self.last_group = group
        self.last_share, self.last_at = share, now

    def next_key(self) -> Key:
        self.turn = (self.turn + 1) % len(self.usable)
        return self.usable[self.turn]


def _ring(accounts: Iterable[Account]) -> list[tuple[int, Account]]:
    """Sixteen places of each account: its digest's 64 bytes, by fours. (CRCs of names that differ in one character lie
    so regularly that some accounts would get a tenth of their share.)"""
    places = []
    for account in accounts:
        digest = hashlib.blake2b(account.id.encode()).digest()
        places += [(int.from_bytes(digest[n : n + 4], "big"), account) for n in range(0, len(digest), 4)]
    return sorted(places, key=lambda place: place[0])


def _two_of(accounts: list[Account], rng: random.Random) -> list[Account]:
    """Two different ones, at a quarter of the time that `rng.sample` takes."""
    first, second = int(rng.random() * len(accounts)), int(rng.random() * (len(accounts) - 1))
    return [accounts[first], accounts[second + (second >= first)]]


class Pool:
    """Accounts by id, and the list of those that can be picked."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.accounts: dict[str, Account] = {}
        self.keys: dict[str, Key] = {}
        self.records: dict[str, Record] = {}
        self._pickable: list[Account] = []
        self._resting: list[Account] = []
        self.organizations: dict[str, list[Account]] = {}
        self._lacking: dict[tuple[str, str], float] = {}
        self._ring: list[tuple[int, Account]] = []
        self.replace(keys)

    def __repr__(self) -> str:
        return f"<Pool accounts={len(self.accounts)} pickable={len(self._pickable)} resting={len(self._resting)}>"

    def replace(
        self,
        keys: Iterable[Key],
        weights: Mapping[str, float] | None = None,
        organizations: Mapping[str, str] | None = None,
    ) -> None:
        """Take a new set of keys; what is known of accounts that stay is kept. By account: `weights`, 1 by default, and
        `organizations`."""
        accounts: dict[str, Account] = {}
        self.keys = {}
        for key in keys:
            self.keys[key.id] = key
            account = accounts.get(key.account)
            if account is None:
                known = self.accounts.get(key.account)
                account = accounts[key.account] = Account(key.account, [])
                if known is not None:
                    account.headroom = known.headroom
                    account.last_group, account.last_share = known.last_group, known.last_share
                    account.last_at = known.last_at
            account.keys.append(key)
        self.accounts = accounts
        for name, weight in (weights or {}).items():
            if name in accounts:
                accounts[name].weight = weight
        self.organizations = {}
        for name, organization in (organizations or {}).items():
            if name in accounts:
                accounts[name].organization = organization
                self.organizations.setdefault(organization, []).append(accounts[name])
        self._ring = _ring(accounts.values())
        self.apply_states(self.records)

    def apply_states(self, records: Mapping[str, Record]) -> None:
        """Sort accounts into pickable, resting and out, after what the store says."""
        self.records = dict(records)
        self._pickable, self._resting = [], []
        for account in self.accounts.values():
            shared = self._shared(account)
            account.usable, account.resting = [], []
            for key in account.keys:
                own = self._record(f"k/{key.id}", key.fingerprint)
                held = shared if own is None else [*shared, own]
                if not held:
                    account.usable.append(key)
                elif all(record.may_be_tried for record in held):
                    account.resting.append((max(record.until for record in held), key))
            if account.usable:
                self._pickable.append(account)
            if account.resting:
                account.resting.sort(key=lambda pair: pair[0])
                self._resting.append(account)

    def _record(self, name: str, fingerprint: str) -> Record | None:
        record = self.records.get(name)
        if record is None or (record.fingerprint and record.fingerprint != fingerprint):
            return None
        return record

    def _shared(self, account: Account) -> list[Record]:
        """What is wrong with the account or its organisation. The latter's record holds whatever secret it was seen
        with: the organisation has many."""
        of_organization = self.records.get(f"o/{account.organization}") if account.organization else None
        of_account = self._record(f"a/{account.id}", account.fingerprint)
        return [record for record in (of_organization, of_account) if record is not None]

    def record_of(self, key: Key) -> Record | None:
        """Why this key is out, the firmest reason first, its organisation's and account's before its own; None if it is
        active."""
        own = self._record(f"k/{key.id}", key.fingerprint)
        records = self._shared(self.accounts[key.account]) + ([own] if own is not None else [])
        return max(records, key=lambda record: record.firmness) if records else None

    def state_of(self, key: Key) -> State:
        record = self.record_of(key)
        return record.state if record else State.ACTIVE

    def due(self, moment: float, rng: random.Random) -> list[Key]:
        """Resting keys that might have been tried since before `moment`, in any order: one an account, and one for all
        accounts whose organisation is what rests."""
        found: list[Key] = []
        organizations: set[str] = set()
        for account in self._resting:
            keys = [key for until, key in account.resting if until <= moment]
            if not keys:
                continue
            if account.organization and f"o/{account.organization}" in self.records:
                if account.organization in organizations:
                    continue
                organizations.add(account.organization)
            found.append(rng.choice(keys))
        rng.shuffle(found)
        return found

    def lacks(self, account: str, model: str, now: float) -> None:
        """Remember that upstream said this account has no access to this model."""
        if len(self._lacking) > 10_000:
            self._lacking.clear()
        self._lacking[account, model] = now + _MODEL_REST_S

    def heard(self, account: str, group: str, headroom: float, now: float) -> None:
        """Remember the emptiest bucket's level, as a share of its depth, after a grant or an answer."""
        known = self.accounts.get(account)
        if known is not None:
            known.hear(group, headroom, now)

    def pick(
        self,
        group: str,
        model: str,
        *,
        now: float,
        rng: random.Random,
        exclude: Collection[str] = (),
        may_try_resting: bool = False,
        prefer: Collection[str] = (),
        sticky: int | None = None,
        few: bool = False,
        only: Iterable[str] | None = None,
    ) -> list[Key]:
        """An ordered handful of keys, one an account: a resting one whose time has come, then the one that `sticky`
        requests like, then those of `prefer` (accounts the store named as ready), then random ones by head-room.

        `few`: the better one of a random pair is enough, since there was room lately. `only`: no other accounts than
        these, which hold what the request needs."""
        if only is not None:
            return self._pick_only(only, now, set(exclude), may_try_resting=may_try_resting)
        pickable = self._pickable
        if few and len(pickable) > PAIR:
            chosen = _two_of(pickable, rng)
            if sticky is None and not (exclude or prefer or self._lacking or (may_try_resting and self._resting)):
                one, other = chosen  # nearly always: nothing else to consider
                return [(one if one.rank(group, now) <= other.rank(group, now) else other).next_key()]
        else:
            chosen = rng.sample(pickable, min(CANDIDATES, len(pickable)))
        chosen.sort(key=lambda account: account.rank(group, now))
        favourite = self._favourite(sticky, group, now) if sticky is not None else ()
        named = [a for name in prefer if (a := self.accounts.get(name)) is not None and a.usable]
        seen = set(exclude)
        picked: list[Key] = []
        if may_try_resting and self._resting:
            account = self._resting[rng.randrange(len(self._resting))]
            until, key = account.resting[0]
            if until <= now and account.id not in seen:
                picked.append(key)
        for account in (*favourite, *named, *chosen):
            if account.id in seen or (self._lacking and self._lacking.get((account.id, model), 0.0) > now):
                continue
            seen.add(account.id)
            picked.append(account.next_key())
            if few:
                break
        return picked[:CANDIDATES]

    def _pick_only(self, only: Iterable[str], now: float, exclude: set[str], *, may_try_resting: bool) -> list[Key]:
        picked: list[Key] = []
        for name in only:
            account = self.accounts.get(name)
            if account is None or name in exclude:
                continue
            if account.usable:
                picked.append(account.next_key())
            elif may_try_resting and account.resting and account.resting[0][0] <= now:
                picked.append(account.resting[0][1])
        return picked[:CANDIDATES]

    def _favourite(self, sticky: int, group: str, now: float) -> tuple[Account, ...]:
        """Where requests of this number go: the next usable account on a ring of hashes, so that a change of the pool
        moves only the numbers of the accounts it concerns. None once that account is short: cached tokens are cheaper,
        but not worth waiting for."""
        if not self._ring:
            return ()
        start = bisect.bisect(self._ring, sticky & 0xFFFFFFFF, key=lambda place: place[0])
        for step in range(_STEPS):
            account = self._ring[(start + step) % len(self._ring)][1]
            if account.usable:
                return (account,) if account.expected(group, now) > _SHORT else ()
        return ()

    @property
    def size(self) -> int:
        return len(self._pickable)

    def why_empty(self) -> str:
        """With nothing pickable: `money`, `spend_limit`, `dead` or `suspect`, whichever helps the caller most.

        A pool with one account that will come back is not dead, so money outranks death.
        """
        reasons = [r for k in self.keys.values() if (r := self.record_of(k)) is not None]
        money = [r for r in reasons if r.state is State.QUARANTINED]
        if money:
            limits = all("limit" in r.reason or r.reason == MONTHLY_STOP for r in money)
            return "spend_limit" if limits else "money"
        return "suspect" if any(r.state is State.SUSPECT for r in reasons) else "dead"
