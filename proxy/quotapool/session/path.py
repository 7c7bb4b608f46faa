"""THE PATH OF A SESSION: a WebSocket, from a client's handshake to its close. Read it from the top.

    enter -> endpoint -> reserve one request -> ask upstream -> verdict -> accept the client -> carry both ways -> close

The client's handshake is accepted only once upstream's is: until then what upstream refuses is an ordinary answer,
and another key may be asked without the client noticing. From then on the session lives and dies with its key.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol, cast
from urllib.parse import parse_qs

from multidict import CIMultiDictProxy

from quotapool.domain import retry
from quotapool.domain.observer import Observer
from quotapool.domain.quantities import NOTHING, Cost
from quotapool.domain.request_record import AttemptRecord, RequestRecord
from quotapool.domain.retry import Attempts, RetrySlots, Step
from quotapool.domain.states import State
from quotapool.domain.verdict import Kind
from quotapool.ledger.budgets import Granted, Ledger
from quotapool.openai import replies
from quotapool.openai.classify import classify
from quotapool.openai.encoding import decoded
from quotapool.openai.endpoints import Endpoint, resolve
from quotapool.openai.headers import Header, headers_for_client, headers_for_upstream
from quotapool.openai.refusal import Refusal
from quotapool.openai.replies import ProxyError
from quotapool.pool.admission import Admission, Want
from quotapool.pool.roster import Roster
from quotapool.probes.network_alarm import NetworkAlarm
from quotapool.request.auth import ClientAuth, token_of
from quotapool.request.outcome import ABOUT_THE_KEY, NOT_CHARGED, NOT_THIS_ACCOUNT, Held, Outcome, event_of, observed_in
from quotapool.request.path import RequestPath
from quotapool.request.policy import PolicyWatch
from quotapool.request.read import LONGEST_MODEL, NO_MODEL, ClientRequest, want_of
from quotapool.request.refusals import admitted, failed, not_served
from quotapool.session.open import OpenSessions
from quotapool.session.permissions import RESPONSES, SessionPermissions
from quotapool.session.relay import SessionRelay
from quotapool.session.usage import SessionTerms, SessionUsage, UsageParts
from quotapool.settings import Client
from quotapool.upstream.interface import UpstreamFailure
from quotapool.websocket.frames import VANISHED
from quotapool.websocket.socket import DedicatedConnector, Handshake, WebSocket, open_websocket

_DEFAULT_COOL_S: Final = 5.0
_MOST_COOL_S: Final = 86_400.0
_MOST_READ: Final = 2**20
_EPHEMERAL: Final = "ek_"
_REALTIME: Final = "realtime"


class SessionRequest(Protocol):
    """A client that asks for a session. `protocols`: what it offers, without credentials."""

    headers: CIMultiDictProxy[str]
    target: str
    protocols: list[str]

    def check(self) -> None:
        """Raises Refusal (400) where the handshake is none."""
        ...

    def accept(self, headers: Sequence[Header], protocol: str, most: int) -> WebSocket:
        """Grant the session. Raises ConnectionError where the client has left."""
        ...

    async def answer(self, status: int, reason: str, headers: Sequence[Header], body: bytes) -> None:
        """Refuse it with an HTTP answer."""
        ...


class SessionPath:
    """Holds one process's sessions, with the parts of its pipeline, whose configuration is theirs."""

    def __init__(
        self,
        pipeline: RequestPath,
        *,
        gate: ClientAuth,
        roster: Roster,
        admission: Admission,
        ledger: Ledger,
        observer: Observer,
        clean: Callable[[bytes], bytes],
        egress: NetworkAlarm,
        policy: PolicyWatch,
    ) -> None:
        self._egress = egress
        self._rights = SessionPermissions(pipeline, policy)
        self._pipeline = pipeline
        self._gate = gate
        self._roster = roster
        self._admission = admission
        self._ledger = ledger
        self._observer = observer
        self._clean = clean
        self._desk = UsageParts(ledger, roster, observer, clean, policy)
        self._retries = RetrySlots(pipeline.settings.retry.budget)
        self._rng = random.Random()
        self._open = OpenSessions(self._state_of, observer.session_opened)

    def __repr__(self) -> str:
        return f"<SessionPath open={len(self._open)}>"

    @property
    def open(self) -> int:
        return len(self._open)

    async def serve(self, visitor: SessionRequest, trip: RequestRecord) -> None:
        """Hold one session to its end. Raises Refusal for what the proxy answers itself."""
        if token_of(visitor.headers).startswith(_EPHEMERAL):
            raise Refusal(replies.CLIENT_SECRET_SENT)  # 401: a pool key in its place would lose the session's settings
        trip.client = self._gate.enter(visitor.headers)  # 401, 403
        endpoint = resolve("GET", visitor.target)
        if isinstance(endpoint, ProxyError):
            raise not_served(endpoint, visitor.headers, tls=self._pipeline.settings.tls is not None)  # 403, 404
        visitor.check()  # 400
        trip.endpoint, trip.model, trip.streamed = endpoint.name, _model_in(visitor.target), True
        client = next((one for one in self._pipeline.settings.clients if one.id == trip.client), None)
        self._rights.enter(client, endpoint.name, trip.model)  # 403, 429
        want = self._want(visitor, endpoint, trip, client)
        want.only = await self._rights.where(trip.client, endpoint.name, visitor.target, trip.model)  # 404, 503
        self._retries.active += 1
        try:
            found = await self._find(visitor, want, trip)  # 429, 502, 503, 504 or upstream's answer
        finally:
            self._retries.active -= 1
        if found is not None:
            granted, leg, handshake = found
            check = partial(self._rights.check, client, trip.client, visitor.headers)
            remember = partial(self._rights.remember, trip.client)
            terms = SessionTerms(endpoint.name == RESPONSES, want.max_wait_s, check, remember)
            await self._hold(visitor, trip, leg, handshake, SessionUsage(self._desk, trip, granted, terms))

    def _want(self, visitor: SessionRequest, endpoint: Endpoint, trip: RequestRecord, client: Client | None) -> Want:
        settings = self._pipeline.settings
        group = self._roster.group_of(trip.model) if trip.model else NO_MODEL
        # Not replayable: a session says too late whether there is money again, so it is no trial for a resting key.
        job = ClientRequest(endpoint, b"", None, trip.model, group, Cost(1), replayable=False)
        want = want_of(job, visitor.headers, trip.client, client, settings)
        want.exclude |= self._pipeline.credentials.closed_to(trip.model, renamable=False)
        return want

    # ---- one key after another

    async def _find(
        self, visitor: SessionRequest, want: Want, trip: RequestRecord
    ) -> tuple[Granted, AttemptRecord, Handshake] | None:
        """A session with upstream; None where its refusal was passed on."""
        attempts = Attempts()
        held: Held | None = None
        while True:
            tried = attempts.refusals + attempts.failures > 0
            granted = await admitted(self._admission, want, trip, nobody_is_fine=tried)
            if granted is None:
                break
            if granted.candidate.key not in self._pipeline.credentials:  # a reload took it while the store was asked
                self._ledger.give_back(granted)
                continue
            leg = AttemptRecord(granted.candidate.key, granted.candidate.account, trip.queued_s)
            trip.attempts.append(leg)
            outcome = Outcome()
            handshake = await self._ask(visitor, granted, leg, trip, outcome)
            if outcome.report is not None:
                await asyncio.shield(outcome.report)
            if handshake is not None:
                return granted, leg, handshake
            kind = outcome.verdict.kind
            if kind not in ABOUT_THE_KEY:
                held = outcome.held or held
            if kind in NOT_THIS_ACCOUNT:
                want.exclude.add(leg.account)
            step = self._next_step(outcome, attempts)
            if step is Step.ANSWER:
                if outcome.failure is not None:
                    raise failed(outcome.failure, final=attempts.failures > 0) from outcome.failure
                if kind in ABOUT_THE_KEY:
                    raise Refusal(replies.UPSTREAM_KEY_REFUSED)
                break
            self._observer.retrying(leg)
            if step is Step.NEXT:
                attempts.refusals += 1
                continue
            attempts.failures += 1
            await asyncio.sleep(retry.pause_s(attempts.failures, outcome.verdict.retry_after_s, self._rng.random()))
        if held is None:
            raise Refusal(replies.POOL_NO_USABLE_KEYS)
        trip.status, trip.source = held.status, "upstream"
        await visitor.answer(held.status, held.reason, [*held.headers, ("x-quotapool-source", "upstream")], held.body)
        return None

    async def _ask(
        self, visitor: SessionRequest, granted: Granted, leg: AttemptRecord, trip: RequestRecord, outcome: Outcome
    ) -> Handshake | None:
        """Ask upstream with one key. None: it refused, and `outcome` says how. Settles once, always."""
        started = time.monotonic()
        handshake: Handshake | None = None
        try:
            handshake = await self._open_upstream(visitor, granted)
            leg.status, outcome.observed = handshake.status, observed_in(handshake.headers)
            leg.upstream_request_id = handshake.headers.get("x-request-id", "")
            if handshake.socket is None:
                self._read_refusal(handshake, granted, outcome)
                handshake = None
        except UpstreamFailure as failure:
            outcome.failure = failure
            leg.outcome, leg.reason = "network", failure.reason
            self._egress.failed(failure.reason)
        except asyncio.CancelledError:
            leg.outcome, trip.cut = "cancelled", True
            raise
        finally:
            leg.took_s = time.monotonic() - started
            trip.upstream_s += leg.took_s
            leg.usage = NOTHING
            self._settle(granted, outcome, leg)
            self._observer.attempted(leg, trip)
        return handshake

    async def _open_upstream(self, visitor: SessionRequest, granted: Granted) -> Handshake:
        pipeline, key = self._pipeline, granted.candidate.key
        name, credential = pipeline.credentials.header(key)
        route = pipeline.credentials.route(key)
        upstream = pipeline.forwarder.upstream if route is None else pipeline.forwarder.elsewhere.get(route.base)
        if upstream is None:
            raise UpstreamFailure("connect", "the upstream of this key has gone with a reload", sent=False)
        return await open_websocket(
            cast("DedicatedConnector", upstream),  # what runs in a worker can do more than answer requests
            visitor.target if route is None else route.target(visitor.target),
            headers_for_upstream(visitor.headers, visitor.headers.items(), name=name, authorization=credential),
            visitor.protocols,
            most=pipeline.settings.max_ws_message,
        )

    def _read_refusal(self, handshake: Handshake, granted: Granted, outcome: Outcome) -> None:
        """Understand an HTTP answer, and keep it without secrets for the client."""
        secret = self._pipeline.credentials.secret(granted.candidate.key)
        headers = headers_for_client(handshake.headers, handshake.headers.items(), secret=secret)
        encoding = handshake.headers.get("Content-Encoding", "")
        text = self._clean(decoded(handshake.body, encoding, _MOST_READ))
        headers = [pair for pair in headers if pair[0].lower() != "content-encoding"]
        outcome.verdict = classify(handshake.status, handshake.headers, text)
        outcome.held = Held(handshake.status, handshake.reason, headers, text)

    def _settle(self, granted: Granted, outcome: Outcome, leg: AttemptRecord) -> None:
        """What upstream never heard of is given back; else a request is what it took. Tells the roster of refusals."""
        if outcome.failure is not None:
            if outcome.failure.sent:
                self._ledger.settle(granted)
            else:
                self._ledger.give_back(granted)
            return
        verdict = outcome.verdict
        leg.outcome, leg.reason = leg.outcome or verdict.kind.value, verdict.reason
        if verdict.kind is Kind.EGRESS:
            self._egress.refused(leg.account, verdict.reason)
        elif leg.status:
            self._egress.answered()
        if verdict.kind in {Kind.WAIT, Kind.SLOW_DOWN}:
            asked = verdict.retry_after_s
            outcome.cool_s = min(_DEFAULT_COOL_S if asked is None else asked, _MOST_COOL_S)
            self._observer.cooled(leg.account, granted.group, verdict.reason)
        self._ledger.settle(
            granted,
            cool_s=outcome.cool_s,
            observed=outcome.observed or (),
            refused=verdict.kind in NOT_CHARGED,
            event=event_of(outcome, granted.cost, leg.status),
        )
        if verdict.kind is not Kind.OK:
            outcome.report = self._roster.report(
                verdict, granted, status=leg.status, request_id=leg.upstream_request_id
            )

    def _next_step(self, outcome: Outcome, attempts: Attempts) -> Step:
        """A handshake does no work upstream, so it may always be repeated, within the budget of retries."""
        most = self._pipeline.settings.retry.max_attempts - 1
        self._retries.share = self._pipeline.settings.retry.budget
        if outcome.failure is None:
            return retry.next_step(
                outcome.verdict, attempts, resendable=True, replayable=True, budget=self._retries, most_failures=most
            )
        again = retry.may_resend(
            sent=outcome.failure.sent,
            resendable=True,
            replayable=True,
            attempts=attempts,
            budget=self._retries,
            most=most,
        )
        return Step.AGAIN if again else Step.ANSWER

    # ---- the session itself

    async def _hold(
        self,
        visitor: SessionRequest,
        trip: RequestRecord,
        leg: AttemptRecord,
        handshake: Handshake,
        meter: SessionUsage,
    ) -> None:
        """Accept the client, and carry messages until one side ends the session."""
        upstream = handshake.socket
        assert upstream is not None  # noqa: S101 -- `_find` returns only what was opened
        settings = self._pipeline.settings
        try:
            client = visitor.accept(
                self._headers(handshake, leg.key), _chosen(handshake, visitor), settings.max_ws_message
            )
        except ConnectionError:
            upstream.abort()
            raise
        trip.status, trip.source = 101, "upstream"
        live = SessionRelay(client, upstream, meter)
        began = time.monotonic()
        try:
            with self._open.hold(live, meter):
                ending = await live.run()
            trip.cut = ending.code == VANISHED
        finally:
            meter.finish()
            trip.model = trip.model or meter.model
            leg.usage = meter.used  # for the line in the log; metrics and money have heard of each response
            trip.upstream_s += time.monotonic() - began

    def _headers(self, handshake: Handshake, key: str) -> list[Header]:
        secret = self._pipeline.credentials.secret(key)
        headers = headers_for_client(handshake.headers, handshake.headers.items(), secret=secret)
        kept = [pair for pair in headers if not pair[0].lower().startswith("sec-websocket-")]
        return [*kept, ("x-quotapool-source", "upstream")]

    def _state_of(self, key: str) -> State:
        known = self._roster.pool.keys.get(key)
        gone = known is None or key not in self._pipeline.credentials
        return State.REMOVED if gone or known is None else self._roster.pool.state_of(known)

    async def close(self, seconds: float) -> None:
        """End all sessions and what they still owe the store; wait at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._open.end()
                await asyncio.gather(*self._desk.tasks, return_exceptions=True)
        self._open.forget()


def _model_in(target: str) -> str:
    named = parse_qs(target.partition("?")[2]).get("model", [""])
    return named[0][:LONGEST_MODEL]


def _chosen(handshake: Handshake, visitor: SessionRequest) -> str:
    """The subprotocol for the client. One that offered `realtime` gets it: browsers give up where none is chosen."""
    return handshake.protocol or (_REALTIME if _REALTIME in visitor.protocols else "")
