"""The ledger: reserves budgets and settles them, for all replicas in one store.

While the store is away, callers get StoreUnavailable (`refuse`), or this process's share (`serve`, `local.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import structlog

from quotapool.domain.observer import Observer
from quotapool.domain.quantities import Cost
from quotapool.ledger.batches import Batches
from quotapool.ledger.declared_keys import keys_of_rights
from quotapool.ledger.grants import Blocked, Candidate, Event, Granted, Observed, Refused, Written, written_limits
from quotapool.ledger.holds import Holds
from quotapool.ledger.items import ChargeItem, Item, ReserveItem, SettleItem
from quotapool.ledger.local import LocalBudgets
from quotapool.ledger.messages import MOST, bounded, evidence_of, is_sound, packed_array
from quotapool.ledger.registry import Braked, Registry
from quotapool.ledger.replicas import REPLICA_LIVES_S, ReleaseNote, count_recent
from quotapool.ledger.rules import Charge
from quotapool.ledger.stored_buckets import StoredBuckets
from quotapool.store.store import Script, Store, StoreError, StoreLost, StoreUnavailable, text_of

_NO_COST: Final = Cost(0)
_ALL_ARE_BACK_S: Final = 1.0  # in which every replica has noticed that the store is back, and paid
_MOST_TOKENS: Final = 10_000_000.0  # of one call; an upstream that reports more does not put a bucket into debt forever
_CLOCK_STEPS_S: Final = 0.5  # a larger difference is no delay: another server's clock, or one that was set
_CLOCK_DRIFTS_S: Final = 1e-6  # for each answer
_OVERRUN: Final = 0.3  # of what was reserved: more than that was not foreseen
_LONGEST_COOL_S: Final = 7 * 86_400.0

_log = structlog.get_logger()


class Witness(Protocol):
    """Who looks at what upstream's answers show of the accounts, beside the ledger."""

    def saw(self, granted: Granted, evidence: list[tuple[float, ...]]) -> None:
        """What upstream named for a reservation, as `evidence_of` makes it."""

    def overran(self, granted: Granted) -> None:
        """An answer used far more tokens than were reserved for it."""


class Ledger:
    """One process's client of the shared ledger. `serve_alone`: go on with a share while the store is away."""

    def __init__(
        self,
        store: Store,
        pool: str,
        *,
        patience_s: float,
        observer: Observer,
        on_version: Callable[[], None] = lambda: None,
        on_headroom: Callable[[Candidate, str, float], None] = lambda _candidate, _group, _share: None,
        serve_alone: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self.store = store
        self.prefix = f"qp:{{{pool}}}"
        self.replicas = 1
        self.witness: Witness | None = None
        self._counted = 1  # replicas at the last heartbeat
        self._patience_s = patience_s
        self._observer = observer
        self._on_headroom = on_headroom
        self._rng = rng or random.Random()
        self._name = secrets.token_hex(6)
        self._release = ReleaseNote(store, self.prefix, self._name)
        self._serial = 0
        self._clock_ahead = 0.0  # the store's clock less our monotonic one
        self._clock_shown = 0.0  # by the store with its last answer; 0: none yet
        self._local = LocalBudgets() if serve_alone else None
        self._correcting: asyncio.Task[None] | None = None
        self._left_epoch = ""  # of the store that was lost
        self._rejoining: asyncio.TimerHandle | None = None
        self._batches = Batches(
            store,
            self.prefix,
            name=self._name,
            patience_s=patience_s,
            observer=observer,
            expected_clock=self._expected_clock,
            on_answer=self._on_answer,
        )
        self.registry = Registry(
            store,
            self.prefix,
            patience_s=patience_s,
            observer=observer,
            is_away=lambda: self._batches.away,
            on_version=on_version,
        )
        self.stored = StoredBuckets(store, self.prefix, self.registry)
        self.holds = Holds(
            self._batches, self._local, is_away=lambda: self.away, begin_alone=self._begin_alone, now=self.now
        )

    @property
    def away(self) -> bool:
        """The store was given up on and has not answered since, or this process still uses its share."""
        return self._batches.away or self._serves_alone

    @property
    def _serves_alone(self) -> bool:
        return self._local is not None and self._local.active

    # ---- budgets

    async def reserve(
        self,
        group: str,
        cost: Cost,
        candidates: Sequence[Candidate],
        *,
        may_try_resting: bool = False,
        forget: Sequence[str] = (),
        leave: float = 0.0,
        owner: str = "",
        arrived: float | None = None,
        alone: bool = False,
        charge: Charge | None = None,
    ) -> Granted | Refused | Blocked:
        """Take `cost` from the first candidate that has room, in one atomic step. Raises StoreUnavailable.

        `charge`: what it takes from its client's rules in the same step; Blocked: they do not let it through.

        `leave`: the share of each budget that must stay for others. `owner`: who waits in the queue, and thereby gets
        the next room of an account; `arrived`: since when, by the monotonic clock (None: now); earlier ones go first.
        `forget`: accounts that an earlier refusal named as ready and that this caller cannot use. Otherwise they would
        be named again, and the wait would be taken from them.
        `alone`: only the candidates can serve the request, so the wait is theirs and no others are named.
        If the caller is cancelled meanwhile, what may have been reserved is given back.
        """
        if self._local is not None and self.away:
            return self._reserve_locally(group, cost, candidates, leave, charge)
        self._serial += 1
        name = f"{self._name}-{self._serial}"
        names = packed_array([candidate.packed for candidate in candidates])
        amounts = bounded(cost.requests, MOST), bounded(cost.tokens, MOST), bounded(cost.images, MOST)
        stored = None if arrived is None or not self._clock_ahead else arrived + self._clock_ahead
        who = f"{self._name}/{owner}" if owner else ""
        payload = [1, group, *amounts, may_try_resting, self._rng.random(), names, forget, leave, who, stored, alone]
        if charge is not None:
            payload.append(charge.words(self.now()))
        fallback = partial(self._reserve_locally, group, cost, candidates, leave, charge)
        future: asyncio.Future[Granted | Refused | Blocked] = self._batches.loop.create_future()
        item = ReserveItem(
            payload, name, group, cost, candidates, charge, future, give_back=self.give_back, fallback=fallback
        )
        self._batches.put(item)
        try:
            answer = await future
        except asyncio.CancelledError:
            # Granted in the same turn of the loop in which the caller was cancelled: nobody else would give it back.
            result = future.result() if future.done() and not future.cancelled() and not future.exception() else None
            if isinstance(result, Granted):
                self.give_back(result)
            raise
        if self._local is not None and isinstance(answer, Granted) and not answer.local:
            self._local.remember(answer)
        return answer

    def release(self, group: str, owner: str) -> None:
        """`owner` has left the queue: the room it was to get is for others."""
        if not self._batches.away:
            self._batches.put(Item([3, group, f"{self._name}/{owner}"]))

    def give_back(self, granted: Granted) -> None:
        """Settle a reservation that was not used: upstream never received the request."""
        self.settle(granted, back=granted.cost)

    def settle(
        self,
        granted: Granted,
        *,
        back: Cost = _NO_COST,
        unused_tokens: float = 0.0,
        cool_s: float = 0.0,
        observed: Sequence[Observed] = (),
        refused: bool = False,
        event: Event = Event.NOTHING,
        used: Sequence[float] | None = None,
    ) -> None:
        """Correct a reservation, once. Returns at once; the correction goes out with the next batch and is not lost
        while this process runs. A second call does nothing.

        `back`: what upstream never charged; `unused_tokens`: reserved less used (negative: more was used);
        `refused`: upstream's `remaining` is from before this request, which it did not admit.
        `used`: of the client's rules, in the order of the grant's `charge`; None: nothing.
        """
        if granted.settled:
            return
        granted.settled = True
        charge = granted.charge
        if charge is not None and used is None:
            used = charge.nothing()
        not_admitted = granted.cost if refused else _NO_COST
        if self._local is not None and cool_s > 0:
            self._local.cool(granted, self.now() + min(cool_s, _LONGEST_COOL_S), self.now())
        if granted.local and self._local is not None and self._local.active:
            sound = [o for o in observed if is_sound(o)]
            unused_tokens = bounded(unused_tokens, _MOST_TOKENS)
            self._local.settle(granted, back, unused_tokens, sound, not_admitted, self.now())
            if charge is not None and used is not None:
                self._local.rules.settle(charge, used)
            return
        settled = None
        if charge is not None and used is not None:
            settled = charge.settle(used, 0.0 if granted.local else granted.at)
        evidence = evidence_of(granted, observed, refused=refused)
        witness = self.witness
        if witness is not None:
            if evidence:
                witness.saw(granted, evidence)
            if unused_tokens < -_OVERRUN * granted.cost.tokens:
                witness.overran(granted)
        self._correct(granted, back, unused_tokens, cool_s, evidence, event, settled)

    def charge(self, charge: Charge, used: Sequence[float], *, held_at: float = 0.0) -> None:
        """Charge a client's rules with what was used beside any account's budget. `held_at`: the store's second at
        which it was held for this; 0: it was not."""
        if not held_at and self._local is not None and self._local.active:
            self._local.rules.settle(charge, used, was_held=False)
            return
        self._batches.put(ChargeItem(charge, held_at, used, self.now()), urgent=False)

    def observe(self, granted: Granted, observed: Sequence[Observed]) -> None:
        """Report the headers of a long answer before its end. Its settle then carries no evidence."""
        if granted.local and self._local is not None and self._local.active:
            sound = [o for o in observed if is_sound(o)]
            self._local.settle(granted, _NO_COST, 0.0, sound, _NO_COST, self.now())
        elif observed:
            evidence = evidence_of(granted, observed)
            if self.witness is not None:
                self.witness.saw(granted, evidence)
            self._correct(granted, _NO_COST, 0.0, 0.0, evidence, Event.NOTHING)

    def _correct(
        self,
        granted: Granted,
        back: Cost,
        unused_tokens: float,
        cool_s: float,
        evidence: list[tuple[float, ...]],
        event: Event,
        settled: list[Any] | None = None,
    ) -> None:
        candidate = granted.candidate
        payload: list[Any] = [
            2,
            granted.group,
            candidate.account,
            candidate.terms,
            bounded(back.requests, MOST),
            bounded(back.tokens, MOST),
            bounded(back.images, MOST),
            bounded(unused_tokens, _MOST_TOKENS),
            bounded(cool_s, _LONGEST_COOL_S),
            granted.at,
            evidence,
            event,
        ]
        if settled is not None:
            payload.append(settled)
        self._batches.put(SettleItem(payload, granted, self._on_headroom), urgent=False)

    async def flush(self, seconds: float = 5.0) -> None:
        """Wait until everything queued has been answered, at most for `seconds`."""
        if self._rejoining is not None:
            self._rejoining.cancel()
            self._rejoin()
        await self._batches.flush(seconds)

    # ---- while the store is away

    def now(self) -> float:
        """The store's second, as far as it is known."""
        return time.monotonic() + self._clock_ahead if self._clock_shown else time.time()

    def _reserve_locally(
        self, group: str, cost: Cost, candidates: Sequence[Candidate], leave: float, charge: Charge | None
    ) -> Granted | Refused | Blocked:
        """From this process's share, to be charged in the store later."""
        local, now = self._begin_alone(), self.now()
        if charge is not None and (blocked := local.rules.blocked(charge, now)) is not None:
            return blocked
        answer = local.reserve(group, cost, candidates, now, leave)
        if charge is not None and isinstance(answer, Granted):
            answer.charge = charge
            local.rules.take(charge, now)
        return answer

    def _begin_alone(self) -> LocalBudgets:
        """This process's share, which it uses from now on. Raises StoreUnavailable: it has none."""
        local = self._local
        if local is None or self.registry.version < 0:  # it never answered: neither levels nor replicas are known
            raise StoreUnavailable("the store does not answer")
        if not local.active:
            local.begin(self.replicas, heard=max(self._clock_shown, self.now() - self._patience_s))
            self._left_epoch = self.registry.epoch
        return local

    def _store_is_back(self, epoch: str) -> None:
        """What we owe is paid at once, but the share is used until the others have paid too: until then the store's
        levels are too high by what they owe. A store that lost its data starts low, as if everything was paid."""
        self._pay(forgiven=epoch != self._left_epoch)
        self._rejoining = asyncio.get_running_loop().call_later(_ALL_ARE_BACK_S, self._rejoin)

    def _rejoin(self) -> None:
        self._rejoining = None
        if self._local is None or self._batches.away:  # away again: its next answer starts this again
            return
        self._pay()
        self._local.end()

    def _pay(self, *, forgiven: bool = False) -> None:
        """Charge in the store what was taken without it."""
        if self._local is not None and (owed := self._local.rules.pay()) is not None:
            self._batches.put(ChargeItem(owed[0], 0.0, owed[1], self.now()), urgent=False)
        debts = self._local.pay(self.now()) if self._local is not None else []
        for debt in debts if not forgiven else ():
            self.carry_over(debt.group, debt.candidate, debt.kept, debt.corrected, debt.cool_s)

    def carry_over(
        self, group: str, candidate: Candidate, kept: Sequence[float], corrected: Sequence[float], cool_s: float
    ) -> None:
        """Charge a candidate's bucket for what was taken from another one that turned out to be the same limit.

        `kept` and `corrected`: amounts by dimension in both predictions; `cool_s`: seconds to rest from now.
        """
        amounts = [[bounded(amount, MOST) for amount in taken] for taken in (kept, corrected)]
        rest_s = bounded(cool_s, _LONGEST_COOL_S)
        self._batches.put(Item([4, group, candidate.account, candidate.terms, *amounts, rest_s]))

    async def check_rights(self) -> None:
        """Return if the store runs scripts, the batches' too, and allows every command that is used.
        Raises StoreLost, StoreRefused, with the store's own words."""
        await self.store.evalsha(Script.of(__package__, "rights"), keys_of_rights(self.prefix), [])
        await self._batches.check()

    async def check(self) -> None:
        """Return if the store runs our scripts and takes writes now. Raises StoreUnavailable, StoreRefused."""
        await self.registry.retry(self._batches.check)

    async def heartbeat(self) -> None:
        """Learn of changes while no batch brings them, be counted among the replicas, and count them.

        Does nothing while the store is away.
        """
        replicas = f"{self.prefix}:replicas"
        with contextlib.suppress(StoreLost):
            keys = (f"{self.prefix}:version", f"{self.prefix}:epoch")
            version, epoch = await self.store.guard(self.store.client.mget(*keys))
            self.registry.update_version(int(version or 0), text_of(epoch or b""))
            now, _ = await self.store.guard(self.store.client.time())  # machines' own clocks may differ by more
            await self.store.guard(self.store.client.zadd(replicas, {self._name: now}))
            await self.store.guard(self.store.client.zremrangebyscore(replicas, 0, now - REPLICA_LIVES_S))
            counted = await count_recent(self.store, replicas, now)
            self.replicas, self._counted = max(1, counted, self._counted), counted  # after an absence none is there yet
            await self._release.write(self.registry.epoch)

    def _expected_clock(self) -> tuple[bytes, bytes]:
        return (b"%.6f" % self.now(), b"%.6f" % self._clock_shown) if self._clock_shown else (b"", b"")

    def _on_answer(self, version: int, epoch: str, now: float | None) -> None:
        if now is not None:
            self._follow_clock(now)
        if self._serves_alone and self._rejoining is None:
            self._store_is_back(epoch)
        self.registry.update_version(version, epoch)

    def _follow_clock(self, now: float) -> None:
        # An answer is late by its transfer, so the clock that is furthest ahead is the most exact; a drift is followed.
        ahead = now - time.monotonic()
        step = ahead - self._clock_ahead
        if abs(step) <= _CLOCK_STEPS_S:
            self._clock_ahead = max(ahead, self._clock_ahead - _CLOCK_DRIFTS_S)
        else:
            self._clock_ahead = ahead
            if self._clock_shown:
                self._clock_was_set(step)
        self._clock_shown = now

    def _clock_was_set(self, by: float) -> None:
        _log.warning("the store's clock was set", by_s=round(by, 1))
        if self._local is not None:
            self._local.move(by)
        if by < 0:
            self._correcting = asyncio.get_running_loop().create_task(self._correct_seconds())

    async def _correct_seconds(self) -> None:
        with contextlib.suppress(StoreError):
            await self.registry.correct_seconds()


__all__ = [
    "Blocked",
    "Braked",
    "Candidate",
    "Charge",
    "Event",
    "Granted",
    "Ledger",
    "Observed",
    "Refused",
    "StoreUnavailable",
    "Written",
    "written_limits",
]
