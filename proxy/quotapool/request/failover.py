"""What follows an attempt, for requests and sessions alike: one planner that decides, one loop that acts.

Upstream's refusals (rate limit, money, an invalid key, an unknown model) did no work, so whatever can be sent again
moves on to another account at once. Failures (5xx, a broken connection) may have done work: they are repeated after a
pause, within the retry budget, if that is harmless. `domain/retry.py` has these rules as a table.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec

from quotapool.domain import retry
from quotapool.domain.access import Access
from quotapool.domain.observer import Observer
from quotapool.domain.request_record import RequestRecord
from quotapool.domain.retry import RetrySlots, Step, Tried
from quotapool.domain.verdict import Kind, Verdict
from quotapool.ledger.budgets import Blocked, Ledger, StoreUnavailable
from quotapool.ledger.grants import Granted
from quotapool.openai import replies
from quotapool.openai.head import Header
from quotapool.openai.refusal import Refusal
from quotapool.pool.admission import Admission
from quotapool.pool.configuration import Configuration
from quotapool.pool.sync import RosterSync
from quotapool.pool.waits import waited_for
from quotapool.pool.want import Never, NoRoom, Want
from quotapool.request.attempt import is_page
from quotapool.request.client_request import ClientRequest
from quotapool.request.outcome import Held, Outcome
from quotapool.request.rate_headers import PoolRateHeaders
from quotapool.request.refusals import failed, refusal_of

_MOST_IDLE: Final = 8  # connections that one request may find closed under it
_NOT_THIS_ACCOUNT: Final = frozenset({Kind.MODEL, Kind.TOO_LARGE, Kind.EGRESS, Kind.HEADER, Kind.STATE})
_ABOUT_THE_KEY: Final = frozenset({Kind.MONEY, Kind.DEAD, Kind.SUSPECT, Kind.HEADER})


# ---- the planner: no clock, no I/O


@dataclass(frozen=True, slots=True)
class TryAnother:
    """Ask another account, at once."""


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """Ask again after `pause_s` seconds, whichever account has room then."""

    pause_s: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    """The client gets an error: upstream's own, or the proxy's where upstream's would mislead."""

    answer: Held | Refusal


Next = TryAnother | RetryAfter | GiveUp


class Plan:
    """What one request has been through, and from it what comes next. `want` is narrowed as accounts refuse."""

    def __init__(self, request: ClientRequest, want: Want, slots: RetrySlots, most_attempts: int) -> None:
        self._resendable = request.body is not None
        self._replayable = request.replayable
        self._want = want
        self._slots = slots
        self._most = most_attempts - 1
        self.tried = Tried()
        self._held: Held | None = None
        self._nobody = replies.POOL_NO_USABLE_KEYS  # if each account refuses its own key

    def after(self, outcome: Outcome, account: str, jitter: float) -> Next:
        """What follows an attempt that delivered nothing. `jitter` in [0, 1) spreads the pauses."""
        verdict, tried = outcome.verdict, self.tried
        if is_page(verdict):
            self._nobody = replies.EGRESS_REFUSED
        elif verdict.kind not in _ABOUT_THE_KEY:  # what is wrong with one of our keys is no answer to a client
            self._held = outcome.held or self._held
        if verdict.kind in _NOT_THIS_ACCOUNT and verdict.access is not Access.ENDPOINT:  # that is about the key
            self._want.exclude.add(account)
        if verdict.kind is Kind.TOO_LARGE and verdict.limit is not None:
            # Only an account with a larger limit may be asked: our own estimate was too low.
            cost = self._want.cost
            self._want.cost = msgspec.structs.replace(cost, tokens=max(cost.tokens, verdict.limit + 1))
        step = self._step(outcome)
        if step is Step.NEXT:
            if outcome.failure is None:
                tried.refused(verdict.kind)
            else:
                tried.idle += 1
            return TryAnother()
        if step is Step.AGAIN:
            tried.failures += 1
            return RetryAfter(retry.pause_s(tried.failures, verdict.retry_after_s, jitter))
        if outcome.failure is not None:
            return GiveUp(failed(outcome.failure, final=tried.failures > 0))
        if verdict.kind in _ABOUT_THE_KEY:
            return GiveUp(Refusal(replies.UPSTREAM_KEY_REFUSED))
        return self._last_answer()

    def not_admitted(self, answer: NoRoom | Never | Blocked) -> GiveUp:
        """What follows if no account can be asked. If all have refused this very request, their last answer stands."""
        if answer == Never("excluded") and self.tried.anything:
            return self._last_answer()
        return GiveUp(refusal_of(answer))

    def _last_answer(self) -> GiveUp:
        held = self._held
        if held is None:
            return GiveUp(Refusal(self._nobody))
        headers = [*held.headers, (b"x-quotapool-source", b"upstream")]
        # We have retried: the client's own retries would multiply ours.
        if self.tried.failures and not any(name.lower() == b"x-should-retry" for name, _ in headers):
            headers.append((b"x-should-retry", b"false"))
        return GiveUp(Held(held.status, held.reason, headers, held.body))

    def _step(self, outcome: Outcome) -> Step:
        failure, tried = outcome.failure, self.tried
        if failure is None:
            return retry.next_step(
                outcome.verdict,
                tried,
                resendable=self._resendable,
                replayable=self._replayable,
                slots=self._slots,
                most_failures=self._most,
            )
        if failure.idle and self._resendable and self._replayable and tried.idle < _MOST_IDLE:
            return Step.NEXT  # no sign of trouble upstream, so neither a pause nor a share of the retries
        again = retry.may_resend(
            sent=failure.sent,
            resendable=self._resendable,
            replayable=self._replayable,
            tried=tried,
            slots=self._slots,
            most=self._most,
        )
        return Step.AGAIN if again else Step.ANSWER


# ---- the loop


class Failover:
    """Tries one account after another, for one process's requests and sessions."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        admission: Admission,
        ledger: Ledger,
        sync: RosterSync,
        rates: PoolRateHeaders,
        slots: RetrySlots,
        observer: Observer,
    ) -> None:
        self._configuration = configuration
        self._admission = admission
        self._ledger = ledger
        self._sync = sync
        self._rates = rates
        self._slots = slots
        self._observer = observer
        self._rng = random.Random()

    async def deliver(
        self,
        want: Want,
        request: ClientRequest,
        record: RequestRecord,
        attempt: Callable[[Granted], Awaitable[Outcome]],
    ) -> Held | None:
        """Run `attempt` with one grant after another until it delivers (None), or return upstream's error for the
        client. Raises Refusal: 404, 429, 502, 503, 504."""
        retries = self._configuration.now.settings.retry
        slots, slots.share = self._slots, retries.budget
        plan: Plan | None = None  # made when something went wrong
        slots.active += 1
        try:
            while True:
                granted = await self._admit(want, record)
                if not isinstance(granted, Granted):
                    plan = plan or Plan(request, want, slots, retries.max_attempts)
                    lines = [] if isinstance(granted, Never) else self._rates.lines(want.group, want.charge, fresh=True)
                    return _give_up(plan.not_admitted(granted), lines)
                if granted.candidate.key not in self._configuration.now.credentials:
                    self._ledger.give_back(granted)  # a reload took the key while the store was asked
                    continue
                outcome = await attempt(granted)
                if outcome.report is not None:  # the next choice needs it; a client that leaves must not undo it
                    await asyncio.shield(outcome.report)
                if outcome.delivered:
                    if request.leaves_the_model and record.model != request.model:
                        await self._sync.learn_group(request.model, record.model)  # the prompt shares its limits
                    return None
                request.end_retry(slots)
                if shared := self._shared_by_the_model(request, outcome.verdict):
                    await self._sync.learn_group(request.model, shared, refused=granted, cool_s=outcome.cool_s)
                    want.group = request.group = self._sync.roster.group_of(request.model)
                plan = plan or Plan(request, want, slots, retries.max_attempts)
                following = plan.after(outcome, granted.candidate.account, self._rng.random())
                if isinstance(following, GiveUp):
                    return _give_up(following)
                self._observer.retrying(record.attempts[-1])
                if isinstance(following, RetryAfter):
                    request.begin_retry(slots)
                    await asyncio.sleep(following.pause_s)
        finally:
            slots.active -= 1
            request.end_retry(slots)

    def _shared_by_the_model(self, request: ClientRequest, verdict: Verdict) -> str:
        """The group whose limit the whole model shares; "": none. A limit of long contexts concerns long prompts only,
        whether they have a group of their own here or not."""
        if "long-context" in verdict.shared_group or request.group != self._sync.roster.group_of(request.model):
            return ""
        return verdict.shared_group

    async def _admit(self, want: Want, record: RequestRecord) -> Granted | NoRoom | Never | Blocked:
        record.asked = time.monotonic()
        try:
            answer = await self._admission.admit(want)
        except StoreUnavailable as gone:
            raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from gone
        finally:
            record.queued_s = want.queued_s
        if not isinstance(answer, Granted):
            record.waited_for = waited_for(want, answer)
        else:
            if want.waited_for is not None:
                record.waited_for = waited_for(want, None)
            self._rates.observe(answer)
            charge = answer.charge
            if charge is not None and not charge.rules.hard:
                record.beyond = tuple(standing.rule.id for standing in charge.exceeded)
        return answer


def _give_up(following: GiveUp, lines: Sequence[Header] = ()) -> Held:
    """Upstream's error, or the proxy's raised. `lines`: headers that tell what the pool has left."""
    if isinstance(following.answer, Held):
        return following.answer
    following.answer.also.extend(lines)
    raise following.answer
