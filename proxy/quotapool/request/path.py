"""THE REQUEST PATH: from a client's first line to the settled reservation. Read it from the top.

    enter -> endpoint -> read and estimate -> reserve (or wait, or refuse) -> send -> verdict -> relay -> settle

Each step names the statuses it may answer with. `docs/request-life.md` tells the same as a story.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

import msgspec

from quotapool.domain import retry
from quotapool.domain.observer import Observer
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.domain.retry import Attempts, RetrySlots, Step
from quotapool.domain.verdict import Kind
from quotapool.ledger.budgets import Granted, Ledger
from quotapool.objects.placement import ObjectRequest, Objects, Placement, involves_objects
from quotapool.openai import replies
from quotapool.openai.encoding import decoded
from quotapool.openai.endpoints import resolve
from quotapool.openai.refusal import Refusal
from quotapool.openai.replies import ProxyError
from quotapool.pool.admission import Admission, NoRoom, Want
from quotapool.pool.roster import Roster
from quotapool.probes.network_alarm import NetworkAlarm
from quotapool.request.attempt import Forwarder
from quotapool.request.auth import ClientAuth
from quotapool.request.models import Catalogue, refuse_model
from quotapool.request.outcome import ABOUT_THE_KEY, NOT_THIS_ACCOUNT, Held, Outcome, is_page
from quotapool.request.policy import PolicyWatch
from quotapool.request.rate_headers import PoolRateHeaders
from quotapool.request.read import ClientRequest, read_client_request, want_of
from quotapool.request.refusals import admitted, failed, not_served, refuse_beyond_the_day
from quotapool.request.relay import Downstream
from quotapool.settings import Settings
from quotapool.upstream.credentials import Credentials
from quotapool.upstream.interface import Upstream

_MOST_IDLE: Final = 8  # connections that one request may find closed under it


class RequestPath:
    """Serves requests with one pool. All its parts are given to it; it owns none."""

    def __init__(
        self,
        settings: Settings,
        *,
        gate: ClientAuth,
        roster: Roster,
        admission: Admission,
        ledger: Ledger,
        upstream: Upstream,
        credentials: Credentials,
        observer: Observer,
        clean: Callable[[bytes], bytes],
        egress: NetworkAlarm,
        policy: PolicyWatch,
    ) -> None:
        self._gate = gate
        self._roster = roster
        self._admission = admission
        self._ledger = ledger
        self._observer = observer
        self._policy = policy
        self._retries = RetrySlots(settings.retry.budget)
        self._rates = PoolRateHeaders(roster.pool)
        self._rng = random.Random()
        self.forwarder = Forwarder(
            roster=roster,
            ledger=ledger,
            upstream=upstream,
            observer=observer,
            clean=clean,
            egress=egress,
            policy=policy,
            rates=self._rates,
            retries=self._retries,
        )
        self.objects: Objects | None = None  # who knows where stored objects live
        names_of = lambda key: self.credentials.names(key)  # noqa: E731, PLW0108 - a reload brings other credentials
        self._catalogue = Catalogue(roster.pool, self.forwarder.fetch, names_of)
        self.closed_until = 0.0  # Unix seconds: the pool's daily limit is reached until then
        self.configure(settings, credentials)

    def configure(self, settings: Settings, credentials: Credentials) -> None:
        """Take a configuration, at the start or while requests are under way."""
        self.settings = settings
        self.credentials = credentials
        self.forwarder.configure(settings, credentials)
        self._known_clients = {client.id: client for client in settings.clients}

    async def serve(self, down: Downstream, trip: RequestRecord) -> None:
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
        job = await read_client_request(down, endpoint, self.settings, self._roster, whole=whole)  # 400, 413
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
            job.end_retry(self._retries)

    async def _place(self, objects: Objects, down: Downstream, job: ClientRequest, client: str) -> Placement | None:
        """Where the objects that the request names live, and who reads its answer for new ones. None: neither."""
        body = job.body
        if body and "Content-Encoding" in down.headers:
            body = decoded(body, down.headers["Content-Encoding"], self.settings.max_json_body)
        asked = ObjectRequest(job.endpoint.name, down.method, down.target, body, job.model, job.store, client)
        if not involves_objects(asked):
            return None
        if job.stream is not None:
            job.stream = objects.checked_form(job.stream, asked)
        return await objects.place(asked)

    # ---- one attempt after another

    async def _forward(self, down: Downstream, job: ClientRequest, trip: RequestRecord, attempts: Attempts) -> None:
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
            leg = AttemptRecord(granted.candidate.key, granted.candidate.account, trip.queued_s)
            leg.prompt_estimate = job.prompt_tokens
            trip.legs.append(leg)
            outcome = await self.forwarder.attempt(down, job, granted, leg, trip)
            if outcome.report is not None:
                await asyncio.shield(outcome.report)  # the next choice must know; who leaves now does not undo it
            if outcome.delivered:
                if job.leaves_the_model and trip.model != job.model:
                    await self._roster.learn_group(job.model, trip.model)  # the prompt shares that model's limits
                return
            job.end_retry(self._retries)
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
                want.cost = msgspec.structs.replace(want.cost, tokens=max(want.cost.tokens, outcome.verdict.limit + 1))
            step = self._next_step(job, outcome, attempts)
            if step is Step.ANSWER:
                self._refuse_if_ours(outcome, final=attempts.failures > 0)  # 502, 503, 504
                break
            self._observer.retrying(leg)
            if step is Step.NEXT:
                attempts.refusals += 1
                continue
            attempts.failures += 1
            job.begin_retry(self._retries)
            await asyncio.sleep(retry.pause_s(attempts.failures, outcome.verdict.retry_after_s, self._rng.random()))
        if held is None:
            raise Refusal(nobody)
        await self._answer(down, held, trip, final=attempts.failures > 0)

    async def _admit(self, want: Want, trip: RequestRecord, *, nobody_is_fine: bool) -> Granted | None:
        try:
            granted = await admitted(self._admission, want, trip, nobody_is_fine=nobody_is_fine)
        except Refusal as refusal:
            if isinstance(refusal.__cause__, NoRoom):
                refusal.also = self._rates.lines(want.group)
            raise
        if granted is not None:
            self._rates.heard(granted)
        return granted

    # ---- what it means

    def _next_step(self, job: ClientRequest, outcome: Outcome, attempts: Attempts) -> Step:
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

    async def _answer(self, down: Downstream, held: Held, trip: RequestRecord, *, final: bool) -> None:
        """Upstream's error is the client's answer. `final`: we have retried; a client's retries would multiply ours."""
        headers = [*held.headers, ("x-quotapool-source", "upstream")]
        if final and not any(name.lower() == "x-should-retry" for name, _ in headers):
            headers.append(("x-should-retry", "false"))
        trip.status, trip.source = held.status, "upstream"
        await down.start(held.status, held.reason, headers, len(held.body))
        await down.write(held.body)
        await down.finish()
