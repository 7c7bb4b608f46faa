"""THE REQUEST PATH: from a client's first line to the settled reservation. Read it from the top.

    enter -> endpoint -> read and estimate -> reserve (or wait, or refuse) -> send -> verdict -> relay -> settle

Each step names the statuses it may answer with. `docs/request-life.md` tells the same as a story.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

from proxy.admission import Admission, NobodyLeft, NoRoom, TooLarge, Want
from proxy.denials import failed, no_room, nobody_left, not_served, refuse_beyond_the_day
from proxy.domain import retry
from proxy.domain.quantities import NOTHING, Certainty, Cost, Details, Usage
from proxy.domain.retry import Attempts, Budget, Step
from proxy.domain.trip import Leg, Trip
from proxy.domain.verdict import Kind
from proxy.gate import Gate
from proxy.job import NO_MODEL, Job, read_job, want_of
from proxy.ledger.ledger import Granted, Ledger, StoreUnavailable
from proxy.models import Catalogue, refuse_model
from proxy.objects.placement import Asked, Objects, Placement, concerns
from proxy.openai import replies
from proxy.openai.classify import classify, classify_stream_error
from proxy.openai.encoding import decoded
from proxy.openai.endpoints import resolve
from proxy.openai.headers import Header, downward, upward
from proxy.openai.replies import ProxyError
from proxy.openai.safety import is_policy_refusal
from proxy.openai.sse import StreamRelay
from proxy.outcome import (
    ABOUT_THE_KEY,
    DID_NO_WORK,
    NOT_CHARGED,
    NOT_THIS_ACCOUNT,
    Held,
    Outcome,
    event_of,
    held_event,
    is_page,
    observed_in,
)
from proxy.probes.egress import EgressWatch
from proxy.probes.policy import PolicyWatch
from proxy.rates import PoolRates
from proxy.refusal import Refusal
from proxy.relay import Downstream, Passed, pass_bytes, pass_json, pass_stream
from proxy.roster import Roster
from proxy.settings import Settings
from proxy.upstream.credentials import Credentials
from proxy.upstream.http import Answer, Upstream, UpstreamFailure, read_body
from proxy.upstream.routes import Route

_ERROR_BODY: Final = 2**20  # an error answer is read up to here
_READ_ON_S: Final = 60.0  # how long a stream is read on after its client has left, where it is
_MOST_FETCHED: Final = 4 * 2**20  # what is asked for on a client's behalf is read up to here
_DEFAULT_COOL_S: Final = 5.0  # a rate limit that names no time
_MOST_IDLE: Final = 8  # connections that one request may find closed under it
_MOST_COOL_S: Final = 86_400.0


class TripObserver(Protocol):
    """Who wants to know how requests fare: metrics and logs."""

    def attempted(self, leg: Leg, trip: Trip) -> None: ...

    def retrying(self, leg: Leg) -> None: ...

    def cooled(self, account: str, group: str, reason: str) -> None: ...

    def served(self, model: str) -> None: ...

    def stream_opened(self, change: int) -> None: ...


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
        egress: EgressWatch,
        policy: PolicyWatch,
    ) -> None:
        self.configure(settings, credentials)
        self._gate = gate
        self._roster = roster
        self._admission = admission
        self._ledger = ledger
        self.upstream = upstream
        self._observer = observer
        self._clean = clean
        self._egress = egress
        self._policy = policy
        self._retries = Budget(settings.retry.budget)
        self._rates = PoolRates(roster.pool)
        self._rng = random.Random()
        self.objects: Objects | None = None  # who knows where stored objects live
        self.elsewhere: Mapping[str, Upstream] = {}  # by address: the upstreams of keys that have one of their own
        names_of = lambda key: self.credentials.names(key)  # noqa: E731, PLW0108 - a reload brings other credentials
        self._catalogue = Catalogue(roster.pool, self.fetch, names_of)
        self._reading_on: set[asyncio.Task[None]] = set()
        self.closed_until = 0.0  # Unix seconds: the pool's daily limit is reached until then

    def configure(self, settings: Settings, credentials: Credentials) -> None:
        """Take a configuration, at the start or while requests are under way."""
        self.settings = settings
        self.credentials = credentials
        self._known_clients = {client.id: client for client in settings.clients}

    async def serve(self, down: Downstream, trip: Trip) -> None:
        """Answer one request. Raises Refusal for what the proxy answers itself."""
        trip.client = self._gate.enter(down.headers)  # 401, 403
        endpoint = resolve(down.method, down.target)
        if isinstance(endpoint, ProxyError):
            raise not_served(endpoint, down.headers, tls=self.settings.tls is not None)  # 403, 404, 405
        trip.endpoint = endpoint.name
        if self.closed_until:
            refuse_beyond_the_day(down.method, down.target, self.closed_until - time.time())  # 429
        client = self._known_clients.get(trip.client)
        if endpoint.name == "models" and await self._catalogue.serve(down, endpoint, client, trip):  # 404
            return
        whole = client is not None and bool(client.models)
        job = await read_job(down, endpoint, self.settings, self._roster, whole=whole)  # 400, 413
        refuse_model(client, job)  # 403
        trip.model, trip.streamed = job.model, job.streamed
        if self.objects is not None:
            job.placement = await self._place(self.objects, down, job, trip.client)  # 400, 404, 503
        if self.settings.safety.identifier and job.body is not None and endpoint.estimate in {"chat", "responses"}:
            job.body = self._policy.identified(job.body, trip.client, down.headers)
        self._retries.active += 1
        attempts = Attempts()
        try:
            await self._forward(down, job, trip, attempts)  # 429, 502, 503, 504 or upstream's answer
        finally:
            self._retries.active -= 1
            self._end_retry(job)

    async def _place(self, objects: Objects, down: Downstream, job: Job, client: str) -> Placement | None:
        """Where the objects that the request names live, and who reads its answer for new ones. None: neither."""
        body = job.body
        if body and "Content-Encoding" in down.headers:
            body = decoded(body, down.headers["Content-Encoding"], self.settings.max_json_body)
        asked = Asked(job.endpoint.name, down.method, down.target, body, job.model, job.store, client)
        if not concerns(asked):
            return None
        if job.stream is not None:
            job.stream = objects.watched(job.stream, asked)
        return await objects.place(asked)

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
            answer = await self._upstream_of(route).send("GET", target, headers, None)
            try:
                return answer.status, await read_body(answer, _MOST_FETCHED)
            finally:
                answer.close()
        except UpstreamFailure:
            return 0, b""

    # ---- one attempt after another

    async def _forward(self, down: Downstream, job: Job, trip: Trip, attempts: Attempts) -> None:
        want = want_of(job, down.headers, trip.client, self._known_clients.get(trip.client), self.settings)
        unread = job.body is None and job.endpoint.names_model  # names a model that nobody looked for
        renamable = job.body is not None and "Content-Encoding" not in down.headers
        want.exclude |= self.credentials.closed_to(job.model or "?" * unread, renamable=renamable)
        held: Held | None = None
        nobody = replies.POOL_NO_USABLE_KEYS  # if each account refuses its own key
        while True:
            tried = attempts.refusals + attempts.failures > 0
            granted = await self._admit(want, trip, nobody_is_fine=tried)  # 429, 503
            if granted is None:
                break
            if granted.candidate.key not in self.credentials:  # a reload took it while the store was asked
                self._ledger.give_back(granted)
                continue
            leg = Leg(granted.candidate.key, granted.candidate.account, trip.queued_s)
            leg.prompt_estimate = job.prompt_tokens
            trip.legs.append(leg)
            outcome = await self._attempt(down, job, granted, leg, trip)
            if outcome.report is not None:
                await asyncio.shield(outcome.report)  # the next choice must know; who leaves now does not undo it
            if outcome.delivered:
                return
            self._end_retry(job)
            # A long context's limit has a name of its own, which is not the model's.
            if outcome.verdict.shared_group and job.group == self._roster.group_of(job.model):
                await self._roster.learn_group(job.model, outcome.verdict.shared_group)
            kind = outcome.verdict.kind
            nobody = replies.EGRESS_REFUSED if is_page(outcome.verdict) else nobody
            if kind not in ABOUT_THE_KEY and not is_page(outcome.verdict):
                held = outcome.held or held  # what is wrong with one of our keys is no answer to a client
            if kind in NOT_THIS_ACCOUNT:
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
            raise Refusal(nobody)
        await self._answer(down, held, trip, final=attempts.failures > 0)

    def _end_retry(self, job: Job) -> None:
        """The retry budget is for attempts under way: a request that is being answered, or waits, holds none of it."""
        if job.retrying:
            job.retrying = False
            self._retries.retrying -= 1

    async def _admit(self, want: Want, trip: Trip, *, nobody_is_fine: bool) -> Granted | None:
        """A reservation. None: every account has refused this very request, so its last answer stands."""
        try:
            granted = await self._admission.admit(want)
        except NoRoom as full:
            refusal = no_room(full)
            refusal.also = self._rates.lines(want.group)
            raise refusal from full
        except TooLarge as large:
            raise Refusal(replies.REQUEST_TOO_LARGE_FOR_POOL) from large
        except NobodyLeft as nobody:
            if nobody_is_fine and nobody.reason == "excluded":
                return None
            raise nobody_left(nobody) from nobody
        except StoreUnavailable as gone:
            raise Refusal(replies.STORE_UNAVAILABLE, retry_after_s=1.0) from gone
        finally:
            trip.queued_s = want.stood_s
        self._rates.heard(granted)
        return granted

    async def _attempt(self, down: Downstream, job: Job, granted: Granted, leg: Leg, trip: Trip) -> Outcome:
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
            end = partial(self._end, job, granted, leg, trip, outcome)
            if leg.outcome == "cancelled" and outcome.watch is not None and self.settings.finish_cut_streams:
                self._read_on(outcome, end)
            else:
                end()
        return outcome

    def _end(self, job: Job, granted: Granted, leg: Leg, trip: Trip, outcome: Outcome) -> None:
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

    async def close(self) -> None:
        """Let go of the streams that are still read although their clients have left."""
        for task in self._reading_on:
            task.cancel()
        await asyncio.gather(*self._reading_on, return_exceptions=True)

    async def _exchange(
        self, down: Downstream, job: Job, granted: Granted, leg: Leg, trip: Trip, outcome: Outcome
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
            answer = outcome.answer = await self._upstream_of(route).send(down.method, target, sent, body)
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
        leg.upstream_request_id = next((value for name, value in headers if name.lower() == "x-request-id"), "")
        if answer.status < 400:
            self._end_retry(job)
            await self._relay(down, job, answer, headers, outcome, trip)
            return
        # Upstream may repeat the key: what it says is cleaned before anybody sees, logs or stores it.
        headers, body, text = self._cleaned(headers, await read_body(answer, _ERROR_BODY))
        outcome.verdict = classify(answer.status, answer.headers, text)
        outcome.held = Held(answer.status, answer.reason, headers, body)

    async def _relay(
        self, down: Downstream, job: Job, answer: Answer, headers: list[Header], outcome: Outcome, trip: Trip
    ) -> None:
        """Pass a good answer on. A stream that begins with an error becomes a held error instead."""
        headers.append(("x-quotapool-source", "upstream"))
        passed = Passed()
        trip.status, trip.source = answer.status, "upstream"
        content_type = answer.headers.get("Content-Type", "")
        is_json = content_type.startswith("application/json")
        keeper = job.placement.keeper if job.placement is not None else None
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
            if passed.late_error is not None:  # scored even if the client leaves on seeing it
                outcome.verdict = classify_stream_error(self._clean(passed.late_error))
        if passed.error is not None:
            outcome.verdict = classify_stream_error(self._clean(passed.error))
            outcome.held = held_event(outcome.verdict, headers)
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

    def _watch(self, outcome: Outcome, leg: Leg, client: str) -> None:
        """What an attempt says about our network, and about the caller's content."""
        if outcome.failure is not None:
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
        if (failure := outcome.failure) is not None:
            raise failed(failure, final=final) from failure
        if outcome.verdict.kind in ABOUT_THE_KEY:
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

    def _upstream_of(self, route: Route | None) -> Upstream:
        upstream = self.upstream if route is None else self.elsewhere.get(route.base)
        if upstream is None:
            raise UpstreamFailure("connect", "this upstream was taken out of the configuration", sent=False)
        return upstream

    def _headers(self, down: Downstream, job: Job, credential: Header) -> list[Header]:
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
