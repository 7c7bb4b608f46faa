"""One attempt upstream: send the request with one key, relay a good answer, understand a bad one, settle once.

The pipeline decides who is asked and what follows; here is what happens between a grant and its settling.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from quotapool.domain.observer import Observer
from quotapool.domain.quantities import NOTHING, Certainty, Cost, Details, Usage
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.domain.retry import RetrySlots
from quotapool.domain.verdict import Kind
from quotapool.ledger.budgets import Granted, Ledger
from quotapool.openai.classify import NO_PROMPT, classify, classify_stream_error
from quotapool.openai.encoding import decoded
from quotapool.openai.headers import Header, downward, upward
from quotapool.openai.refusal import Refusal
from quotapool.openai.safety import is_policy_refusal
from quotapool.openai.sse import StreamRelay
from quotapool.openai.usage import model_said
from quotapool.pool.roster import Roster
from quotapool.probes.network_alarm import NetworkAlarm
from quotapool.request.outcome import DID_NO_WORK, NOT_CHARGED, Held, Outcome, event_of, held_event, observed_in
from quotapool.request.policy import PolicyWatch
from quotapool.request.rate_headers import PoolRateHeaders
from quotapool.request.read import LONGEST_MODEL, NO_MODEL, ClientRequest
from quotapool.request.relay import Downstream, Passed, pass_bytes, pass_json, pass_stream
from quotapool.settings import Settings
from quotapool.upstream.credentials import Credentials
from quotapool.upstream.interface import Answer, Upstream, UpstreamFailure, read_body
from quotapool.upstream.routes import Route

_ERROR_BODY: Final = 2**20  # an error answer is read up to here
_READ_ON_S: Final = 60.0  # how long a stream is read on after its client has left, where it is
_MOST_FETCHED: Final = 4 * 2**20  # what is asked for on a client's behalf is read up to here
_DEFAULT_COOL_S: Final = 5.0  # a rate limit that names no time
_MOST_COOL_S: Final = 86_400.0


class Forwarder:
    """The pipeline's way upstream. `elsewhere`: by address, the upstreams of keys that have one of their own."""

    settings: Settings
    credentials: Credentials

    def __init__(
        self,
        *,
        roster: Roster,
        ledger: Ledger,
        upstream: Upstream,
        observer: Observer,
        clean: Callable[[bytes], bytes],
        egress: NetworkAlarm,
        policy: PolicyWatch,
        rates: PoolRateHeaders,
        retries: RetrySlots,
    ) -> None:
        self.upstream = upstream
        self.elsewhere: Mapping[str, Upstream] = {}
        self._roster = roster
        self._ledger = ledger
        self._observer = observer
        self._clean = clean
        self._egress = egress
        self._policy = policy
        self._rates = rates
        self._retries = retries
        self._reading_on: set[asyncio.Task[None]] = set()

    def configure(self, settings: Settings, credentials: Credentials) -> None:
        """Take a configuration; attempts under way keep the credentials they began with."""
        self.settings = settings
        self.credentials = credentials

    async def attempt(
        self, down: Downstream, job: ClientRequest, granted: Granted, leg: AttemptRecord, trip: RequestRecord
    ) -> Outcome:
        """Send the request with one key; pass a good answer on, or understand a bad one. Settles once, always."""
        outcome = Outcome()
        total = self.settings.timeouts.total
        started = time.monotonic()
        try:
            if total is None:
                await self._exchange(down, job, granted, leg, trip, outcome)
            else:
                async with asyncio.timeout(total):
                    await self._exchange(down, job, granted, leg, trip, outcome)
        except (UpstreamFailure, TimeoutError) as failure:
            if not isinstance(failure, UpstreamFailure):
                failure = UpstreamFailure("timeout", "upstream took longer than timeouts.total", sent=True)
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
            if leg.outcome == "cancelled" and outcome.watch is not None and self.settings.finish_cut_streams:
                self._read_on(outcome, partial(self._end, job, granted, leg, trip, outcome))
            else:
                self._end(job, granted, leg, trip, outcome)
        return outcome

    async def _exchange(
        self,
        down: Downstream,
        job: ClientRequest,
        granted: Granted,
        leg: AttemptRecord,
        trip: RequestRecord,
        outcome: Outcome,
    ) -> None:
        """One request up, one answer down. Raises UpstreamFailure; ConnectionError where the client has left."""
        credentials = self.credentials  # a reload in the meantime brings others
        sent = self._headers(down, job, credentials.header(granted.candidate.key))
        route = credentials.route(granted.candidate.key)
        if route is None:
            answer = outcome.answer = await self.upstream.send(down.method, down.target, sent, job.to_send)
        else:
            body = job.to_send if job.body is None else route.body(job.body, job.model) or None
            target = route.target(down.target)
            answer = outcome.answer = await self.upstream_of(route).send(down.method, target, sent, body)
        leg.status, outcome.observed = answer.status, observed_in(answer.headers)
        if outcome.observed and job.streamed and answer.status < 400:
            self._ledger.observe(granted, outcome.observed)  # what a stream's headers say is old when it ends
            outcome.observed = None
        organization = answer.headers.get("openai-organization")
        if organization is not None:
            self._roster.heard_organization(leg.account, organization)
        secret = credentials.secret(granted.candidate.key)
        headers = downward(answer.headers, answer.headers.items(), secret=secret)
        headers += self._rates.lines(job.group)
        request_id = answer.headers.get("x-request-id", "")
        leg.upstream_request_id = "" if secret in request_id else request_id
        if answer.status < 400:
            job.end_retry(self._retries)
            await self._relay(down, job, answer, headers, outcome, trip)
            return
        # Upstream may repeat the key: what it says is cleaned before anybody sees, logs or stores it.
        headers, body, text = self._cleaned(headers, await read_body(answer, _ERROR_BODY))
        outcome.verdict = classify(answer.status, answer.headers, text)
        outcome.held = Held(answer.status, answer.reason, headers, body)

    async def _relay(
        self,
        down: Downstream,
        job: ClientRequest,
        answer: Answer,
        headers: list[Header],
        outcome: Outcome,
        trip: RequestRecord,
    ) -> None:
        """Pass a good answer on. A stream that begins with an error becomes a held error instead."""
        headers.append(("x-quotapool-source", "upstream"))
        passed = Passed()
        trip.status, trip.source = answer.status, "upstream"
        content_type = answer.headers.get("Content-Type", "")
        is_json = content_type.startswith("application/json")
        keeper = job.placement.reader if job.placement is not None else None
        if keeper is not None:
            keeper.account = trip.legs[-1].account
            if "Location" in answer.headers:
                keeper.located(answer.headers["Location"])
        try:
            if content_type.startswith("text/event-stream") and job.endpoint.dialect is not None:
                watch = outcome.watch = StreamRelay(job.endpoint.dialect, job.strip_usage)
                self._observer.stream_opened(1)
                try:
                    await pass_stream(down, answer, headers, watch, self.settings.stream_hold, passed, keeper)
                finally:
                    self._observer.stream_opened(-1)
            elif job.endpoint.estimate is not None or (job.endpoint.tells_usage and is_json):
                await pass_json(down, answer, headers, passed, keeper)
            elif keeper is not None and (is_json or keeper.shows_others):
                await pass_json(down, answer, headers, passed, keeper, counts=False)
            else:
                await pass_bytes(down, answer, headers, passed)
                if job.characters and passed.complete:
                    passed.usage = Usage(Certainty.EXACT, details=Details(characters=job.characters))
        finally:
            outcome.usage = passed.usage
            if job.leaves_the_model:
                trip.model = model_said(passed.said)[:LONGEST_MODEL] or trip.model
            if passed.late_error is not None:  # scored even if the client leaves on seeing it
                outcome.verdict = classify_stream_error(self._clean(passed.late_error))
        if passed.error is not None:
            outcome.verdict = classify_stream_error(self._clean(passed.error))
            outcome.held = held_event(outcome.verdict, headers)
            return
        outcome.delivered = True
        self._observer.served(trip.model)

    def _end(
        self, job: ClientRequest, granted: Granted, leg: AttemptRecord, trip: RequestRecord, outcome: Outcome
    ) -> None:
        """All that is done when an attempt is over."""
        if outcome.answer is not None:
            outcome.answer.close()
        self._understand(job, outcome, leg)
        self._watch(outcome, leg, trip.client)
        self._settle(granted, outcome, leg.status)
        if outcome.verdict.kind is not Kind.OK or (outcome.delivered and outcome.failure is None):
            # Told apart from no answer at all, which says nothing about a key that was resting.
            outcome.report = self._roster.report(
                outcome.verdict, granted, status=leg.status, request_id=leg.upstream_request_id
            )
        leg.usage, leg.tier = outcome.usage, outcome.usage.tier or job.tier  # what was done counts, not what was asked
        self._observer.attempted(leg, trip)

    def _understand(self, job: ClientRequest, outcome: Outcome, leg: AttemptRecord) -> None:
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
        elif verdict.kind is Kind.MODEL and (lacking := job.prompt if verdict.reason == NO_PROMPT else job.model):
            self._roster.pool.lacks(leg.account, lacking, time.time())

    def _watch(self, outcome: Outcome, leg: AttemptRecord, client: str) -> None:
        """What an attempt says about our network, and about the caller's content."""
        if outcome.failure is not None:
            if not isinstance(outcome.failure.__cause__, Refusal):  # else the client's own body ended it
                self._egress.failed(outcome.failure.reason)
        elif outcome.verdict.kind is Kind.EGRESS:
            self._egress.refused(leg.account, outcome.verdict.reason)
        elif leg.status:
            self._egress.answered()
            if outcome.verdict.kind is Kind.REQUEST and is_policy_refusal(outcome.verdict):
                self._policy.refused(client, outcome.verdict.reason)

    def _settle(self, granted: Granted, outcome: Outcome, status: int) -> None:
        """Correct the reservation. Only what upstream never heard of, refused, or counted exactly gives tokens back."""
        if outcome.failure is not None and not outcome.failure.sent:
            outcome.usage = NOTHING
            self._ledger.give_back(granted)
            return
        kind, tokens = outcome.verdict.kind, granted.cost.tokens
        refused = kind in NOT_CHARGED and not outcome.delivered
        if kind in DID_NO_WORK and not outcome.delivered:
            outcome.usage = NOTHING
        # What was used by a model that nobody named belongs to no model's budget.
        unused = tokens - outcome.usage.total if granted.group != NO_MODEL else 0
        self._ledger.settle(
            granted,
            back=Cost(0, tokens) if refused else Cost(0),
            unused_tokens=0 if refused else min(0, unused) if outcome.usage.certainty is Certainty.AT_LEAST else unused,
            cool_s=outcome.cool_s,
            observed=outcome.observed or (),
            refused=refused,
            event=event_of(outcome, granted.cost, status),
        )

    def _read_on(self, outcome: Outcome, end: Callable[[], None]) -> None:
        """The client has left its stream: read the rest for what it says it used, and only then end the attempt."""
        answer, watch = outcome.answer, outcome.watch

        async def read() -> None:
            try:
                if answer is not None and watch is not None:
                    async with asyncio.timeout(_READ_ON_S):
                        while chunk := await answer.chunk():
                            watch.feed(chunk)
            except (TimeoutError, UpstreamFailure):
                pass  # what was seen until then counts

        def over(task: asyncio.Task[None]) -> None:  # even if it was cancelled before it began
            self._reading_on.discard(task)
            outcome.usage = outcome.usage if watch is None else watch.usage
            end()

        task = asyncio.get_running_loop().create_task(read())
        self._reading_on.add(task)
        task.add_done_callback(over)

    async def fetch(self, account: str, target: str) -> tuple[int, bytes]:
        """What a key of this account gets; (0, b"") where there was no answer. It takes no budget."""
        known = self._roster.pool.accounts.get(account)
        if known is None or not known.usable:
            return 0, b""
        key = known.next_key().id
        route = self.credentials.route(key)
        headers = [self.credentials.header(key), ("Accept", "application/json"), ("Accept-Encoding", "identity")]
        target = target if route is None else route.target(target)
        try:
            answer = await self.upstream_of(route).send("GET", target, headers, None)
            try:
                return answer.status, await read_body(answer, _MOST_FETCHED)
            finally:
                answer.close()
        except UpstreamFailure:
            return 0, b""

    async def close(self) -> None:
        """Let go of the streams that are still read although their clients have left."""
        for task in self._reading_on:
            task.cancel()
        await asyncio.gather(*self._reading_on, return_exceptions=True)

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

    def _headers(self, down: Downstream, job: ClientRequest, credential: Header) -> list[Header]:
        headers = upward(
            down.headers,
            down.headers.items(),
            name=credential[0],
            authorization=credential[1],
            readable=job.endpoint.readable,
        )
        if job.length is not None:
            headers.append(("Content-Length", job.length))
        return headers

    def upstream_of(self, route: Route | None) -> Upstream:
        upstream = self.upstream if route is None else self.elsewhere.get(route.base)
        if upstream is None:
            raise UpstreamFailure("connect", "this upstream was taken out of the configuration", sent=False)
        return upstream
