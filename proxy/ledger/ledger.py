"""The ledger: reserve a budget, settle it, change a state. What every replica agrees on.

While the store is away, callers are told so (`refuse`), or served from this process's share (`serve`, `local.py`).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import IntEnum
from functools import partial
from typing import Any, Final

import msgspec

from proxy.domain.bucket import Bucket
from proxy.domain.quantities import Cost
from proxy.domain.states import OBSERVED, OPERATOR, WALLET, Record, State, brake_of
from proxy.ledger.batches import Batches, StoreObserver
from proxy.ledger.connection import Script, Store, StoreLost
from proxy.ledger.grants import Candidate, Event, Granted, Observed, Refused, Written, written_limits
from proxy.ledger.items import Correction, Item, Question
from proxy.ledger.local import LocalBudgets
from proxy.ledger.messages import (
    MOST,
    bounded,
    bucket_key,
    bucket_of,
    evidence_of,
    is_sound,
    packed_array,
    record_of,
    text_of,
)

_NO_COST: Final = Cost(0)
_REPLICA_LIVES_S: Final = 10.0
_ALL_ARE_BACK_S: Final = 1.0  # in which every replica has noticed that the store is back, and paid
_MOST_TOKENS: Final = 10_000_000.0  # of one call; an upstream that says more does not put a bucket into debt for ever
_CLOCK_STEPS_S: Final = 0.5  # a difference that is no delay: another server's clock, or one that was set
_CLOCK_DRIFTS_S: Final = 1e-6  # an answer
_LONGEST_COOL_S: Final = 7 * 86_400.0
_MOST_EVENTS: Final = 10_000

_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode


class StoreUnavailable(Exception):
    """The store did not answer within the caller's patience."""


class Braked(IntEnum):
    """What the brake said to a removal."""

    NO = 0  # it passed, or needed not to
    STOPPED = 1  # the key became suspect instead, or stayed what it was
    FIRST = 2  # the same, and this is the one to sound the alarm


class Ledger:
    """One process's way to the shared ledger. `serve_alone`: go on with a share while the store is away."""

    def __init__(
        self,
        store: Store,
        pool: str,
        *,
        patience_s: float,
        observer: StoreObserver,
        on_version: Callable[[], None] = lambda: None,
        on_headroom: Callable[[Candidate, str, float], None] = lambda _candidate, _group, _share: None,
        serve_alone: bool = False,
        rng: random.Random | None = None,
    ) -> None:
        self.store = store
        self.prefix = f"qp:{{{pool}}}"
        self.epoch = ""
        self.version = -1
        self.replicas = 1
        self._counted = 1  # of them, at the last look
        self._patience_s = patience_s
        self._observer = observer
        self._on_version = on_version
        self._on_headroom = on_headroom
        self._rng = rng or random.Random()
        self._name = secrets.token_hex(6)
        self._serial = 0
        self._clock_ahead = 0.0  # the store's clock less our monotonic one
        self._local = LocalBudgets() if serve_alone else None
        self._left_epoch = ""  # of the store that was lost
        self._rejoining: asyncio.TimerHandle | None = None
        self._state_script = Script("state")
        self._rouse_script = Script("rouse")
        self._batches = Batches(store, self.prefix, patience_s=patience_s, observer=observer, heard=self._heard)

    def __repr__(self) -> str:
        return f"<Ledger {self.prefix} {self._batches!r}>"

    @property
    def away(self) -> bool:
        """The store was given up on and has not answered since, or not for long enough to be shared again."""
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
    ) -> Granted | Refused:
        """Take `cost` from the first candidate that has room, in one atomic step. Raises StoreUnavailable.

        `leave`: the share of each budget that must stay for others. `owner`: who stands in line, and thereby gets the
        next room of an account; `arrived`: since when, by the monotonic clock (None: now); who came earlier goes
        first.
        `forget`: accounts that an earlier refusal named as ready and that cannot be asked. Else they would be named
        again, and their being ready would be taken for the wait.
        `alone`: nobody but the candidates will do, so the wait is theirs and no others are named.
        If the caller is cancelled meanwhile, what may have been reserved is given back.
        """
        if self._local is not None and self.away:
            return self._alone(group, cost, candidates, leave)
        self._serial += 1
        name = f"{self._name}-{self._serial}"
        names = packed_array([candidate.packed for candidate in candidates])
        amounts = bounded(cost.requests, MOST), bounded(cost.tokens, MOST), bounded(cost.images, MOST)
        stored = None if arrived is None or not self._clock_ahead else arrived + self._clock_ahead
        who = f"{self._name}/{owner}" if owner else ""
        payload = [1, group, *amounts, may_try_resting, self._rng.random(), names, forget, leave, who, stored, alone]
        otherwise = partial(self._alone, group, cost, candidates, leave)
        question = Question(payload, name, group, cost, candidates, given_back=self.give_back, otherwise=otherwise)
        self._batches.put(question)
        future = question.answer
        try:
            answer = await future
        except asyncio.CancelledError:
            # Granted in the very turn in which the caller left: nobody else would give it back.
            came = future.result() if future.done() and not future.cancelled() and not future.exception() else None
            if isinstance(came, Granted):
                self.give_back(came)
            raise
        if self._local is not None and isinstance(answer, Granted) and not answer.local:
            self._local.heard(answer)
        return answer

    def release(self, group: str, owner: str) -> None:
        """`owner` has left the line: the room it was to get is for others."""
        if not self._batches.away:
            self._batches.put(Item([3, group, f"{self._name}/{owner}"]))

    def give_back(self, granted: Granted) -> None:
        """Settle a reservation that upstream never heard of."""
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
    ) -> None:
        """Correct a reservation, once. Returns at once; the correction goes out with the next batch and is not lost
        while this process lives. A second call does nothing.

        `back`: what upstream never charged; `unused_tokens`: reserved less used (negative: more was used);
        `refused`: upstream's `remaining` is from before this request, which it did not admit.
        """
        if granted.settled:
            return
        granted.settled = True
        not_admitted = granted.cost if refused else _NO_COST
        if self._local is not None and cool_s > 0:
            self._local.cools(granted, self._now() + min(cool_s, _LONGEST_COOL_S), self._now())
        if granted.local and self._local is not None and self._local.active:
            told = [o for o in observed if is_sound(o)]
            unused_tokens = bounded(unused_tokens, _MOST_TOKENS)
            self._local.settle(granted, back, unused_tokens, told, not_admitted, self._now())
            return
        self._correct(granted, back, unused_tokens, cool_s, evidence_of(granted, observed, not_admitted), event)

    def observe(self, granted: Granted, observed: Sequence[Observed]) -> None:
        """What a long answer's headers said, while the answer goes on. Its settling carries no evidence again."""
        if granted.local and self._local is not None and self._local.active:
            told = [o for o in observed if is_sound(o)]
            self._local.settle(granted, _NO_COST, 0.0, told, _NO_COST, self._now())
        elif observed:
            self._correct(granted, _NO_COST, 0.0, 0.0, evidence_of(granted, observed, _NO_COST), Event.NOTHING)

    def _correct(
        self,
        granted: Granted,
        back: Cost,
        unused_tokens: float,
        cool_s: float,
        evidence: list[tuple[float, ...]],
        event: Event,
    ) -> None:
        candidate = granted.candidate
        payload = [
            2,
            granted.group,
            candidate.account,
            candidate.burst_s,
            *candidate.written,
            bounded(back.requests, MOST),
            bounded(back.tokens, MOST),
            bounded(back.images, MOST),
            bounded(unused_tokens, _MOST_TOKENS),
            bounded(cool_s, _LONGEST_COOL_S),
            granted.at,
            evidence,
            event,
        ]
        self._batches.put(Correction(payload, granted, self._on_headroom), urgent=False)

    async def flush(self, seconds: float = 5.0) -> None:
        """Wait until everything queued has been answered, at most for `seconds`."""
        if self._rejoining is not None:
            self._rejoining.cancel()
            self._rejoin()
        await self._batches.flush(seconds)

    # ---- while the store is away

    def _now(self) -> float:
        return time.monotonic() + self._clock_ahead

    def _alone(self, group: str, cost: Cost, candidates: Sequence[Candidate], leave: float) -> Granted | Refused:
        """From this process's share, which is owed."""
        if self._local is None or self.version < 0:  # who never heard the store knows neither levels nor replicas
            raise StoreUnavailable("the store does not answer")
        if not self._local.active:
            self._local.begin(self.replicas)
            self._left_epoch = self.epoch
        return self._local.reserve(group, cost, candidates, self._now(), leave)

    def _come_back(self, epoch: str) -> None:
        """The store is back. What we owe is paid at once, but our share goes on until the others have paid too: before,
        the store's levels are too high by what they owe. One that forgot everything starts low, as if all was paid."""
        self._pay(forgiven=epoch != self._left_epoch)
        self._rejoining = asyncio.get_running_loop().call_later(_ALL_ARE_BACK_S, self._rejoin)

    def _rejoin(self) -> None:
        self._rejoining = None
        if self._local is None or self._batches.away:  # gone again: its next answer begins anew
            return
        self._pay()
        self._local.end()

    def _pay(self, *, forgiven: bool = False) -> None:
        """Charge in the store what was taken without it."""
        debts = self._local.pay(self._now()) if self._local is not None else []
        for debt in debts if not forgiven else ():
            c = debt.candidate
            amounts = [[bounded(amount, MOST) for amount in taken] for taken in (debt.kept, debt.corrected)]
            self._batches.put(Item([4, debt.group, c.account, c.burst_s, *c.written, *amounts, debt.cool_s]))

    # ---- states

    async def change_state(
        self, field: str, record: Record | None, *, rest_s: float = 0.0, by: str = OBSERVED, fingerprint: str
    ) -> bool:
        """Ask for a state change by the rules of `domain/states.py`; True if it took place. Raises StoreUnavailable.

        `record.since` and `.until` are set by the store's clock.
        """
        changed, _ = await self._change_state(field, record, rest_s, by, fingerprint, None)
        return changed

    async def observe_state(
        self, field: str, record: Record, *, rest_s: float, fingerprint: str, max_removals: int
    ) -> tuple[bool, Braked]:
        """`change_state` for what upstream's answers say: a removal that looks like one of a burst with one cause makes
        the key suspect instead, for `rest_s`. Raises StoreUnavailable."""
        brake = brake_of(record, max_removals)
        return await self._change_state(field, record, rest_s, OBSERVED, fingerprint, brake)

    async def _change_state(
        self, field: str, record: Record | None, rest_s: float, by: str, fingerprint: str, brake: tuple[str, int] | None
    ) -> tuple[bool, Braked]:
        body = b""
        if record is not None:
            body = _pack(
                {
                    "state": record.state.value,
                    "reason": record.reason,
                    "tries": record.tries,
                    "status": record.status,
                    "message": record.message,
                    "request_id": record.request_id,
                    "by": record.by,
                    "fingerprint": record.fingerprint,
                }
            )
        args = (field, body, rest_s, record.by if record else by, fingerprint, *(brake or ("", 0)))
        changed, version, _, braked = await self._patiently(
            lambda: self.store.evalsha(self._state_script, [self.prefix], args)
        )
        self._note(int(version), self.epoch)
        return bool(changed), Braked(braked)

    async def records(self) -> dict[str, Record]:
        """All keys and accounts that are not active, by field name. Raises StoreUnavailable."""
        raw = await self._patiently(lambda: self.store.client.hgetall(f"{self.prefix}:states"))
        return {text_of(name): record_of(value) for name, value in raw.items()}

    async def stopped(self) -> int:
        """How many removals the brake has stopped, ever. Raises StoreUnavailable."""
        return int(await self._patiently(lambda: self.store.client.get(f"{self.prefix}:stopped")) or 0)

    async def announce(self, kind: str, subject: str, fields: Mapping[str, str], *, every_s: int) -> bool:
        """Put an event that is no change of state into the stream, at most once in `every_s` seconds for this `kind`
        and `subject`, all replicas together; whether it was put. Raises StoreUnavailable."""
        lock = f"{self.prefix}:told:{kind}:{subject}"
        if not await self._patiently(lambda: self.store.client.set(lock, b"1", nx=True, ex=every_s)):
            return False
        await self._tell(kind, subject, fields)
        return True

    async def end_announced(self, kind: str, subject: str, fields: Mapping[str, str]) -> bool:
        """What was announced is over: one event says so, and the next one may come at once; whether this call said it.
        Raises StoreUnavailable."""
        lock = f"{self.prefix}:told:{kind}:{subject}"
        if not await self._patiently(lambda: self.store.client.delete(lock)):
            return False
        await self._tell(kind, subject, fields)
        return True

    async def _tell(self, kind: str, subject: str, fields: Mapping[str, str]) -> None:
        seconds, micros = await self._patiently(self.store.client.time)
        names = ("from", "to", "reason", "message", "request_id")
        told: dict[Any, Any] = {"field": subject, **dict.fromkeys(names, ""), "by": OBSERVED, "status": "0", **fields}
        told |= {"at": str(seconds + micros / 1e6), "kind": kind}
        await self._patiently(
            lambda: self.store.client.xadd(f"{self.prefix}:events", told, maxlen=_MOST_EVENTS, approximate=True)
        )

    async def rouse(self, state: State, fields: Sequence[str]) -> int:
        """End the rest of those records that are in `state`, so that each is tried with the next request or probe. How
        many there were. Raises StoreUnavailable.

        An operator's word and the wallet's own stop are left as they are: the one is the operator's to lift, the other
        the treasurer's, within seconds.
        """
        args = [state, OPERATOR, WALLET, *fields]
        return int(await self._patiently(lambda: self.store.evalsha(self._rouse_script, [self.prefix], args)))

    async def tell_group(self, model: str, group: str) -> None:
        """Remember for all replicas that `model` shares the limit of `group`. Raises StoreUnavailable."""
        await self._patiently(lambda: self.store.client.hset(f"{self.prefix}:groups", model, group))
        self._note(int(await self._patiently(lambda: self.store.client.incr(f"{self.prefix}:version"))), self.epoch)

    async def told_groups(self) -> dict[str, str]:
        """Model -> group, as upstream's messages told. Raises StoreUnavailable."""
        raw = await self._patiently(lambda: self.store.client.hgetall(f"{self.prefix}:groups"))
        return {text_of(model): text_of(group) for model, group in raw.items()}

    async def tell_organization(self, accounts: Sequence[str], organization: str) -> None:
        """Remember for all replicas that these accounts belong to one organisation. Raises StoreUnavailable."""
        told: dict[Any, Any] = dict.fromkeys(accounts, organization)
        if await self._patiently(lambda: self.store.client.hset(f"{self.prefix}:organizations", mapping=told)):
            self._note(int(await self._patiently(lambda: self.store.client.incr(f"{self.prefix}:version"))), self.epoch)

    async def told_organizations(self) -> dict[str, str]:
        """Account -> organisation, of those that share one. Raises StoreUnavailable."""
        raw = await self._patiently(lambda: self.store.client.hgetall(f"{self.prefix}:organizations"))
        return {text_of(account): text_of(organization) for account, organization in raw.items()}

    async def begin_epoch(self, *, reseeded: bool) -> str:
        """Mark the store as one that remembers, unless it is marked. A reseeded one starts new buckets low for two
        minutes. Returns the epoch in force. Raises StoreUnavailable."""
        seconds, _ = await self._patiently(self.store.client.time)
        key, value = f"{self.prefix}:epoch", f"{'r' if reseeded else 'f'}:{seconds}"
        await self._patiently(lambda: self.store.client.set(key, value, nx=True))
        self.epoch = text_of(await self._patiently(lambda: self.store.client.get(key)))
        return self.epoch

    async def buckets(self) -> tuple[float, dict[tuple[str, str], Bucket]]:
        """The store's time and every bucket by (account, model group), for those who look at the pool from above.

        Costs what there are buckets: never call it on the request path. Raises StoreUnavailable.
        """
        client, index = self.store.client, f"{self.prefix}:buckets"
        seconds, micros = await self._patiently(client.time)
        members = sorted(await self._patiently(lambda: client.smembers(index)))
        found: dict[tuple[str, str], Bucket] = {}
        for start in range(0, len(members), 500):
            part = [(member, tuple(_unpack(member))) for member in members[start : start + 500]]
            keys = [bucket_key(self.prefix, account, group) for _, (account, group) in part]
            values = await self._patiently(partial(client.mget, keys))
            for (member, name), raw in zip(part, values, strict=True):
                if raw is not None:
                    found[name] = bucket_of(raw)
                else:  # it expired
                    await self._patiently(partial(client.srem, index, member))
        return seconds + micros / 1e6, found

    async def hear(self) -> float:
        """The store's time; its version is noted, and nobody counted as a replica. Raises StoreUnavailable."""
        keys = (f"{self.prefix}:version", f"{self.prefix}:epoch")
        version, epoch = await self._patiently(lambda: self.store.client.mget(*keys))
        seconds, micros = await self._patiently(self.store.client.time)
        self._note(int(version or 0), text_of(epoch or b""))
        now: float = seconds + micros / 1e6
        return now

    async def look(self) -> None:
        """Hear of changes while no batch brings them, be counted among the replicas, and count them.

        A store that is away is nothing to report here.
        """
        replicas = f"{self.prefix}:replicas"
        with contextlib.suppress(StoreLost):
            keys = (f"{self.prefix}:version", f"{self.prefix}:epoch")
            version, epoch = await self.store.guard(self.store.client.mget(*keys))
            self._note(int(version or 0), text_of(epoch or b""))
            now, _ = await self.store.guard(self.store.client.time())  # machines' own clocks may differ by more
            await self.store.guard(self.store.client.zadd(replicas, {self._name: now}))
            await self.store.guard(self.store.client.zremrangebyscore(replicas, 0, now - _REPLICA_LIVES_S))
            counted = await self.store.guard(self.store.client.zcard(replicas))
            # The first to look after a long absence of the store sees nobody else yet.
            self.replicas, self._counted = max(1, counted, self._counted), counted

    def _heard(self, version: int, epoch: str, now: float) -> None:
        # What is heard is late by the answer's way, so the latest clock is the truest; it follows a drift all the same.
        ahead = now - time.monotonic()
        steps = abs(ahead - self._clock_ahead) > _CLOCK_STEPS_S
        self._clock_ahead = ahead if steps else max(ahead, self._clock_ahead - _CLOCK_DRIFTS_S)
        if self._serves_alone and self._rejoining is None:
            self._come_back(epoch)
        self._note(version, epoch)

    def _note(self, version: int, epoch: str) -> None:
        changed = version != self.version or epoch != self.epoch
        self.version, self.epoch = version, epoch
        if changed:
            self._on_version()

    async def _patiently(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Repeat an idempotent call until the store answers. Raises StoreUnavailable when patience ends, at once while
        the store is known to be away."""
        deadline = time.monotonic() + self._patience_s
        while True:
            try:
                return await self.store.guard(call())
            except StoreLost as lost:
                self._observer.store_failed(lost.reason)
                if self._batches.away or time.monotonic() > deadline:
                    raise StoreUnavailable(str(lost)) from lost
                await asyncio.sleep(0.05)


__all__ = [
    "Braked",
    "Candidate",
    "Event",
    "Granted",
    "Ledger",
    "Observed",
    "Refused",
    "StoreObserver",
    "StoreUnavailable",
    "Written",
    "written_limits",
]
