"""What a verdict does to keys, accounts and models: who is taken out, for how long, and who comes back.

A 429 `insufficient_quota`, say, is classified in `openai/classify.py`; here it becomes the quarantine of an account,
which `sync.py` writes to the store, from where every replica reads it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Any

from quotapool.domain.access import Use
from quotapool.domain.states import Record, State, first_rest_s, state_after, subject_of
from quotapool.domain.subject import Subject, SubjectKind
from quotapool.domain.verdict import Kind, Verdict
from quotapool.ledger.grants import Candidate, Granted
from quotapool.pool.sync import RosterSync


class KeyHealth:
    """Acts on verdicts, for one process."""

    def __init__(self, sync: RosterSync) -> None:
        self._sync = sync
        self._pool = sync.roster.pool
        self._rng = random.Random()

    def report(
        self, verdict: Verdict, granted: Granted, *, use: Use | None = None, status: int = 0, request_id: str = ""
    ) -> asyncio.Task[None] | None:
        """Act on an answer to a request; None if there is nothing to write.

        `use`: what the request used, to which account or key may lack access, if that is the verdict. The task goes on
        if its request is cancelled. A store that is away is not a reason to fail.
        """
        if verdict.kind is Kind.MODEL and use is not None and use.model:
            candidate = granted.candidate
            missing = self._pool.missing
            missing.refused(verdict.access, verdict.feature, candidate.place, candidate.key, use, time.time())
        work = self._consequence(verdict, granted.candidate, granted.is_trial, status, request_id)
        return None if work is None else self._sync.start(work)

    def answered(self, granted: Granted, use: Use) -> None:
        """Upstream served a request: whatever was missing for it is there."""
        self._pool.missing.answered(granted.candidate.place, granted.candidate.key, use, time.time())

    async def found(
        self, verdict: Verdict, candidate: Candidate, *, status: int, request_id: str, refresh: bool = True
    ) -> None:
        """The same for the answer to a probe. Unless `refresh`, the caller reads the states again."""
        work = self._consequence(verdict, candidate, False, status, request_id, refresh=refresh)
        if work is not None:
            await work

    def _consequence(
        self,
        verdict: Verdict,
        candidate: Candidate,
        is_trial: bool,
        status: int,
        request_id: str,
        *,
        refresh: bool = True,
    ) -> Coroutine[Any, Any, None] | None:
        state = state_after(verdict)
        if state is None:
            return self._bring_back(candidate) if verdict.kind is Kind.OK and is_trial else None
        subject = subject_of(verdict, candidate.key, candidate.account, candidate.organization)
        of_account = subject.kind is SubjectKind.ACCOUNT
        fingerprint = candidate.account_fingerprint if of_account else candidate.key_fingerprint
        record = Record(
            state,
            verdict.reason,
            0.0,
            status=status,
            message=verdict.message,
            request_id=request_id,
            fingerprint=fingerprint,
        )
        # A removal that the brake stops makes a suspect.
        resting = State.SUSPECT if state is State.REMOVED else state
        rest_s = first_rest_s(resting, verdict.reason, time.time(), self._rng.random())
        return self._sync.change(subject, record, rest_s, fingerprint, verdict.reason, refresh=refresh)

    async def _bring_back(self, candidate: Candidate) -> None:
        """A trial succeeded: whatever made the key rest is over."""
        for subject, fingerprint in (
            (Subject.of_account(candidate.account), candidate.account_fingerprint),
            (Subject.of_key(candidate.key), candidate.key_fingerprint),
            (Subject.of_organization(candidate.organization), candidate.key_fingerprint),
        ):
            record = self._pool.records.get(subject)
            if record is not None:
                await self._sync.change(subject, None, 0.0, fingerprint, "answered")
                if record.state is State.SUSPECT:
                    await self._try_alike(record.reason)

    async def _try_alike(self, reason: str) -> None:
        """One suspect answers well again. What made many suspect at once was hardly each one's own: the others of the
        same reason are tried now, one request each, and not after up to a quarter of an hour."""
        records = self._pool.records
        alike = [s for s, record in records.items() if record.state is State.SUSPECT and record.reason == reason]
        if alike:
            await self._sync.try_again(State.SUSPECT, alike)
