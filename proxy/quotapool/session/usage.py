"""What a session uses: its responses take their cost from the budgets of the one account that it runs on.

Realtime and Live report what a response used when it is over, so it is paid afterwards: a request, and its tokens,
which may put the bucket into debt. Upstream reserves a response's output when it begins, and `rate_limits.updated`
shows its buckets with that; what the bucket has learned from it is not taken a second time.
Responses over a WebSocket ask beforehand (`response.create`): each takes its estimate like a request of its own, or
waits for it, and is settled with what it used.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict, deque
from functools import partial
from typing import Final

import msgspec
import structlog

from quotapool.domain.access import Use
from quotapool.domain.cool_down import COOLING, cool_down_s
from quotapool.domain.quantities import Certainty, Cost, Details, Dimension, Usage
from quotapool.domain.request_record import AskedFor, AttemptRecord, RequestRecord
from quotapool.domain.states import State
from quotapool.domain.verdict import OK, Kind, Verdict
from quotapool.ledger.budgets import Candidate, Charge, Granted, Observed, StoreUnavailable
from quotapool.openai import replies
from quotapool.openai.classify import classify_stream_error
from quotapool.openai.named_models import may_name_models
from quotapool.openai.reference_marks import event_may_reference, may_reference
from quotapool.openai.refusal import Refusal
from quotapool.openai.requests import InvalidRequest, read_request
from quotapool.openai.safety import is_policy_refusal
from quotapool.openai.session_events import (
    BEGUN,
    DURATION,
    ENDED,
    ERROR,
    ITEM_DONE,
    RATES,
    RELEVANT,
    SESSION,
    TRANSCRIBED,
    EventFacts,
    may_create,
    read_create,
    read_event,
    refusal_event,
    type_of,
)
from quotapool.openai.value_count import has_too_many_values
from quotapool.pool.want import Never
from quotapool.request.attempt import ANSWERS, DID_NO_WORK, STATUS_OF, AttemptParts
from quotapool.request.one_account import reserve_at
from quotapool.request.read import LONGEST_MODEL
from quotapool.request.refusals import refusal_of
from quotapool.session.permissions import ObjectElsewhere
from quotapool.session.responses import UNSEEN, Response, SessionTerms, request_of, sum_of
from quotapool.session.rules import SessionRules

_log = structlog.get_logger()
_DIMENSIONS: Final = {"requests": Dimension.RPM, "tokens": Dimension.TPM}
_MOST_OPEN: Final = 64  # responses; upstream allows 16 at once (WebSocket mode guide)


class SessionUsage:
    """Counts one session."""

    def __init__(
        self, parts: AttemptParts, record: RequestRecord, granted: Granted, terms: SessionTerms, rules: SessionRules
    ) -> None:
        self._parts = parts
        self._roster = parts.sync.roster
        self._record = record
        self._granted = granted  # the session's own reservation, settled; names its account and key
        self._terms = terms
        self.rules = rules
        self._under_way: dict[str, Response] = {}
        self._asked: defaultdict[str, deque[Response]] = defaultdict(deque)  # by lane; sent, and not begun
        self._stranded = False  # its account is out, and a response could not go elsewhere
        self._transcriber = ""
        self._seconds = 0.0
        self._ended = 0  # responses
        self.model = record.model
        self.used = Usage(Certainty.EXACT)

    @property
    def key(self) -> str:
        return self._granted.candidate.key

    @property
    def account(self) -> str:
        return self._granted.candidate.account

    @property
    def busy(self) -> bool:
        """Whether a response is under way."""
        return bool(self._under_way) or any(self._asked.values())

    # ---- what the client asks

    def clean(self, text: bytes) -> bytes:
        return self._parts.clean(text)

    def wants(self, payload: bytearray) -> bool:
        if self._terms.is_limited and may_name_models(payload):
            return True
        is_keyed = self._record.client != ""
        if self._terms.asks_first:
            return may_create(payload) or may_reference("responses", payload, strictly=is_keyed)
        return is_keyed and (event_may_reference(payload) or (self.rules.any and may_create(payload)))

    async def admit(self, payload: bytearray) -> bytearray | None:
        """Check what an event names, and take the estimate of the response it asks for from the session's account.
        Returns the client's answer if that is refused."""
        if has_too_many_values(payload):
            return refusal_event(replies.BODY_TOO_LARGE.status, replies.BODY_TOO_LARGE.body(), "")
        model, lane = read_create(payload)
        response = Response(model[:LONGEST_MODEL], time.monotonic())
        event = bytes(payload)
        try:
            if not (self._terms.asks_first and may_create(payload)):
                await self._terms.check_event(event, self.account)
                if self.rules.any and may_create(payload):
                    await self.rules.check(self._granted.group, self.model, self._candidate(self._granted.group))
                return None
            payload[:], is_bound = await self._check(model, event)
            with contextlib.suppress(InvalidRequest):  # upstream answers what is wrong with it
                facts = read_request("responses", event)
                response.prompt_estimate = facts.prompt_tokens
                if facts.model:  # else upstream chooses it, and what was used is taken afterwards
                    group = self._roster.group_of(facts.model[:LONGEST_MODEL])
                    response.charge = self.rules.charge(request_of(facts, group)) if self.rules.any else None
                    response.granted = await self._reserve(group, facts.cost, response.charge, is_bound=is_bound)
        except Refusal as refusal:
            self._stranded = not self._is_usable()
            self._terms.refused(refusal)
            _log.info(
                "event refused",
                request_id=self._record.id,
                client=self._record.client,
                status=refusal.status,
                code=refusal.error.code,
                **({"about": refusal.about} if refusal.about else {}),
            )
            return refusal_event(refusal.status, refusal.body(), lane)
        self._expect(lane, response)
        return None

    async def _check(self, model: str, event: bytes) -> tuple[bytes, bool]:
        """As the terms'; a session in which nothing is under way goes where the objects are that the event names."""
        try:
            return await self._terms.check(model, event, self.account)
        except ObjectElsewhere as elsewhere:
            group = self._granted.group
            if not elsewhere.may_move or self.busy or not await self._move(group, Cost(1), elsewhere.only):
                raise
        return await self._terms.check(model, event, self.account)

    def _expect(self, lane: str, response: Response) -> None:
        """It was asked for, and has not begun. An upstream that begins none, or a client that invents lanes, fills no
        memory."""
        waiting = self._asked[lane]
        waiting.append(response)
        if len(waiting) > _MOST_OPEN:
            self._close(waiting.popleft())
        if len(self._asked) > _MOST_OPEN:
            for oldest in self._asked.pop(next(iter(self._asked))):
                self._close(oldest)

    async def _reserve(self, group: str, cost: Cost, charge: Charge | None, *, is_bound: bool) -> Granted:
        """Take the cost from the session's account: at once, else on another account if nothing binds the session to
        this one, else after waiting. Raises Refusal."""
        if not is_bound and not self.busy and not self._is_usable():
            await self._move(group, cost)
        may_move = not is_bound and not self.busy
        return await reserve_at(
            self._parts.ledger,
            group,
            cost,
            partial(self._candidate, group),
            request_id=self._record.id,
            patience_s=self._terms.patience_s,
            elsewhere=partial(self._move, group, cost) if may_move else None,
            charge=charge,
        )

    def _is_usable(self) -> bool:
        known = self._roster.pool.keys.get(self.key)
        return known is not None and self._roster.pool.state_of(known) is State.ACTIVE

    async def _move(self, group: str, cost: Cost, only: frozenset[str] | None = None) -> bool:
        """Whether the session is on another account now."""
        moved = await self._terms.move(group, cost, only)
        if moved is not None:
            self._granted = moved
        return moved is not None

    @property
    def can_move(self) -> bool:
        """Whether its next response may still find another account, if its own is out."""
        return self._terms.asks_first and not self._stranded

    def _candidate(self, group: str) -> Candidate:
        known = self._roster.pool.keys.get(self.key)
        if known is None:  # a reload took it; the session is about to end
            raise refusal_of(Never("dead"))
        return self._roster.candidate(known, group)

    # ---- upstream's events

    def observe(self, payload: bytearray) -> None:
        """A text of upstream. Nothing here waits, and nothing is raised."""
        if (hidden := self._terms.hide(payload)) is not payload:
            payload[:] = hidden
        kind = type_of(payload)
        if kind == ITEM_DONE and self._terms.asks_first:
            self._terms.own.learn(bytes(payload), self.account)
        if kind not in RELEVANT:
            return
        facts = read_event(payload)
        if facts is None:
            return
        if facts.failed:  # upstream may repeat the key: the event is cleaned before the client sees it
            event = bytes(payload)
            cleaned = self._parts.clean(event)
            if cleaned != event:
                payload[:] = cleaned
        if facts.type == BEGUN:
            self._begin(facts)
        elif facts.type in ENDED:
            if self._terms.asks_first:
                self._terms.own.learn(bytes(payload), self.account)
            self._end(facts, self._under_way.pop(facts.response, None) or self._next_asked(facts.lane), payload)
        elif facts.type == ERROR:
            self._fail(facts, payload)
        elif facts.type == RATES:
            self._parts.sync.start(self._learn(facts))
        elif facts.type == TRANSCRIBED and facts.usage is not None:
            model = self._transcriber or self.model
            self.used = sum_of(self.used, facts.usage)
            self._parts.sync.start(self._pay(Response(model, time.monotonic()), facts.usage, OK))
        elif facts.type in SESSION:
            self.model = self.model or facts.model[:LONGEST_MODEL]
            self._transcriber = facts.transcriber[:LONGEST_MODEL] or self._transcriber
        elif facts.type in DURATION:
            self._seconds = max(self._seconds, facts.seconds)

    def _begin(self, facts: EventFacts) -> None:
        response = self._next_asked(facts.lane) or Response(facts.model[:LONGEST_MODEL] or self.model, time.monotonic())
        if len(self._under_way) >= _MOST_OPEN:  # an upstream that never ends one
            self._close(self._under_way.pop(next(iter(self._under_way))))
        response.model = response.model or facts.model[:LONGEST_MODEL]  # a stored prompt may have chosen it
        self._under_way[facts.response] = response
        if self._terms.asks_first and facts.response:
            self._terms.own.began(facts.response, self.account)

    def _next_asked(self, lane: str) -> Response | None:
        waiting = self._asked.get(lane)
        if not waiting:
            return None
        response = waiting.popleft()
        if not waiting:
            del self._asked[lane]
        return response

    def _end(self, facts: EventFacts, response: Response | None, payload: bytearray) -> None:
        verdict = classify_stream_error(bytes(payload)) if facts.failed else OK
        if facts.usage is not None:
            self.used = sum_of(self.used, facts.usage)
        if response is None:
            response = Response(facts.model[:LONGEST_MODEL] or self.model, time.monotonic())
        if response.granted is not None:
            self._settle(response, response.granted, facts.usage, verdict)
        elif facts.usage is not None or verdict.kind is not Kind.OK:
            self._parts.sync.start(self._pay(response, facts.usage or Usage(Certainty.EXACT), verdict))

    def _fail(self, facts: EventFacts, payload: bytearray) -> None:
        """An `error` event. Most are about one event of the client; in Realtime the session goes on."""
        verdict = classify_stream_error(bytes(payload))
        response = self._next_asked(facts.lane)
        if response is not None and response.granted is not None:
            self._settle(response, response.granted, None, verdict)
        elif verdict.kind not in {Kind.OK, Kind.REQUEST}:
            self._parts.sync.start(self._pay(response or Response(self.model, time.monotonic()), None, verdict))
        else:
            self._note_policy(verdict)

    def _note_policy(self, verdict: Verdict) -> None:
        if is_policy_refusal(verdict):
            self._parts.policy.refused(self._record.client, verdict.reason)

    # ---- what it costs

    async def _pay(self, response: Response, usage: Usage | None, verdict: Verdict) -> None:
        """Take afterwards what was used: where there is no room for it, as a debt."""
        group = self._roster.group_of(response.model)
        granted = None
        try:
            answer = await self._parts.ledger.reserve(group, Cost(1 if usage else 0), [self._candidate(group)])
            granted = answer if isinstance(answer, Granted) else None
        except (StoreUnavailable, Refusal):
            pass
        if granted is None:
            granted = msgspec.structs.replace(self._granted, group=group, cost=Cost(0), settled=False)
        self._settle(response, granted, usage, verdict)

    async def _learn(self, facts: EventFacts) -> None:
        """Upstream shows its buckets: ours follow."""
        observed = [Observed(_DIMENSIONS[name], *rest) for name, *rest in facts.limits if name in _DIMENSIONS]
        if not observed:
            return
        group = self._roster.group_of(self.model)
        try:
            answer = await self._parts.ledger.reserve(group, Cost(0), [self._candidate(group)])
        except (StoreUnavailable, Refusal):
            return
        if not isinstance(answer, Granted):
            return
        ours = answer.moments.get(Dimension.TPM)
        for one in observed:
            if ours is not None and one.dimension is Dimension.TPM:
                for response in self._under_way.values():
                    response.seen = max(response.seen, min(ours.kept, ours.corrected) - one.remaining)
        self._parts.ledger.settle(answer, observed=observed)

    def _settle(self, response: Response, granted: Granted, usage: Usage | None, verdict: Verdict) -> None:
        """Correct a reservation, act on the verdict, and tell who counts. Only for responses that have ended."""
        used = usage or (Usage(Certainty.NOTHING) if verdict.kind in DID_NO_WORK else UNSEEN)
        unused = granted.cost.tokens - max(0.0, used.total - response.seen)
        status = 200 if verdict.kind is Kind.OK else STATUS_OF.get(verdict.kind, 500)
        attempt = AttemptRecord(self.key, self.account, 0.0, verdict.kind.value, verdict.reason, status)
        if verdict.kind in COOLING:
            self._parts.observer.cooled(self.account, granted.group, verdict.reason)
        self._parts.ledger.settle(
            granted,
            unused_tokens=min(0.0, unused) if used.certainty is Certainty.AT_LEAST else unused,
            cool_s=cool_down_s(verdict),
            used=self._charge(response, attempt, used, is_answer=verdict.kind in ANSWERS),
        )
        if verdict.kind is not Kind.OK:
            self._parts.health.report(verdict, granted, use=Use(response.model, self._record.endpoint))
            self._note_policy(verdict)
        elif usage is not None:
            self._parts.observer.served(response.model)
        record = self._record_of(response, attempt)
        self._parts.observer.attempted(attempt, record)
        self._ended += 1
        record.id, record.status, record.source = f"{record.id}.{self._ended}", status, "upstream"
        record.started, record.ended = response.started, time.monotonic()
        group = "" if granted.group == response.model else granted.group
        record.asked_for = AskedFor(group, granted.cost.tokens, max_wait_s=self._terms.patience_s)
        self._parts.observer.response_ended(record)

    def _charge(
        self, response: Response, attempt: AttemptRecord, used: Usage, *, is_answer: bool
    ) -> list[float] | None:
        """Note what it used; returns what that is of the rules that it holds something of."""
        attempt.usage = used
        attempt.tier = used.tier
        attempt.prompt_estimate = response.prompt_estimate
        attempt.took_s = time.monotonic() - response.started
        if not self.rules.any and response.charge is None:
            return None
        return self.rules.settle(response.charge, attempt, self._record_of(response, attempt), is_answer=is_answer)

    def _record_of(self, response: Response, attempt: AttemptRecord) -> RequestRecord:
        return msgspec.structs.replace(self._record, model=response.model, streamed=True, attempts=[attempt])

    def _close(self, response: Response) -> None:
        """The session ended under it: what it used stays unknown, and its estimate stays charged."""
        self.used = sum_of(self.used, UNSEEN)
        if response.granted is not None:
            attempt = AttemptRecord(self.key, self.account, 0.0, "cancelled")
            used = self._charge(response, attempt, UNSEEN, is_answer=False)
            self._parts.ledger.settle(response.granted, used=used)
            self._parts.observer.attempted(attempt, self._record_of(response, attempt))

    def finish(self) -> None:
        """The session has ended."""
        for response in self._under_way.values():
            self._close(response)
        for waiting in self._asked.values():
            for response in waiting:
                self._close(response)
        self._under_way.clear()
        self._asked.clear()
        if self._seconds:
            used = Usage(Certainty.EXACT, details=Details(seconds=self._seconds))
            response = Response(self.model, self._record.started)
            attempt = AttemptRecord(self.key, self.account, 0.0, Kind.OK.value)
            self._charge(response, attempt, used, is_answer=True)
            self._parts.observer.attempted(attempt, self._record_of(response, attempt))
