"""THE REQUEST PATH: from a client's first line to the settled reservation. Read it from the top.

    enter -> endpoint -> read and estimate -> reserve (or wait, or refuse) -> send -> verdict -> relay -> settle

Each step names the statuses it may answer with. `docs/request-life.md` tells the same as a story.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from proxy.admission import Admission, NobodyLeft, NoRoom, TooLarge, Want
from proxy.domain import retry
from proxy.domain.quantities import NOTHING, Certainty, Cost, Dimension, Usage
from proxy.domain.retry import Attempts, Budget, Step
from proxy.domain.trip import Leg, Trip
from proxy.domain.verdict import OK, Kind, Verdict
from proxy.gate import Gate
from proxy.ledger.ledger import Event, Granted, Ledger, Observed, StoreUnavailable
from proxy.openai import ratelimits, replies
from proxy.openai.classify import classify, classify_stream_error
from proxy.openai.encoding import decoded
from proxy.openai.endpoints import Endpoint, resolve
from proxy.openai.headers import Header, downward, upward
from proxy.openai.replies import ProxyError
from proxy.openai.requests import InvalidRequest, inject_include_usage, peek_model, read_request
from proxy.openai.sse import StreamRelay
from proxy.refusal import Refusal
from proxy.relay import UNSEEN, Downstream, Passed, pass_bytes, pass_json, pass_stream
from proxy.roster import Roster
from proxy.settings import Settings
from proxy.upstream.credentials import Credentials
from proxy.upstream.http import Answer, Upstream, UpstreamFailure, read_body

NO_MODEL: Final = "-"  # the model group of requests that name no model
_LONGEST_MODEL: Final = 128  # characters of a model name that make its group
_ERROR_BODY: Final = 2**20  # an error answer is read up to here
_DEFAULT_COOL_S: Final = 5.0  # a rate limit that names no time
_MOST_IDLE: Final = 8  # connections that one request may find closed under it
_MOST_COOL_S: Final = 86_400.0


class TripObserver(Protocol):
    """Who wants to know how requests fare: metrics and logs."""

    def attempted(self, leg: Leg, model: str) -> None: ...

    def retrying(self, leg: Leg) -> None: ...

    def cooled(self, account: str, group: str, reason: str) -> None: ...

    def served(self, model: str) -> None: ...

    def stream_opened(self, change: int) -> None: ...


@dataclass(slots=True)
class Job:
    """A request that passed the gate. `body` None: it streams from the client and cannot be sent twice."""

    endpoint: Endpoint
    body: bytes | None
    stream: AsyncIterator[bytes] | None
    model: str
    group: str
    cost: Cost
    replayable: bool
    streamed: bool = False
    strip_usage: bool = False
    length: str | None = None
    retrying: bool = False  # holds one place of the retry budget


@dataclass(slots=True)
class Held:
    """An upstream error, read but not passed on yet: the client's answer if nobody does better."""

    status: int
    reason: str
    headers: list[Header]
    body: bytes


@dataclass(slots=True)
class Outcome:
    """How one attempt ended. What stays unknown remains charged: `usage` is AT_LEAST nothing until told better."""

    verdict: Verdict = OK
    failure: UpstreamFailure | None = None
    report: asyncio.Task[None] | None = None  # the store is being told of a verdict
    delivered: bool = False  # the client has its answer, or as much of it as there was
    held: Held | None = None
    usage: Usage = UNSEEN
    cool_s: float = 0.0


# No work was done upstream: the tokens go back, the request itself counts ("unsuccessful requests contribute to your
# per-minute limit", OpenAI's rate limit guide).
_DID_NO_WORK: Final = frozenset(Kind) - {Kind.OK, Kind.SERVICE}
# Refused at the door. What the caller did wrong (400, 404) may have been charged: only usage says it was not.
_NOT_CHARGED: Final = _DID_NO_WORK - {Kind.REQUEST, Kind.STATE}
_NOT_THIS_ACCOUNT: Final = frozenset({Kind.MODEL, Kind.TOO_LARGE, Kind.EGRESS, Kind.HEADER, Kind.STATE})
_ABOUT_THE_KEY: Final = frozenset({Kind.MONEY, Kind.DEAD, Kind.SUSPECT, Kind.HEADER})


class Pipeline:
    """Serves requests with one pool. All its parts are given to it; it owns none."""

    def __init__(
        self,
        settings: Settings,
        *,
        gate: Gate,
        roster: Roster,
        admission: Admission,
        ledger: Ledger,
        upstream: Upstream,
        credentials: Credentials,
        observer: TripObserver,
        clean: Callable[[bytes], bytes],
    ) -> None:
        self.settings = settings
        self.credentials = credentials
        self._gate = gate
        self._roster = roster
        self._admission = admission
        self._ledger = ledger
        self.upstream = upstream
        self._observer = observer
        self._clean = clean
        self._retries = Budget(settings.retry.budget)
        self._rng = random.Random()

    async def serve(self, down: Downstream, trip: Trip) -> None:
        """Answer one request. Raises Refusal for what the proxy answers itself."""
        trip.client = self._gate.enter(down.headers)  # 401, 403
        endpoint = resolve(down.method, down.target)
        if isinstance(endpoint, ProxyError):
            raise Refusal(endpoint, _with_base_url(endpoint, down.headers))  # 403, 404, 405
        trip.endpoint = endpoint.name
        job = await self._read(down, endpoint)  # 400, 413
        trip.model, trip.streamed = job.model, job.streamed
        self._retries.active += 1
        attempts = Attempts()
        try:
            await self._forward(down, job, trip, attempts)  # 429, 502, 503, 504 or upstream's answer
        finally:
            self._retries.active -= 1
            self._end_retry(job)

    # ---- read and estimate

    async def _read(self, down: Downstream, endpoint: Endpoint) -> Job:
        """What the request is and what it will cost. Raises Refusal."""
        headers = down.headers
        is_json = headers.get("Content-Type", "").partition(";")[0].strip().lower() == "application/json"
        has_body = headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in headers
        if not has_body and endpoint.estimate is None:
            return Job(endpoint, b"", None, "", NO_MODEL, Cost(), endpoint.replayable)
        encoded = "Content-Encoding" in headers
        if endpoint.estimate is None and not (is_json and endpoint.json_body and not encoded):
            length = headers.get("Content-Length")
            return Job(endpoint, None, down.stream(), "", NO_MODEL, Cost(), replayable=False, length=length)
        body = await down.read(self.settings.max_json_body)
        if endpoint.estimate is None:
            model, streamed = peek_model(body)
            model = model[:_LONGEST_MODEL]
            group = self.settings.group_of(model) if model else NO_MODEL
            return Job(endpoint, body, None, model, group, Cost(), endpoint.replayable, streamed)
        try:
            facts = read_request(endpoint.estimate, body)
        except InvalidRequest as invalid:
            raise Refusal(replies.INVALID_JSON, str(invalid), param=invalid.param) from invalid
        model = facts.model[:_LONGEST_MODEL]
        inject = facts.stream and not facts.asked_usage and endpoint.dialect == "chat" and self.settings.inject_usage
        return Job(
            endpoint,
            inject_include_usage(body) if inject else body,
            None,
            model,
            self.settings.group_of(model),
            facts.cost,
            endpoint.replayable and not (endpoint.replay_asks_body and facts.stateful),
            facts.stream,
            strip_usage=inject,
        )

    # ---- one attempt after another

    async def _forward(self, down: Downstream, job: Job, trip: Trip, attempts: Attempts) -> None:
        want = Want(job.group, job.model, job.cost, job.replayable, self.settings.queue.max_wait)
        held: Held | None = None
        while True:
            tried = attempts.refusals + attempts.failures > 0
            granted = await self._admit(want, trip, nobody_is_fine=tried)  # 429, 503
            if granted is None:
                break
            if granted.candidate.key not in self.credentials:  # a reload took it while the store was asked
                self._ledger.give_back(granted)
                continue
            leg = Leg(granted.candidate.key, granted.candidate.account, trip.queued_s)
            trip.legs.append(leg)
            outcome = await self._attempt(down, job, granted, leg, trip)
            if outcome.report is not None:
                await asyncio.shield(outcome.report)  # the next choice must know; who leaves now does not undo it
            if outcome.delivered:
                return
            self._end_retry(job)
            kind = outcome.verdict.kind
            if kind not in _ABOUT_THE_KEY:  # what is wrong with one of our keys is no answer to a client
                held = outcome.held or held
            if kind in _NOT_THIS_ACCOUNT:
                want.exclude.add(leg.account)
            if kind is Kind.TOO_LARGE and outcome.verdict.limit is not None:
                # Only an account with a larger limit may be asked; our own estimate was too low.
                want.cost = replace(want.cost, tokens=max(want.cost.tokens, outcome.verdict.limit + 1))
            step = self._next_step(job, outcome, attempts)
            if step is Step.ANSWER:
                self._refuse_if_ours(outcome, final=attempts.failures > 0)  # 502, 503, 504
                break
            self._observer.retrying(leg)
            if step is Step.NEXT:
                attempts.refusals += 1
                continue
            attempts.failures += 1
            job.retrying = True
            self._retries.retrying += 1
            await asyncio.sleep(retry.pause_s(attempts.failures, outcome.verdict.retry_after_s, self._rng.random()))
        if held is None:
            raise Refusal(replies.POOL_NO_USABLE_KEYS)  # each account refused its own key
        await self._answer(down, held, trip, final=attempts.failures > 0)

    def _end_retry(self, job: Job) -> None:
        """The retry budget is for attempts under way: a request that is being answered, or waits, holds none of it."""
        if job.retrying:
            job.retrying = False
            self._retries.retrying -= 1

    async def _admit(self, want: Want, trip: Trip, *, nobody_is_fine: bool) -> Granted | None:
        """A reservation. None: every account has refused this very request, so its last answer stands."""
        try:
            return await self._admission.admit(want)
        except NoRoom as full:
            error = _NO_ROOM[full.reason]
            raise Refusal(error, _no_room_message(error, full), retry_after_s=full.wait_s) from full
        except TooLarge as large:
            raise Refusal(replies.REQUEST_TOO_LARGE_FOR_POOL) from large
        except NobodyLeft as nobody:
            if nobody_is_fine and nobody.reason == "excluded":
                return None
            raise Refusal(_NOBODY[nobody.reason]) from nobody
        except StoreUnavailable as gone:
            raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from gone
        finally:
            trip.queued_s = want.stood_s

    async def _attempt(self, down: Downstream, job: Job, granted: Granted, leg: Leg, trip: Trip) -> Outcome:
        """Send the request with one key; pass a good answer on, or understand a bad one. Settles once, always."""
        outcome = Outcome()
        answer: Answer | None = None
        observed: list[Observed] | None = None
        credentials = self.credentials  # a reload in the meantime brings others
        started = time.monotonic()
        try:
            answer = await self.upstream.send(down.method, down.target, self._headers(down, job, granted), _body(job))
            leg.status, observed = answer.status, _observed(answer.headers)
            if observed and job.streamed and answer.status < 400:
                self._ledger.observe(granted, observed)  # what a stream's headers say is old when it ends
                observed = None
            secret = credentials.secret(granted.candidate.key)
            headers = downward(answer.headers, answer.headers.items(), secret=secret)
            leg.upstream_request_id = next((value for name, value in headers if name.lower() == "x-request-id"), "")
            if answer.status < 400:
                self._end_retry(job)
                await self._relay(down, job, answer, headers, outcome, trip)
            else:
                # Upstream may repeat the key: what it says is cleaned before anybody sees, logs or stores it.
                headers, body, text = self._cleaned(headers, await read_body(answer, _ERROR_BODY))
                outcome.verdict = classify(answer.status, answer.headers, text)
                outcome.held = Held(answer.status, answer.reason, headers, body)
        except UpstreamFailure as failure:
            outcome.failure = failure
            if down.started:  # past the point of no return: show the cut
                outcome.delivered = trip.cut = True
                down.cut()
        except (asyncio.CancelledError, ConnectionError):
            leg.outcome, trip.cut = "cancelled", True
            raise
        finally:
            # Nothing in here awaits, so whatever is cancelled the reservation is settled, and settled once.
            leg.took_s = time.monotonic() - started
            trip.upstream_s += leg.took_s
            if answer is not None:
                answer.close()
            self._understand(job, outcome, leg)
            self._settle(granted, outcome, leg.status, observed)
            if outcome.verdict.kind is not Kind.OK or (outcome.delivered and outcome.failure is None):
                # Told apart from no answer at all, which says nothing about a key that was resting.
                outcome.report = self._roster.report(
                    outcome.verdict, granted, status=leg.status, request_id=leg.upstream_request_id
                )
            leg.usage = outcome.usage
            self._observer.attempted(leg, job.model)
        return outcome

    async def _relay(
        self, down: Downstream, job: Job, answer: Answer, headers: list[Header], outcome: Outcome, trip: Trip
    ) -> None:
        """Pass a good answer on. A stream that begins with an error becomes a held error instead."""
        headers.append(("x-quotapool-source", "upstream"))
        passed = Passed()
        trip.status, trip.source = answer.status, "upstream"
        content_type = answer.headers.get("Content-Type", "")
        try:
            if content_type.startswith("text/event-stream") and job.endpoint.dialect is not None:
                watch = StreamRelay(job.endpoint.dialect, job.strip_usage)
                self._observer.stream_opened(1)
                try:
                    await pass_stream(down, answer, headers, watch, self.settings.stream_hold, passed)
                finally:
                    self._observer.stream_opened(-1)
            elif job.endpoint.estimate is not None:
                await pass_json(down, answer, headers, passed)
            else:
                await pass_bytes(down, answer, headers, passed)
        finally:
            outcome.usage = passed.usage
            if passed.late_error is not None:  # scored even if the client leaves on seeing it
                outcome.verdict = classify_stream_error(self._clean(passed.late_error))
        if passed.error is not None:
            outcome.verdict = classify_stream_error(self._clean(passed.error))
            outcome.held = _held_event(outcome.verdict, headers)
            return
        outcome.delivered = True
        self._observer.served(job.model)

    # ---- what it means

    def _understand(self, job: Job, outcome: Outcome, leg: Leg) -> None:
        """Turn the attempt's end into its outcome word, a cool-down, and what the pool should remember."""
        verdict = outcome.verdict
        if outcome.failure is not None:
            leg.outcome, leg.reason = "network", outcome.failure.reason
            return
        leg.outcome, leg.reason = leg.outcome or verdict.kind.value, verdict.reason
        if verdict.kind in {Kind.WAIT, Kind.SLOW_DOWN}:
            asked = verdict.retry_after_s
            outcome.cool_s = min(_DEFAULT_COOL_S if asked is None else asked, _MOST_COOL_S)
            self._observer.cooled(leg.account, job.group, verdict.reason)
        elif verdict.kind is Kind.MODEL and job.model:
            self._roster.pool.lacks(leg.account, job.model, time.time())

    def _settle(self, granted: Granted, outcome: Outcome, status: int, observed: Sequence[Observed] | None) -> None:
        """Correct the reservation. Only what upstream never heard of, refused, or counted exactly gives tokens back.

        `observed`: what the headers said; None: there were none, or it was told while the answer went on.
        """
        if outcome.failure is not None and not outcome.failure.sent:
            outcome.usage = NOTHING
            self._ledger.give_back(granted)
            return
        kind, tokens = outcome.verdict.kind, granted.cost.tokens
        refused = kind in _NOT_CHARGED and not outcome.delivered
        if kind in _DID_NO_WORK and not outcome.delivered:
            outcome.usage = NOTHING
        unused = tokens - outcome.usage.total
        self._ledger.settle(
            granted,
            back=Cost(0, tokens) if refused else Cost(0),
            unused_tokens=0 if refused else min(0, unused) if outcome.usage.certainty is Certainty.AT_LEAST else unused,
            cool_s=outcome.cool_s,
            observed=observed or (),
            refused=refused,
            event=_event(outcome, granted.cost, status, observed),
        )

    def _next_step(self, job: Job, outcome: Outcome, attempts: Attempts) -> Step:
        resendable, most = job.body is not None, self.settings.retry.max_attempts - 1
        self._retries.share = self.settings.retry.budget
        if outcome.failure is not None:
            if outcome.failure.idle and resendable and job.replayable and attempts.refusals < _MOST_IDLE:
                return Step.NEXT  # no sign of trouble upstream, so neither a pause nor a share of the retries
            again = retry.may_resend(
                sent=outcome.failure.sent,
                resendable=resendable,
                replayable=job.replayable,
                attempts=attempts,
                budget=self._retries,
                most=most,
            )
            return Step.AGAIN if again else Step.ANSWER
        return retry.next_step(
            outcome.verdict,
            attempts,
            resendable=resendable,
            replayable=job.replayable,
            budget=self._retries,
            most_failures=most,
        )

    @staticmethod
    def _refuse_if_ours(outcome: Outcome, *, final: bool) -> None:
        """Raise Refusal where upstream's own answer, if there is one, would mislead the client."""
        failure = outcome.failure
        if failure is not None:
            error = _FAILED.get(failure.reason, replies.UPSTREAM_PROTOCOL_ERROR)
            raise Refusal(error, f"{error.cause} ({failure}.) {error.remedy}", final=final) from failure
        if outcome.verdict.kind in _ABOUT_THE_KEY:
            raise Refusal(replies.UPSTREAM_KEY_REFUSED)

    async def _answer(self, down: Downstream, held: Held, trip: Trip, *, final: bool) -> None:
        """Upstream's error is the client's answer. `final`: we have retried; a client's retries would multiply ours."""
        headers = [*held.headers, ("x-quotapool-source", "upstream")]
        if final and not any(name.lower() == "x-should-retry" for name, _ in headers):
            headers.append(("x-should-retry", "false"))
        trip.status, trip.source = held.status, "upstream"
        await down.start(held.status, held.reason, headers, len(held.body))
        await down.write(held.body)
        await down.finish()

    def _cleaned(self, headers: list[Header], body: bytes) -> tuple[list[Header], bytes, bytes]:
        """An error answer without secrets: headers and body for the client, and the text that the body says.

        Upstream is asked for plain bytes. Where it encodes them all the same, the client gets them as they came,
        unless there was something to clean in them.
        """
        encoding = next((value for name, value in headers if name.lower() == "content-encoding"), "")
        said = decoded(body, encoding, _ERROR_BODY)
        text = self._clean(said)
        if said is body or text != said:
            return [pair for pair in headers if pair[0].lower() != "content-encoding"], text, text
        return headers, body, text

    def _headers(self, down: Downstream, job: Job, granted: Granted) -> list[Header]:
        headers = upward(
            down.headers,
            down.headers.items(),
            authorization=self.credentials.authorization(granted.candidate.key),
        )
        if job.length is not None:
            headers.append(("Content-Length", job.length))
        return headers


_NO_ROOM: Final = {
    "rate_limit": replies.RATE_LIMIT_EXCEEDED,
    "queue_full": replies.QUEUE_FULL,
    "queue_timeout": replies.QUEUE_TIMEOUT,
}
_NOBODY: Final = {
    "money": replies.POOL_CREDIT_EXHAUSTED,
    "spend_limit": replies.POOL_SPEND_LIMIT_REACHED,
    "dead": replies.POOL_NO_USABLE_KEYS,
    "suspect": replies.POOL_NO_USABLE_KEYS,
    "excluded": replies.MODEL_NOT_AVAILABLE,
}
_FAILED: Final = {
    "connect": replies.UPSTREAM_UNREACHABLE,
    "tls": replies.UPSTREAM_UNREACHABLE,
    "timeout": replies.UPSTREAM_TIMEOUT,
}
# Errors under HTTP 200 become what the same error is outside a stream.
_STATUS_OF: Final = {
    Kind.WAIT: 429,
    Kind.SLOW_DOWN: 429,
    Kind.TOO_LARGE: 429,
    Kind.REQUEST: 400,
    Kind.STATE: 400,
    Kind.MODEL: 404,
    Kind.SERVICE: 503,
}


def _with_base_url(error: ProxyError, headers: Mapping[str, str]) -> str:
    """For a path that misses /v1 or has it twice: the base_url by which this client reaches us. Else ""."""
    host = headers.get("Host", "")
    if error is not replies.PATH_NOT_FOUND or not host:
        return ""
    scheme = "https" if headers.get("X-Forwarded-Proto") == "https" else "http"
    return f"{error.cause} Set base_url to {scheme}://{host}/v1."


def _held_event(verdict: Verdict, headers: list[Header]) -> Held:
    """A stream that began with an error, as the same error is shown outside a stream."""
    status = _STATUS_OF.get(verdict.kind, 500)
    kind = "server_error" if status >= 500 else verdict.dimension or "invalid_request_error"
    kept = [(name, value) for name, value in headers if name.lower() not in {"content-type", "x-quotapool-source"}]
    body = replies.error_body(verdict.message or "The stream began with an error.", kind, verdict.reason)
    return Held(status, "", [*kept, ("content-type", "application/json")], body)


def _body(job: Job) -> bytes | AsyncIterator[bytes] | None:
    return job.stream if job.body is None else (job.body or None)


def _observed(headers: Mapping[str, str]) -> list[Observed]:
    """What the rate headers say, as the ledger compares it."""
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


def _event(outcome: Outcome, cost: Cost, status: int, observed: Sequence[Observed] | None) -> Event:
    """What else the answer taught about the account."""
    verdict = outcome.verdict
    if verdict.kind is Kind.SLOW_DOWN:
        return Event.SLOW_DOWN
    if verdict.kind is Kind.WAIT and not verdict.daily and observed:
        # Refused although a minute's worth is left: it enforces a shorter span, 60 a minute as one a second, say.
        enough = all(o.remaining >= cost.of(o.dimension) for o in observed if o.dimension is not Dimension.RPD)
        return Event.SHORTER_SPAN if enough else Event.NOTHING
    if verdict.kind is Kind.OK and 200 <= status < 300 and observed is not None and not observed:
        return Event.HEADERLESS
    return Event.NOTHING


def _no_room_message(error: ProxyError, full: NoRoom) -> str:
    """The catalogue's words with the pool's true wait."""
    which = f" on {_DIMENSION_NAMES[full.dimension]}" if full.dimension else ""
    return f"{error.cause.rstrip('.')}{which}. Please try again in {max(full.wait_s, 0.001):.3f}s."


_DIMENSION_NAMES: Final = {
    Dimension.RPM: "requests per min (RPM)",
    Dimension.TPM: "tokens per min (TPM)",
    Dimension.RPD: "requests per day (RPD)",
    Dimension.TPD: "tokens per day (TPD)",
    Dimension.IPM: "images per min (IPM)",
}
