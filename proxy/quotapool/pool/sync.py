"""Keeps the roster in step with the store: what other replicas changed is read, what this process learned is written.

The store's version number comes with every batch; when it has moved, the records are read again. A store that was
emptied is given what this process remembers, so that a removed key does not come back with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from itertools import islice
from typing import Any, Final

from quotapool.domain.observer import Observer
from quotapool.domain.states import Record, State
from quotapool.domain.subject import Subject
from quotapool.ledger.budgets import Braked, Ledger, StoreUnavailable
from quotapool.ledger.clients import ClientDirectory
from quotapool.ledger.grants import Granted
from quotapool.pool.roster import Roster
from quotapool.store.store import StoreLost

_TRY_AGAIN_S: Final = 0.5
_LOOKS_APART_S: Final = 0.05
_LONGEST_LOOK_S: Final = 1.0
_STATES_AT_ONCE: Final = 500  # in one turn of the loop


class RosterSync:
    """One process's exchange with the registry. `clients`: its copy of the store's client keys, kept in step too."""

    def __init__(
        self, roster: Roster, ledger: Ledger, observer: Observer, clients: ClientDirectory | None = None
    ) -> None:
        self.roster = roster
        self._ledger = ledger
        self._registry = ledger.registry
        self._observer = observer
        self._clients = clients
        self._refreshing: asyncio.Task[None] | None = None
        self._next_look: asyncio.Task[None] | None = None  # that has not begun to ask
        self._looked_at = -math.inf
        self._known_epoch = ""
        self._unreported: dict[Subject, tuple[Record, float]] = {}  # seen while the store was away
        self._tasks: set[asyncio.Task[None]] = set()

    # ---- reading

    def version_moved(self) -> None:
        """Called by the ledger when an answer carries another version or epoch. Starts one refresh at a time."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh_until_current())

    async def _refresh_until_current(self) -> None:
        registry = self._registry
        while True:
            version, epoch = registry.version, registry.epoch
            try:
                await self.refresh()
            except StoreUnavailable:
                await asyncio.sleep(_TRY_AGAIN_S)
                continue
            if (version, epoch) == (registry.version, registry.epoch):
                return

    async def catch_up(self) -> None:
        """Until what others changed before this call is known here, but not for long. However many call, and however
        often: the store is asked every `_LOOKS_APART_S` at most, for two short values unless there is news."""
        look = self._next_look
        if look is None:
            look = self._next_look = asyncio.get_running_loop().create_task(self._look())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LONGEST_LOOK_S):
                await asyncio.shield(look)
                if self._refreshing is not None:
                    await asyncio.shield(self._refreshing)

    async def _look(self) -> None:
        await asyncio.sleep(self._looked_at + _LOOKS_APART_S - time.monotonic())
        self._looked_at = time.monotonic()
        self._next_look = None  # who comes from now on needs another one
        with contextlib.suppress(StoreUnavailable):
            await self._registry.look()

    async def refresh(self) -> None:
        """Read all records; remind a store that forgot them. Raises StoreUnavailable."""
        roster, registry = self.roster, self._registry
        epoch = registry.epoch
        if self._known_epoch and epoch != self._known_epoch:
            await self._remind()
        self._known_epoch = registry.epoch or epoch
        for subject, (record, rest_s) in list(self._unreported.items()):
            await self.observe(subject, record, rest_s)
            self._unreported.pop(subject, None)
        if roster.settings.merge_organizations:
            roster.share_organizations(await registry.known_organizations())
        await self._read_states()
        roster.learned_groups |= await registry.learned_groups()  # one of ours may still be on its way there
        if self._clients is not None:
            await self._with_clients(self._clients.refresh)

    async def _read_states(self) -> None:
        """Raises StoreUnavailable."""
        readings = self.roster.readings
        number = readings.begun = readings.begun + 1
        records = await self._registry.records()
        async with readings.one_at_a_time:
            if number > readings.taken:
                readings.taken = number
                try:
                    await self._take(records)
                except asyncio.CancelledError:
                    self.roster.pool.apply_states(records)  # nobody would take the rest before the next change
                    raise

    async def _take(self, records: Mapping[Subject, Record]) -> None:
        """Some at a time: to sort 30,000 keys takes 100 ms. What there is comes before what is over, so that a key for
        which another record holds now is not usable in between."""
        pool = self.roster.pool
        subjects = iter(list(records))
        while some := list(islice(subjects, _STATES_AT_ONCE)):
            known = pool.records
            pool.apply_changes(
                {
                    subject: record
                    for subject in some
                    if (record := records[subject]) is not (before := known.get(subject)) and record != before
                }
            )
            if len(some) == _STATES_AT_ONCE:
                await asyncio.sleep(0)
        over = iter([subject for subject in pool.records if subject not in records])
        while some := list(islice(over, _STATES_AT_ONCE)):
            pool.apply_changes(dict.fromkeys(some))
            if len(some) == _STATES_AT_ONCE:
                await asyncio.sleep(0)

    async def _remind(self) -> None:
        """The store came back without its memory. Ours may be older than what was lost, but it is better than none."""
        registry = self._registry
        await registry.begin_epoch(reseeded=True)
        for model, group in self.roster.learned_groups.items():
            await registry.record_group(model, group)
        if self._clients is not None:
            await self._with_clients(self._clients.restore)
        for subject, record in self.roster.pool.records.items():
            rest_s = record.until - record.since
            await registry.change_state(subject, record, rest_s=rest_s, fingerprint=record.fingerprint)

    @staticmethod
    async def _with_clients(step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except StoreLost as lost:
            raise StoreUnavailable(str(lost)) from lost

    # ---- writing

    async def change(
        self,
        subject: Subject,
        record: Record | None,
        rest_s: float,
        fingerprint: str,
        why: str,
        *,
        refresh: bool = True,
    ) -> None:
        """Write one state (None: active again) for all replicas, and read the others' changes, unless the caller will.

        While the store is away, this process at least acts on it, and writes it later.
        """
        try:
            if record is not None:
                await self.observe(subject, record, rest_s)
            elif await self._registry.change_state(subject, None, fingerprint=fingerprint):
                self._observer.state_changed(subject, State.ACTIVE, why, {})
            if refresh:
                await self.refresh()
        except StoreUnavailable:
            if record is not None:
                self._unreported[subject] = record, rest_s
                self.version_moved()
                self.roster.pool.apply_changes({subject: record})

    async def observe(self, subject: Subject, record: Record, rest_s: float) -> None:
        """Write a state that an answer showed, and notify of what came of it. Raises StoreUnavailable."""
        changed, braked = await self._registry.observe_state(
            subject,
            record,
            rest_s=rest_s,
            fingerprint=record.fingerprint,
            max_removals=self.roster.settings.max_removals,
        )
        if braked is Braked.FIRST:
            self._observer.removals_stopped(subject, record.reason)
        if changed:
            state = State.SUSPECT if braked else record.state
            details = {"status": record.status, "upstream_request_id": record.request_id}
            self._observer.state_changed(subject, state, record.reason, details)

    async def try_again(self, state: State, subjects: Sequence[Subject]) -> None:
        """Let those that rest in `state` be tried with the next request each."""
        with contextlib.suppress(StoreUnavailable):
            await self._registry.try_now(state, subjects)
            await self.refresh()

    # ---- what answers name

    async def learn_group(
        self, model: str, shared: str, *, refused: Granted | None = None, cool_s: float = 0.0
    ) -> None:
        """Upstream refused `model` "for limit `shared`", or answered this stored prompt with that model: they share a
        bucket, in all replicas.

        `refused`: the reservation that was refused; its account's cool-down goes along.
        """
        before = self.roster.group_of(model)
        group = self.roster.learn_group(model, shared)
        if group is None:
            return
        self._observer.group_learned(model, group)
        with contextlib.suppress(StoreUnavailable):
            await self._carry_over(before, group, refused.candidate.account if refused else "", cool_s)
            await self._registry.record_group(model, group)

    async def _carry_over(self, before: str, group: str, refused: str, cool_s: float) -> None:
        """What was taken from the buckets of the group `before` is missing in those of the new one, on every account;
        the one that was refused rests. Raises StoreUnavailable."""
        accounts = self.roster.pool.accounts
        now = await self._registry.time()
        async for name, bucket in self._ledger.stored.of(before, list(accounts)):
            account = accounts.get(name)
            if account is None or not account.keys:  # a reload took it
                continue
            candidate, limits = self.roster.candidate(account.keys[0], group), self.roster.limits_for(name, before)
            bucket.refill(now, limits, burst_s=candidate.burst_s)
            missing = bucket.missing(limits, candidate.burst_s)
            self._ledger.carry_over(group, candidate, *missing, cool_s if name == refused else 0.0)

    def learn_organization(self, account: str, organization: str) -> None:
        """An answer named the organisation behind an account."""
        twin = self.roster.learn_organization(account, organization)
        if twin is None:
            return
        self._observer.same_organization(account, twin)
        if self.roster.settings.merge_organizations:
            self.roster.merge(account, twin, organization)
            self.start(self._write_organization((account, twin), organization))

    async def _write_organization(self, accounts: Sequence[str], organization: str) -> None:
        with contextlib.suppress(StoreUnavailable):  # each process learns it from the answers itself
            await self._registry.record_organization(accounts, organization)

    # ---- work that outlives its request

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run this although its request may be cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def settled(self) -> None:
        """Until all that was learned so far is written."""
        while self._tasks:
            await asyncio.wait(self._tasks)
