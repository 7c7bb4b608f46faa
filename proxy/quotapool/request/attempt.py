"""One attempt upstream, from a grant to its settling: what requests and sessions have in common.

A subclass says what is sent and how the answer is passed on (`_exchange`). Whatever happens to it, the reservation is
settled once, and what the answer says about key, account and network goes to those who act on it.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from msgspec import structs

from quotapool.domain.cool_down import COOLING, cool_down_s
from quotapool.domain.echoes import EchoFilter, shows
from quotapool.domain.frames import release_frames
from quotapool.domain.observer import Observer
from quotapool.domain.quantities import NOTHING, Certainty, Cost, Dimension, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.domain.retry import RetrySlots
from quotapool.domain.verdict import Kind, Verdict
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.grants import Event, Granted, Observed
from quotapool.openai import ratelimits, replies
from quotapool.openai.classify import NO_PROMPT, classify
from quotapool.openai.encoding import decoded_and_whole
from quotapool.openai.head import Head, Header
from quotapool.openai.jsontext import is_too_deep
from quotapool.openai.refusal import Refusal
from quotapool.openai.safety import is_policy_refusal
from quotapool.pool.admission import Admission
from quotapool.pool.configuration import Snapshot
from quotapool.pool.key_health import KeyHealth
from quotapool.pool.sync import RosterSync
from quotapool.probes.network_alarm import NetworkAlarm
from quotapool.request.charging import Charging
from quotapool.request.client_request import ClientRequest
from quotapool.request.outcome import Held, Outcome
from quotapool.request.policy import PolicyWatch
from quotapool.request.rate_headers import PoolRateHeaders
from quotapool.request.read import NO_MODEL
from quotapool.request.read_on import ReadingOn
from quotapool.upstream.interface import UpstreamFailure

MOST_ERROR_BODY: Final = 2**17  # bytes: an error answer is read up to here; OpenAI has none of more than a few thousand


# ---- how an attempt ends


# No work was done upstream: the tokens go back, the request itself counts ("unsuccessful requests contribute to your
# per-minute limit", OpenAI's rate limit guide).
DID_NO_WORK: Final = frozenset(Kind) - {Kind.OK, Kind.SERVICE}
# Refused at the door. What the caller did wrong (400, 404) may have been charged: only usage says it was not.
NOT_CHARGED: Final = DID_NO_WORK - {Kind.REQUEST, Kind.STATE}

# The client's own mistakes are answers, and count as requests of a client; that upstream was not able to does not.
ANSWERS: Final = frozenset({Kind.OK, Kind.REQUEST, Kind.STATE})


def is_page(verdict: Verdict) -> bool:
    """Something on the way answered instead of the API: its page would tell a client nothing."""
    return verdict.kind is Kind.EGRESS and verdict.reason.startswith("http_")


_WORDS: Final = {kind: kind.value for kind in Kind}  # `.value` takes ten times as long
_JSON: Final = (b"content-type", b"application/json")
_USUAL_REASONS: Final = frozenset({"", "OK"})


def _unreadable(status: int) -> bytes:
    """Instead of an error that cannot be read here: it might repeat the key."""
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return replies.error_body("OpenAI's error came in an encoding that this proxy does not read.", kind, None)


# Errors under HTTP 200 become what the same error is outside a stream.
STATUS_OF: Final = {
    Kind.WAIT: 429,
    Kind.SLOW_DOWN: 429,
    Kind.TOO_LARGE: 429,
    Kind.REQUEST: 400,
    Kind.STATE: 400,
    Kind.MODEL: 404,
    Kind.SERVICE: 503,
}


def held_event(verdict: Verdict, headers: list[Header]) -> Held:
    """A stream that began with an error, as the same error is shown outside a stream."""
    status = STATUS_OF.get(verdict.kind, 500)
    kind = "server_error" if status >= 500 else verdict.dimension or "invalid_request_error"
    kept = [(name, value) for name, value in headers if name.lower() not in {b"content-type", b"x-quotapool-source"}]
    body = replies.error_body(verdict.message or "The stream began with an error.", kind, verdict.reason)
    return Held(status, "", [*kept, _JSON], body)


def observed_in(headers: Head) -> list[Observed]:
    """What the rate headers show, as the ledger compares it."""
    rates = ratelimits.read(headers)
    seen: list[Observed] = []
    if rates is None:
        return seen
    if rates.limit_requests is not None and rates.remaining_requests is not None:
        dimension = Dimension.RPD if rates.requests_are_daily else Dimension.RPM
        seen.append(Observed(dimension, rates.limit_requests, rates.remaining_requests))
    if rates.limit_tokens is not None and rates.remaining_tokens is not None:
        seen.append(Observed(Dimension.TPM, rates.limit_tokens, rates.remaining_tokens))
    if rates.limit_project_tokens is not None and rates.remaining_project_tokens is not None:
        seen.append(Observed(Dimension.PROJECT_TPM, rates.limit_project_tokens, rates.remaining_project_tokens))
    return seen


def event_of(outcome: Outcome, cost: Cost, status: int) -> Event:
    """What else the answer taught about the account."""
    verdict, observed = outcome.verdict, outcome.observed
    if verdict.kind is Kind.SLOW_DOWN:
        return Event.SLOW_DOWN
    if verdict.kind is Kind.WAIT and not verdict.daily and observed:
        # Refused although a minute's worth is left: it enforces a shorter span, 60 a minute as one a second, say.
        enough = all(o.remaining >= cost.of(o.dimension) for o in observed if o.dimension is not Dimension.RPD)
        return Event.SHORTER_SPAN if enough else Event.NOTHING
    if verdict.kind is Kind.OK and 200 <= status < 300 and observed is not None and not observed:
        return Event.HEADERLESS
    return Event.NOTHING


# ---- the attempt itself


@dataclass(frozen=True, slots=True)
class AttemptParts:
    """What every attempt of a process works with."""

    sync: RosterSync
    health: KeyHealth
    ledger: Ledger
    observer: Observer
    alarm: NetworkAlarm
    policy: PolicyWatch
    rates: PoolRateHeaders
    slots: RetrySlots
    reading_on: ReadingOn
    admission: Admission
    charging: Charging
    clean: Callable[[bytes], bytes]


class AnswerHead(Protocol):
    """What an HTTP answer and the answer to a handshake have in common."""

    status: int
    reason: str
    headers: Head


class Attempt(ABC):
    """`now` is the configuration it began with; a reload in the meantime brings another to the next attempt."""

    __slots__ = ("echo", "granted", "now", "outcome", "parts", "record", "request", "request_record", "secret")

    def __init__(
        self, parts: AttemptParts, now: Snapshot, request: ClientRequest, granted: Granted, record: RequestRecord
    ) -> None:
        self.parts = parts
        self.now = now
        self.request = request
        self.granted = granted
        self.request_record = record
        self.outcome = Outcome()
        candidate = granted.candidate
        self.secret = now.credentials.secret(candidate.key)
        self.echo = EchoFilter(self.secret)
        self.record = AttemptRecord(candidate.key, candidate.account, record.queued_s)
        self.record.prompt_estimate = request.prompt_tokens
        self.record.asked = record.asked

    async def run(self) -> Outcome:
        """Raises CancelledError, and ConnectionError if the client has left."""
        record, request_record = self.record, self.request_record
        request_record.attempts.append(record)
        record.began = started = time.monotonic()
        try:
            await self._exchange()
        except UpstreamFailure as failure:
            release_frames(failure)
            self._fail(failure)
        except (asyncio.CancelledError, ConnectionError):
            record.outcome, request_record.cut = "cancelled", True
            raise
        finally:
            # Nothing in here awaits, so whatever is cancelled the reservation is settled, and settled once.
            record.took_s = time.monotonic() - started
            request_record.upstream_s += record.took_s
            self._leave()
        return self.outcome

    @abstractmethod
    def _exchange(self) -> Awaitable[None]:
        """One request up, one answer down. Raises UpstreamFailure; ConnectionError if the client has left."""
        ...

    def _fail(self, failure: UpstreamFailure) -> None:
        self.outcome.failure = failure

    def _leave(self) -> None:
        """The exchange is over, in whatever way."""
        self._end()

    # ---- an error answer

    def _refused(self, answer: AnswerHead, headers: list[Header], body: bytes) -> None:
        """Understand an error answer, and hold it for the client without secrets: upstream may repeat the key.

        `headers`: those the client may have. Upstream is asked for plain bytes. If it encodes them anyway, the client
        gets them as they came if all of it was read and nothing was to be cleaned; what cannot be read is replaced.
        """
        plain, is_whole = decoded_and_whole(body, answer.headers.get("content-encoding", ""), MOST_ERROR_BODY)
        if is_too_deep(plain):
            raise UpstreamFailure("protocol", "upstream's error is nested too deeply to be read", sent=True)
        text = self.parts.clean(self.echo.whole(plain))
        self.outcome.verdict = classify(answer.status, answer.headers, text)
        if (body and not plain) or self._is_wide(text):
            text, is_whole = _unreadable(answer.status), False
            headers = [*(pair for pair in headers if pair[0].lower() != b"content-type"), _JSON]
        if plain is body or not is_whole or text != plain:
            headers = [pair for pair in headers if pair[0].lower() != b"content-encoding"]
            body = text
        self.outcome.held = Held(answer.status, self.reason_of(answer), headers, body)

    def _is_wide(self, text: bytes) -> bool:
        """Whether something to be cleaned is written in 16 or 32 bits a character."""
        if b"\0" not in text:
            return False
        narrow = text.replace(b"\0", b"")
        return self.parts.clean(self.echo.whole(narrow)) != narrow

    def reason_of(self, answer: AnswerHead) -> str:
        """The answer's reason phrase; "", which is the usual one, if upstream wrote more into it than a reason."""
        reason = answer.reason
        if reason in _USUAL_REASONS:
            return reason
        written = reason.encode("utf-8", "surrogateescape")
        return reason if self.parts.clean(written) == written and not shows(reason, self.secret) else ""

    # ---- when it is over

    def _end(self) -> None:
        """All that is done then, in one go and without waiting."""
        outcome, record = self.outcome, self.record
        self._name()
        self._watch()
        self._settle()
        is_answered = outcome.delivered and outcome.failure is None  # else a resting key has shown nothing
        if is_answered and outcome.verdict.kind is Kind.OK:
            self.parts.health.answered(self.granted, self.request.use)
        if outcome.verdict.kind is not Kind.OK or (self.granted.is_trial and is_answered):
            request = self.request
            outcome.report = self.parts.health.report(
                outcome.verdict,
                self.granted,
                use=request.use
                if outcome.verdict.reason == NO_PROMPT
                else structs.replace(request.use, model=request.model),
                status=record.status,
                request_id=record.upstream_request_id,
            )
        self.parts.observer.attempted(record, self.request_record)

    def _name(self) -> None:
        """The word for how it ended, and the cool-down that follows."""
        outcome, record = self.outcome, self.record
        if outcome.failure is not None:
            record.outcome, record.reason = "network", outcome.failure.reason
            return
        verdict = outcome.verdict
        record.outcome, record.reason = record.outcome or _WORDS[verdict.kind], verdict.reason
        if verdict.kind in COOLING:
            outcome.cool_s = cool_down_s(verdict)
            self.parts.observer.served(self.request.model)  # it has a limit there, so it exists
            self.parts.observer.cooled(record.account, self.granted.group, verdict.reason)

    def _watch(self) -> None:
        """What it says about our network, and about the caller's content."""
        outcome, alarm = self.outcome, self.parts.alarm
        if outcome.failure is not None:
            if not isinstance(outcome.failure.__cause__, Refusal):  # else the client's own body ended it
                alarm.failed(outcome.failure.reason)
        elif outcome.verdict.kind is Kind.EGRESS:
            alarm.refused(self.record.account, outcome.verdict.reason)
        elif self.record.status:
            alarm.answered()
            if outcome.verdict.kind is Kind.REQUEST and is_policy_refusal(outcome.verdict):
                self.parts.policy.refused(self.request_record.client, outcome.verdict.reason)

    def _settle(self) -> None:
        """Correct the reservation. Only what upstream never received, refused, or counted exactly gives tokens back."""
        outcome, granted, ledger = self.outcome, self.granted, self.parts.ledger
        if outcome.failure is not None and not outcome.failure.sent:
            self._note_usage(NOTHING)
            ledger.give_back(granted)
            return
        kind, tokens = outcome.verdict.kind, granted.cost.tokens
        refused = kind in NOT_CHARGED and not outcome.delivered
        self._note_usage(NOTHING if kind in DID_NO_WORK and not outcome.delivered else outcome.usage)
        charge, used = granted.charge, None
        if charge is not None:
            is_answer = outcome.failure is None and (outcome.delivered or kind in ANSWERS)
            charging, request = self.parts.charging, self.request
            used = charging.used(charge, self.record, self.request_record, is_answer=is_answer, request=request)
        # What was used by a model that nobody named belongs to no model's budget.
        unused = tokens - outcome.usage.total if granted.group != NO_MODEL else 0
        ledger.settle(
            granted,
            back=Cost(0, tokens) if refused else Cost(0),
            unused_tokens=0 if refused else min(0, unused) if outcome.usage.certainty is Certainty.AT_LEAST else unused,
            cool_s=outcome.cool_s,
            observed=outcome.observed or (),
            refused=refused,
            event=event_of(outcome, granted.cost, self.record.status),
            used=used,
        )

    def _note_usage(self, usage: Usage) -> None:
        """What was done counts, not what was asked for."""
        self.outcome.usage = self.record.usage = usage
        self.record.tier = usage.tier or self.request.tier
