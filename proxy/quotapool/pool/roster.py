"""The roster: this process's view of who is in the pool, kept in step with the store, and what becomes of verdicts."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from quotapool.domain.observer import Observer
from quotapool.domain.pool import Key, Pool
from quotapool.domain.states import Record, State, first_rest_s, state_after, subject_of
from quotapool.domain.subject import Subject, SubjectKind
from quotapool.domain.verdict import Kind, Verdict
from quotapool.ledger.budgets import Braked, Candidate, Granted, Ledger, StoreUnavailable, written_limits
from quotapool.ledger.clients import ClientDirectory
from quotapool.ledger.grants import candidate_of
from quotapool.settings import Settings
from quotapool.store.store import StoreLost

_MOST_CACHED: Final = 50_000  # candidates, in groups of which there may at least be some
_FEWEST_GROUPS: Final = 32
_TRY_AGAIN_S: Final = 0.5
_MOST_SAID: Final = 1_000  # groups as upstream told them: where one takes any stored prompt, clients invent their ids


class Roster:
    """Keys and accounts of the pool, with what the store knows of them.

    The store's version number comes with every batch; when it has moved, the records are read again. A store that was
    emptied is told what this process remembers, so that a removed key does not come back with it.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        keys: Sequence[Key],
        observer: Observer,
        clients: ClientDirectory | None = None,
    ) -> None:
        self.pool = Pool()
        self.ledger = ledger
        self._settings = settings
        self._keys = tuple(keys)
        self._said_groups: dict[str, str] = {}  # model or stored prompt -> group, as upstream told
        self._organizations: dict[str, str] = {}  # account -> organisation, as answers named it
        self._told_organizations: dict[str, str] = {}  # the same, of accounts that share one, from the store
        self._first_of: dict[str, str] = {}  # organisation -> the account that first answered for it
        self._merged: dict[str, str] = {}  # account -> the one it turned out to be
        self._urgency: dict[str, float] = {}  # account -> factor of its weight
        self._observer = observer
        self._rng = random.Random()
        self._clients = clients
        self._refreshing: asyncio.Task[None] | None = None
        self._known_epoch = ""
        self._unreported: dict[Subject, tuple[Record, float]] = {}  # seen while the store was away
        self._reports: set[asyncio.Task[None]] = set()
        self._candidates: dict[str, list[Candidate | None]] = {}  # by model group: by the key's seat
        self._replace_keys()

    def _replace_keys(self) -> None:
        self._candidates.clear()
        self._written_groups = {model for members in self._settings.groups.values() for model in members}
        keys = [replace(key, account=self._merged.get(key.account, key.account)) for key in self._keys]
        self.pool.replace(keys, self._weights(), self._known_organizations())

    def _known_organizations(self) -> dict[str, str]:
        """By account: as somebody wrote, else, where such accounts count as one, as their answers said."""
        said = self._told_organizations if self._settings.merge_organizations else {}
        written = {name: a.organization for name, a in self._settings.accounts.items() if a.organization}
        return {**said, **written}

    def _weights(self) -> dict[str, float]:
        weights = {name: account.weight for name, account in self._settings.accounts.items()}
        return weights | {name: weights.get(name, 1.0) * factor for name, factor in self._urgency.items()}

    def hurry(self, urgency: Mapping[str, float]) -> None:
        """Take factors of accounts' weights: above 1 where credit would expire unused."""
        before, self._urgency = self._urgency, dict(urgency)
        weights = self._weights()
        for name in before.keys() | urgency.keys():
            self.pool.weigh(name, weights.get(name, 1.0))

    @property
    def merged(self) -> Mapping[str, str]:
        """Accounts that turned out to be another one's: name -> whose they are now."""
        return self._merged

    def reload(self, settings: Settings, keys: Sequence[Key]) -> None:
        """Take a new configuration. Requests under way keep the keys they have."""
        self._settings = settings
        self._keys = tuple(keys)
        self._replace_keys()

    def group_of(self, model: str) -> str:
        """The model group whose limit `model` shares: as somebody wrote, else as upstream said, else by its name."""
        said = None if model in self._written_groups else self._said_groups.get(model)
        return self._settings.group_of(model) if said is None else said

    async def learn_group(self, model: str, shared: str) -> None:
        """Upstream refused `model` "for limit `shared`", or said that this stored prompt is for that model: they share
        a bucket. All replicas hear of it."""
        group = self._settings.group_of(shared)
        if not model or model in self._written_groups or self.group_of(model) == group:
            return
        if len(self._said_groups) >= _MOST_SAID and model not in self._said_groups:
            return
        self._said_groups[model] = group
        self._observer.group_learned(model, group)
        with contextlib.suppress(StoreUnavailable):
            await self.ledger.registry.record_group(model, group)

    def heard_organization(self, account: str, organization: str) -> None:
        """An answer names the organisation behind an account. Two accounts of one share its limits, told or not."""
        if self._organizations.get(account) == organization or account not in self.pool.accounts:
            return
        self._organizations[account] = organization
        twin = self._first_of.setdefault(organization, account)
        if twin == account:
            return
        self._observer.same_organization(account, twin)
        if self._settings.merge_organizations:
            self._merged[account] = self._merged.get(twin, twin)
            self._told_organizations |= {account: organization, twin: organization}
            self._replace_keys()
            self._start(self._tell_organization((account, twin), organization))

    async def _tell_organization(self, accounts: Sequence[str], organization: str) -> None:
        with contextlib.suppress(StoreUnavailable):  # each process hears it from the answers itself
            await self.ledger.registry.record_organization(accounts, organization)

    def candidates(self, group: str, seats: Sequence[int]) -> list[Candidate]:
        """The keys of these seats as the ledger wants them, with the limits somebody wrote."""
        known = self._candidates.get(group) or self._room_for_candidates(group)
        return [known[seat] or self._remembered(known, seat, group) for seat in seats]

    def candidate(self, key: Key, group: str) -> Candidate:
        """The same for one, which may have left the pool while its account is still there."""
        seat = self.pool.seat_of(key)
        return self._make_candidate(key, group) if seat is None else self.candidates(group, [seat])[0]

    def _room_for_candidates(self, group: str) -> list[Candidate | None]:
        """Candidates are remembered until the next reload, or until clients have named too many models."""
        seats = len(self.pool.keys)
        if len(self._candidates) >= max(_FEWEST_GROUPS, _MOST_CACHED // max(1, seats)):
            self._candidates.clear()
        return self._candidates.setdefault(group, [None] * seats)

    def _remembered(self, known: list[Candidate | None], seat: int, group: str) -> Candidate:
        made = known[seat] = self._make_candidate(self.pool.key_at(seat), group)
        return made

    def _make_candidate(self, key: Key, group: str) -> Candidate:
        account = self.pool.accounts[key.account]
        return candidate_of(
            account=key.account,
            key=key.id,
            account_fingerprint=account.fingerprint,
            key_fingerprint=key.fingerprint,
            written=written_limits(self._settings.limits_for(key.account, group)),
            burst_s=self._settings.burst_for(key.account),
            organization=account.organization,
            place=account.place,
        )

    def largest_written(self, group: str) -> tuple[float, str]:
        """The largest token limit that was written for one of the pool's accounts, and whose it is; else (0, "").

        Looks at all accounts that the configuration names: not for every request.
        """
        limits = ((self._settings.limits_for(name, group).tpm or 0.0, name) for name in self._settings.accounts)
        return max((found for found in limits if found[1] in self.pool.accounts), default=(0.0, ""))

    # ---- in step with the store

    def version_moved(self) -> None:
        """Called by the ledger when an answer carries another version or epoch. Starts one refresh at a time."""
        if self._refreshing is None or self._refreshing.done():
            self._refreshing = asyncio.get_running_loop().create_task(self._refresh_until_current())

    async def _refresh_until_current(self) -> None:
        while True:
            version, epoch = self.ledger.version, self.ledger.epoch
            try:
                await self.refresh()
            except StoreUnavailable:
                await asyncio.sleep(_TRY_AGAIN_S)
                continue
            if (version, epoch) == (self.ledger.version, self.ledger.epoch):
                return

    async def refresh(self) -> None:
        """Read all records; if the store forgot them, remind it. Raises StoreUnavailable."""
        epoch = self.ledger.epoch
        if self._known_epoch and epoch != self._known_epoch:
            await self._remind()
        self._known_epoch = self.ledger.epoch or epoch
        for subject, (record, rest) in list(self._unreported.items()):
            await self._observe(subject, record, rest)
            self._unreported.pop(subject, None)
        if self._settings.merge_organizations:
            told = await self.ledger.registry.known_organizations()
            if told != self._told_organizations:
                self._told_organizations = told
                self._replace_keys()
        self.pool.apply_states(await self.ledger.registry.records())
        self._said_groups |= await self.ledger.registry.learned_groups()  # one of ours may still be on its way there
        if self._clients is not None:
            await self._with_clients(self._clients.refresh)

    async def _remind(self) -> None:
        """The store came back without its memory. Ours may be older than what was lost, but it is better than none."""
        await self.ledger.registry.begin_epoch(reseeded=True)
        for model, group in self._said_groups.items():
            await self.ledger.registry.record_group(model, group)
        if self._clients is not None:
            await self._with_clients(self._clients.restore)
        for subject, record in self.pool.records.items():
            await self.ledger.registry.change_state(
                subject, record, rest_s=record.until - record.since, fingerprint=record.fingerprint
            )

    @staticmethod
    async def _with_clients(step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except StoreLost as lost:
            raise StoreUnavailable(str(lost)) from lost

    # ---- verdicts

    def report(self, verdict: Verdict, granted: Granted, *, status: int, request_id: str) -> asyncio.Task[None] | None:
        """Act on what upstream said about a key or its account; None where there is nothing to tell the store.

        The task goes on if its request is cancelled. A store that is away is not a reason to fail.
        """
        work = self._consequence(verdict, granted.candidate, granted.is_trial, status, request_id)
        return None if work is None else self._start(work)

    async def found(self, verdict: Verdict, candidate: Candidate, *, status: int, request_id: str) -> None:
        """The same for an answer that was no reservation's: an operator wanted to know."""
        work = self._consequence(verdict, candidate, False, status, request_id)
        if work is not None:
            await work

    def _consequence(
        self, verdict: Verdict, candidate: Candidate, is_trial: bool, status: int, request_id: str
    ) -> Coroutine[Any, Any, None] | None:
        state = state_after(verdict)
        if state is None:
            return self._back(candidate) if verdict.kind is Kind.OK and is_trial else None
        subject = subject_of(verdict, candidate.key, candidate.account, candidate.organization)
        of_account = subject.kind is SubjectKind.ACCOUNT
        print_ = candidate.account_fingerprint if of_account else candidate.key_fingerprint
        record = Record(
            state,
            verdict.reason,
            0.0,
            status=status,
            message=verdict.message,
            request_id=request_id,
            fingerprint=print_,
        )
        # A removal that the brake stops makes a suspect.
        resting = State.SUSPECT if state is State.REMOVED else state
        rest = first_rest_s(resting, verdict.reason, time.time(), self._rng.random())
        return self._change(subject, record, rest, print_, verdict.reason)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._reports.add(task)
        task.add_done_callback(self._reports.discard)
        return task

    async def _back(self, candidate: Candidate) -> None:
        """A trial succeeded: whatever made the key rest is over."""
        for subject, print_ in (
            (Subject.of_account(candidate.account), candidate.account_fingerprint),
            (Subject.of_key(candidate.key), candidate.key_fingerprint),
            (Subject.of_organization(candidate.organization), candidate.key_fingerprint),
        ):
            record = self.pool.records.get(subject)
            if record is not None:
                await self._change(subject, None, 0.0, print_, "answered")
                if record.state is State.SUSPECT:
                    await self._rouse_alike(record.reason)

    async def _rouse_alike(self, reason: str) -> None:
        """One suspect answers well again. What made many suspect at once was hardly each one's own: the others of the
        same reason are tried now, one request each, and not after up to a quarter of an hour."""
        alike = [f for f, r in self.pool.records.items() if r.state is State.SUSPECT and r.reason == reason]
        if alike:
            with contextlib.suppress(StoreUnavailable):
                await self.ledger.registry.try_now(State.SUSPECT, alike)
                await self.refresh()

    async def _change(self, subject: Subject, record: Record | None, rest: float, print_: str, reason: str) -> None:
        try:
            if record is not None:
                await self._observe(subject, record, rest)
            elif await self.ledger.registry.change_state(subject, None, fingerprint=print_):
                self._observer.state_changed(subject, State.ACTIVE, reason, {})
            await self.refresh()
        except StoreUnavailable:
            if record is not None:  # this process at least stops using it, and tells the store later
                self._unreported[subject] = record, rest
                self.version_moved()
                self.pool.apply_states({**self.pool.records, subject: record})

    async def _observe(self, subject: Subject, record: Record, rest: float) -> None:
        """Tell the store what was seen, and the observer what came of it. Raises StoreUnavailable."""
        changed, braked = await self.ledger.registry.observe_state(
            subject, record, rest_s=rest, fingerprint=record.fingerprint, max_removals=self._settings.max_removals
        )
        if braked is Braked.FIRST:
            self._observer.removals_stopped(subject, record.reason)
        if changed:
            state = State.SUSPECT if braked else record.state
            details = {"status": record.status, "upstream_request_id": record.request_id}
            self._observer.state_changed(subject, state, record.reason, details)
