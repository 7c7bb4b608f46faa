"""The pool as one process sees it: accounts, their keys, which are usable, and which to try first.

Pure: time and randomness are arguments. The store decides about budgets and states; this view only orders the
candidates, so that the first one tried is nearly always the one that grants. No call here costs more with more keys,
except `replace`, `apply_states`, `apply_changes` and `due`, which do not run for each request.
"""

from __future__ import annotations

import bisect
import hashlib
import random
import struct
from array import array
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from quotapool.domain.access import Use
from quotapool.domain.headroom import Headroom
from quotapool.domain.missing_access import MissingAccess
from quotapool.domain.states import Record, State
from quotapool.domain.subject import Subject
from quotapool.domain.wallet import MONTHLY_STOP

_STEPS = 64  # how far to look for a usable account on the ring
_SHORT = 0.15  # headroom below which a sticky request goes elsewhere
PAIR = 2  # accounts that are compared while there is room: the fuller of two random ones is nearly the fullest
CANDIDATES = 6  # accounts that one reservation names while there is little room
_POINTS = struct.Struct(">16I")
_LOWER = 0xFFFFFFFF  # the half of a point that is the account's place
_NOT_ONE = -1  # several usable keys, which take turns, or none


_OF_KEYS = (  # attributes of a pool that `replace` makes anew
    *("accounts", "keys", "organizations", "_keys_by_index", "_indexes", "_by_place", "_weights", "_ring", "_on_ring"),
    *("_pickable", "_resting", "_only_keys"),
)


@dataclass(frozen=True, slots=True)
class Key:
    """One upstream key without its secret. `fingerprint` identifies the secret without revealing anything of it."""

    id: str
    account: str
    fingerprint: str


@dataclass(slots=True)
class Account:
    """Keys that share budgets, credit and stored objects. `place` is its permanent index in the pool's arrays."""

    id: str
    keys: list[Key]
    place: int
    usable: list[Key] = field(default_factory=list)
    resting: list[tuple[float, Key]] = field(default_factory=list)  # (when one request may try it again, key)
    turn: int = 0
    organization: str = ""  # "": not known

    @property
    def fingerprint(self) -> str:
        """Changes whenever a secret of the account does."""
        return "+".join(sorted(k.fingerprint for k in self.keys))

    def next_key(self) -> Key:
        self.turn = (self.turn + 1) % len(self.usable)
        return self.usable[self.turn]


def _points(account: Account) -> list[int]:
    """Its sixteen points on the ring, each with its place in the lower half: the 64 bytes of its digest, in fours.
    (CRCs of names that differ in one character are spread so regularly that some accounts would get a tenth of their
    share.)"""
    digest = hashlib.blake2b(account.id.encode()).digest()
    return [point << 32 | account.place for point in _POINTS.unpack(digest)]


def _two_of(count: int, rng: random.Random) -> tuple[int, int]:
    """Two different numbers below `count`, in a quarter of the time that `rng.sample` takes."""
    first, second = int(rng.random() * count), int(rng.random() * (count - 1))
    return first, second + (second >= first)


def _some_of(count: int, rng: random.Random) -> Iterable[int]:
    """`CANDIDATES` different numbers below `count`, in any order; all of them if there are not more."""
    drawn: dict[int, None] = {}
    while len(drawn) < min(CANDIDATES, count):
        drawn[int(rng.random() * count)] = None
    return drawn


def _changed(before: Mapping[Subject, Record], after: Mapping[Subject, Record]) -> list[Subject]:
    """What has another record, or one of two has none."""
    if before is after:
        return []
    changed = [
        subject for subject, record in after.items() if (known := before.get(subject)) is not record and known != record
    ]
    return changed + [subject for subject in before if subject not in after]


class Pool:
    """Accounts by id, and the list of those that can be picked.

    What each request reads of random accounts is in arrays, for the reason given in `headroom.py`. An account's index
    in them is its place, which is permanent; a key is picked by its index among the keys, which `replace` changes.
    """

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.accounts: dict[str, Account] = {}
        self.keys: dict[str, Key] = {}
        self.records: dict[Subject, Record] = {}
        self.headroom = Headroom()
        self._places: dict[str, int] = {}  # also of accounts that have left: observations of them may still arrive
        self._weights = array("f")
        self._keys_by_index: list[Key] = []
        self._indexes: dict[str, int] = {}  # by key id
        self._by_place: dict[int, Account] = {}
        self._only_keys = array("i")  # by place: the index of its only usable key, or _NOT_ONE
        self._pickable = array("i")  # places
        self._resting: list[Account] = []
        self.organizations: dict[str, list[Account]] = {}
        self.missing = MissingAccess()
        self._ring = array("Q")  # points of accounts, ascending
        self._on_ring: set[int] = set()  # the places of these
        self.replace(keys)

    def __repr__(self) -> str:
        return f"<Pool accounts={len(self.accounts)} pickable={len(self._pickable)} resting={len(self._resting)}>"

    def replace(
        self,
        keys: Iterable[Key],
        weights: Mapping[str, float] | None = None,
        organizations: Mapping[str, str] | None = None,
    ) -> None:
        """Take a new set of keys; what is known of accounts that stay is kept. `weights` (1 by default) and
        `organizations` are by account."""
        accounts: dict[str, Account] = {}
        self.keys = {key.id: key for key in keys}
        self._keys_by_index = list(self.keys.values())
        self._indexes = {key.id: index for index, key in enumerate(self._keys_by_index)}
        for key in self._keys_by_index:
            account = accounts.get(key.account)
            if account is None:
                place = self._places.setdefault(key.account, len(self._places))
                account = accounts[key.account] = Account(key.account, [], place)
            account.keys.append(key)
        self.accounts = accounts
        self._by_place = {account.place: account for account in accounts.values()}
        self.headroom.grow(len(self._places))
        self._weights = array("f", (1.0,)) * len(self._places)
        for name, weight in (weights or {}).items():
            self.weigh(name, weight)
        self.organizations = {}
        for name, organization in (organizations or {}).items():
            if name in accounts:
                accounts[name].organization = organization
                self.organizations.setdefault(organization, []).append(accounts[name])
        self._extend_ring()
        self._sort_all()

    def successor(self, keys: Iterable[Key], weights: Mapping[str, float], organizations: Mapping[str, str]) -> Pool:
        """This pool with another set of keys, which `become` takes. Can be made in a thread, one at a time: what it
        shares with this pool, which is used meanwhile, only grows."""
        new = Pool()
        for part in ("records", "headroom", "missing", "_places", "_ring", "_on_ring"):
            setattr(new, part, getattr(self, part))
        new.replace(keys, weights, organizations)
        return new

    def become(self, successor: Pool) -> None:
        """Take the keys of a successor, and the states of today."""
        for part in _OF_KEYS:
            setattr(self, part, getattr(successor, part))
        self._sort_again(_changed(successor.records, self.records))

    def _extend_ring(self) -> None:
        """Hashing and sorting all takes half a second for 30,000 accounts, so only new ones are added. The points of
        those that left stay until they are the majority: places are permanent, and a lookup skips them."""
        places = set(self._by_place)
        if len(self._on_ring) > 2 * len(places):
            self._ring, self._on_ring = array("Q"), set()
        if new := places - self._on_ring:
            parts: list[list[int]] = [[] for _ in range(256)]  # by the first byte: nothing else runs during a sort
            for points in (self._ring, *(_points(self._by_place[place]) for place in new)):
                for point in points:
                    parts[point >> 56].append(point)
            self._ring = array("Q")
            for part in parts:
                self._ring.extend(sorted(part))
            self._on_ring = self._on_ring | new

    def weigh(self, account: str, weight: float) -> None:
        """Give an account, if it is one of ours, more or less than the others; 1: as much."""
        if account in self.accounts:
            self._weights[self.accounts[account].place] = weight

    def weight_of(self, account: str) -> float:
        return self._weights[self.accounts[account].place]

    def apply_states(self, records: Mapping[Subject, Record]) -> None:
        """Take all of the store's records: accounts become pickable, resting or out by those that have changed."""
        before, self.records = self.records, dict(records)
        self._sort_again(_changed(before, self.records))

    def apply_changes(self, changes: Mapping[Subject, Record | None]) -> None:
        """Take some of the store's records; None: there is none any more. The others stay as they are."""
        records = dict(self.records)
        for subject, record in changes.items():
            if record is None:
                records.pop(subject, None)
            else:
                records[subject] = record
        self.records = records
        self._sort_again(changes)

    def _sort_again(self, changed: Collection[Subject]) -> None:
        """Sort the accounts that these records are about. All else costs 2 ms with 30,000 accounts."""
        if not changed:
            return
        for name in self._concerned_by(changed):
            account = self.accounts.get(name)
            if account is not None:
                self._sort(account)
        self._list_accounts()

    def _sort_all(self) -> None:
        self._only_keys = array("i", (_NOT_ONE,)) * len(self._places)
        concerned = self._concerned_by(self.records)
        for account in self.accounts.values():
            if account.id in concerned:
                self._sort(account)
            else:
                account.usable, account.resting = list(account.keys), []
                self._note_only_key(account)
        self._list_accounts()

    def _sort(self, account: Account) -> None:
        """Its keys into usable, resting and out, by all records."""
        shared = self._shared(account)
        account.usable, account.resting = [], []
        for key in account.keys:
            own = self._record(Subject.of_key(key.id), key.fingerprint)
            held = shared if own is None else [*shared, own]
            if not held:
                account.usable.append(key)
            elif all(record.may_be_tried for record in held):
                account.resting.append((max(record.until for record in held), key))
        account.resting.sort(key=lambda pair: pair[0])
        self._note_only_key(account)

    def _note_only_key(self, account: Account) -> None:
        usable = account.usable
        self._only_keys[account.place] = self._indexes[usable[0].id] if len(usable) == 1 else _NOT_ONE

    def _list_accounts(self) -> None:
        self._pickable = array("i", [account.place for account in self.accounts.values() if account.usable])
        self._resting = [account for account in self.accounts.values() if account.resting]

    def _concerned_by(self, records: Iterable[Subject]) -> set[str]:
        """The accounts that have records, or whose keys or organisation have some: of thousands, a few."""
        found: set[str] = set()
        for name in {subject[2:] for subject in records}:
            found.add(name)
            if (key := self.keys.get(name)) is not None:
                found.add(key.account)
            found.update(account.id for account in self.organizations.get(name, ()))
        return found

    def _record(self, subject: Subject, fingerprint: str) -> Record | None:
        record = self.records.get(subject)
        if record is None or (record.fingerprint and record.fingerprint != fingerprint):
            return None
        return record

    def _shared(self, account: Account) -> list[Record]:
        """What is wrong with the account or its organisation. The latter's record applies whichever secret it was seen
        with, since the organisation has many."""
        of_organization = (
            self.records.get(Subject.of_organization(account.organization)) if account.organization else None
        )
        subject = Subject.of_account(account.id)
        of_account = self._record(subject, account.fingerprint) if subject in self.records else None
        return [record for record in (of_organization, of_account) if record is not None]

    def record_of(self, key: Key) -> Record | None:
        """Why this key is out: the firmest record, its organisation's and account's before its own; None if it is
        active."""
        own = self._record(Subject.of_key(key.id), key.fingerprint)
        records = self._shared(self.accounts[key.account]) + ([own] if own is not None else [])
        return max(records, key=lambda record: record.firmness) if records else None

    def state_of(self, key: Key) -> State:
        record = self.record_of(key)
        return record.state if record else State.ACTIVE

    def due(self, moment: float, rng: random.Random) -> list[Key]:
        """Resting keys that may be tried since `moment` or earlier, in random order: one per account, and only one for
        all accounts of an organisation that rests as a whole."""
        found: list[Key] = []
        organizations: set[str] = set()
        for account in self._resting:
            keys = [key for until, key in account.resting if until <= moment]
            if not keys:
                continue
            if account.organization and Subject.of_organization(account.organization) in self.records:
                if account.organization in organizations:
                    continue
                organizations.add(account.organization)
            found.append(rng.choice(keys))
        rng.shuffle(found)
        return found

    def note_headroom(self, place: int, group: str, headroom: float, now: float) -> None:
        """Remember the level of the emptiest bucket, as a share of its depth, after a grant or an answer."""
        self.headroom.update(group, place, headroom, now)

    def pick(
        self,
        group: str,
        use: Use,
        *,
        now: float,
        rng: random.Random,
        exclude: Collection[str] = (),
        may_try_resting: bool = False,
        prefer: Collection[str] = (),
        sticky: int | None = None,
        few: bool = False,
        only: Iterable[str] | None = None,
        avoid_missing: bool = True,
    ) -> list[int]:
        """The indexes of a few keys, in order, one per account: a resting one that may be tried again, then the one
        that `sticky` leads to, then those of `prefer` (accounts that the store reported as ready), then random ones by
        headroom.

        `few`: the better of a random pair is enough, since there was room lately. `only`: no accounts but these, which
        hold what the request needs. `avoid_missing`: none that lacks access to what the request uses."""
        if only is not None:
            return self._pick_only(only, use, now, set(exclude), may_try_resting=may_try_resting)
        pickable, weights, levels = self._pickable, self._weights, self.headroom.of(group)
        if few and len(pickable) > PAIR:
            first, second = _two_of(len(pickable), rng)
            one, other = pickable[first], pickable[second]
            if levels.rank(other, weights[other], now) < levels.rank(one, weights[one], now):
                one, other = other, one
            if sticky is None and not (exclude or prefer or self.missing.active or (may_try_resting and self._resting)):
                return [self._next_key(one)]  # nearly always: nothing else to consider
            chosen = [one, other]
        else:
            chosen = [pickable[n] for n in _some_of(len(pickable), rng)]
            chosen.sort(key=lambda place: levels.rank(place, weights[place], now))
        favourite = self._favourite(sticky, group, now) if sticky is not None else ()
        preferred = [a.place for name in prefer if (a := self.accounts.get(name)) is not None and a.usable]
        seen = {self._places[name] for name in exclude if name in self._places}
        missing = self.missing if avoid_missing and self.missing.active else None
        picked: list[int] = []
        if may_try_resting and self._resting:
            account = self._resting[rng.randrange(len(self._resting))]
            until, key = account.resting[0]
            if until <= now and account.place not in seen:
                picked.append(self._indexes[key.id])
        for place in (*favourite, *preferred, *chosen):
            if place in seen or (missing is not None and missing.account_lacks(place, use, now)):
                continue
            seen.add(place)
            index = self._next_key(place) if missing is None else self._next_key_with(missing, place, use, now)
            if index is not None:
                picked.append(index)
                if few:
                    break
        return picked[:CANDIDATES]

    def _next_key(self, place: int) -> int:
        """The index of a usable account's next key: its keys take turns."""
        index = self._only_keys[place]
        return index if index != _NOT_ONE else self._indexes[self._by_place[place].next_key().id]

    def _next_key_with(self, missing: MissingAccess, place: int, use: Use, now: float) -> int | None:
        """The same, of those keys that have access to the endpoint; None: no key has."""
        account = self._by_place[place]
        for _ in account.usable:
            key = account.next_key()
            if not missing.key_lacks(key.id, use, now):
                return self._indexes[key.id]
        return None

    def _pick_only(
        self, only: Iterable[str], use: Use, now: float, exclude: set[str], *, may_try_resting: bool
    ) -> list[int]:
        picked: list[int] = []
        for name in only:
            account = self.accounts.get(name)
            if account is None or name in exclude:
                continue
            if account.usable:
                index = self._next_key_with(self.missing, account.place, use, now) if self.missing.active else None
                picked.append(self._next_key(account.place) if index is None else index)
            elif may_try_resting and account.resting and account.resting[0][0] <= now:
                picked.append(self._indexes[account.resting[0][1].id])
        return picked[:CANDIDATES]

    def has_other(self, account: str, exclude: Collection[str], only: Collection[str] | None) -> bool:
        """Whether an account other than `account` might be picked. True where finding out takes a look at many."""
        if len(self._pickable if only is None else only) > CANDIDATES:
            return True
        for name in [self._by_place[place].id for place in self._pickable] if only is None else only:
            other = self.accounts.get(name)
            if name != account and name not in exclude and other is not None and other.usable:
                return True
        return False

    def key_at(self, index: int) -> Key:
        return self._keys_by_index[index]

    def index_of(self, key: Key) -> int | None:
        """None for a key that has left."""
        return self._indexes.get(key.id)

    def _favourite(self, sticky: int, group: str, now: float) -> tuple[int, ...]:
        """Where requests with this number go: the next usable account on a ring of hashes, so that a change of the pool
        only moves the numbers of the accounts concerned. Empty once that account is short: cached tokens are cheaper,
        but not worth waiting for."""
        if not self._ring:
            return ()
        start = bisect.bisect(self._ring, (sticky & 0xFFFFFFFF) << 32 | _LOWER)
        for step in range(_STEPS):
            account = self._by_place.get(self._ring[(start + step) % len(self._ring)] & _LOWER)
            if account is not None and account.usable:
                short = self.headroom.of(group).expected(account.place, now) <= _SHORT
                return () if short else (account.place,)
        return ()

    @property
    def size(self) -> int:
        return len(self._pickable)

    def why_empty(self) -> str:
        """Why nothing can be picked: `money`, `spend_limit`, `dead` or `suspect`, whichever helps the caller most.

        A pool with one account that will come back is not dead, so money outranks death.
        """
        records = [r for k in self.keys.values() if (r := self.record_of(k)) is not None]
        money = [r for r in records if r.state is State.QUARANTINED]
        if money:
            limits = all("limit" in r.reason or r.reason == MONTHLY_STOP for r in money)
            return "spend_limit" if limits else "money"
        return "suspect" if any(r.state is State.SUSPECT for r in records) else "dead"
