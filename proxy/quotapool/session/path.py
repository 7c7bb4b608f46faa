"""THE PATH OF A SESSION: a WebSocket, from a client's handshake to its close. Read it from the top.

    authenticate -> endpoint -> place -> reserve one request -> ask upstream -> accept the client -> carry both ways

The client's handshake is accepted only once upstream's is: until then a refusal of upstream is an ordinary answer, and
another key may be asked without the client noticing. From then on the session lives and ends with its key.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import msgspec

from quotapool.domain.observer import Observer
from quotapool.domain.quantities import Cost
from quotapool.domain.request_record import RequestRecord
from quotapool.domain.states import State
from quotapool.ledger.grants import Granted
from quotapool.objects.placement import Placement
from quotapool.openai import replies
from quotapool.openai.endpoints import resolve, session_query
from quotapool.openai.head import Header
from quotapool.openai.headers import headers_for_client
from quotapool.openai.refusal import Refusal, UnknownKey
from quotapool.openai.replies import ProxyError
from quotapool.pool.configuration import Configuration
from quotapool.request.addresses import AllowedAddresses
from quotapool.request.attempt import AttemptParts
from quotapool.request.auth import ClientAuth, token_of
from quotapool.request.client_request import ClientRequest
from quotapool.request.failover import Failover
from quotapool.request.outcome import Outcome
from quotapool.request.read import LONGEST_MODEL, NO_MODEL, want_of
from quotapool.request.refusals import not_served
from quotapool.session.client import SessionClient
from quotapool.session.handshake import HandshakeAttempt
from quotapool.session.open import OpenSessions
from quotapool.session.permissions import RESPONSES, SessionPermissions
from quotapool.session.relay import SessionRelay
from quotapool.session.responses import SessionTerms
from quotapool.session.rules import SessionRules
from quotapool.session.usage import SessionUsage
from quotapool.settings import Client
from quotapool.websocket.frames import VANISHED

_EPHEMERAL: Final = "ek_"
_REALTIME: Final = "realtime"


@dataclass(slots=True)
class _Session:
    """One session of a client. `opened` is its upstream of now; `relay` carries its messages, once it is accepted."""

    client: SessionClient
    known: Client | None
    request: ClientRequest
    opened: HandshakeAttempt
    relay: SessionRelay | None = None

    def hide(self, payload: bytearray) -> bytearray:
        return self.opened.echo.whole(payload)


class SessionPath:
    """Holds one process's sessions. All its parts are given to it."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        auth: ClientAuth,
        addresses: AllowedAddresses,
        permissions: SessionPermissions,
        failover: Failover,
        parts: AttemptParts,
        observer: Observer,
        note: Callable[[RequestRecord, Refusal], None],
    ) -> None:
        """`note`: what is told to a client of its refusals."""
        self._configuration = configuration
        self._auth = auth
        self._addresses = addresses
        self._permissions = permissions
        self._failover = failover
        self._parts = parts
        self._roster = parts.sync.roster
        self._observer = observer
        self._note = note
        self._open = OpenSessions(self._state_of, observer.session_opened)

    def __repr__(self) -> str:
        return f"<SessionPath open={len(self._open)}>"

    @property
    def open(self) -> int:
        return len(self._open)

    async def serve(self, client: SessionClient, record: RequestRecord) -> None:
        """Hold one session to its end. Raises Refusal for what the proxy answers itself."""
        now = self._configuration.now

        # Who asks, and for what?
        if token_of(client.headers).startswith(_EPHEMERAL):
            raise Refusal(replies.CLIENT_SECRET_SENT)  # 401: a pool key in its place would lose the session's settings
        try:
            record.client = self._auth.enter(client.headers)  # 401, 403
        except UnknownKey:
            await self._parts.sync.catch_up()
            record.client = self._auth.enter(client.headers)
        self._addresses.check(record.client, client)  # 403
        endpoint = resolve("GET", client.target)
        if isinstance(endpoint, ProxyError):
            raise not_served(endpoint, client.headers, tls=now.settings.tls is not None)  # 403, 404
        client.check()  # 400
        query = _query(client.target)  # 400
        record.endpoint, record.path, record.streamed = endpoint.name, endpoint.path, True
        record.model = query.get("model", "")[:LONGEST_MODEL]

        # May this client use it, and which account must serve it?
        known = now.clients.get(record.client)
        self._permissions.enter(known, endpoint.name, query)  # 403, 429
        group = self._roster.group_of(record.model) if record.model else NO_MODEL
        request = ClientRequest(endpoint, b"", None, record.model, group, Cost(1), replayable=True)  # it does no work
        only = await self._permissions.where(record.client, endpoint.name, client.target, query)  # 404, 503
        request.placement = Placement(only, None)
        want = want_of(request, client.headers, record.client, known, now)
        want.may_try_resting = False  # a session shows too late whether there is money again
        rules = SessionRules(self._parts.charging, self._parts.ledger, record.client)
        want.charge = rules.opening()

        # One account after another, until one opens the session.
        opened: HandshakeAttempt | None = None

        def attempt(granted: Granted) -> Awaitable[Outcome]:
            nonlocal opened
            opened = HandshakeAttempt(self._parts, self._configuration.now, request, client, granted, record)
            return opened.run()

        held = await self._failover.deliver(want, request, record, attempt)  # 404, 429, 502, 503, 504, upstream's
        if held is not None:
            record.status, record.source = held.status, "upstream"
            await client.answer(held.status, held.reason, held.headers, held.body)
        elif opened is not None:
            rules.opened(opened.charge, opened.granted)
            session = _Session(client, known, request, opened)
            of_responses = endpoint.name == RESPONSES
            own = self._permissions.own_objects(record.client, are_listed=of_responses)
            check = partial(self._permissions.check, known, record.client, client.headers, own)
            about = RESPONSES if of_responses else _REALTIME
            check_event = partial(self._permissions.check_event, known, record.client, own, about)
            limited = known is not None and bool(known.models)
            move, refused = partial(self._move, session), partial(self._refused, record)
            terms = SessionTerms(
                of_responses, limited, want.max_wait_s, check, check_event, own, move, refused, session.hide
            )
            try:
                await self._hold(session, SessionUsage(self._parts, record, opened.granted, terms, rules))
            finally:
                rules.close()

    async def _hold(self, session: _Session, usage: SessionUsage) -> None:
        """Accept the client, and carry messages until one side ends the session."""
        opened, client = session.opened, session.client
        handshake, record = opened.handshake, opened.request_record
        upstream = handshake.socket
        assert upstream is not None  # noqa: S101 -- the attempt delivered it
        headers = self._headers(opened)
        # A client that offered `realtime` gets it: browsers give up if no subprotocol is chosen.
        protocol = handshake.protocol or (_REALTIME if _REALTIME in client.protocols else "")
        try:
            downstream = client.accept(headers, protocol, opened.now.settings.max_ws_message)
        except ConnectionError:
            upstream.abort()
            raise
        record.status, record.source = 101, "upstream"
        relay = session.relay = SessionRelay(downstream, upstream, usage)
        began = time.monotonic()
        try:
            with self._open.hold(relay, usage):
                ending = await relay.run()
            record.cut = ending.code == VANISHED
        finally:
            usage.finish()
            record.model = record.model or usage.model
            session.opened.record.usage = usage.used  # for the line in the log; metrics and money have counted each
            record.upstream_s += time.monotonic() - began

    async def _move(self, session: _Session, group: str, cost: Cost, only: frozenset[str] | None) -> Granted | None:
        """Open the session on another account (of `only`) that has room for a response of this cost; None: none has.
        The client does not notice."""
        before, relay, record = session.opened, session.relay, session.opened.request_record
        now = self._configuration.now
        want = want_of(session.request, session.client.headers, record.client, session.known, now)
        want.group, want.cost, want.may_try_resting, want.max_wait_s = group, cost, False, 0.0
        want.only = want.only if only is None else only
        want.exclude.add(before.record.account)
        opened: HandshakeAttempt | None = None

        def attempt(granted: Granted) -> Awaitable[Outcome]:
            nonlocal opened
            opened = HandshakeAttempt(self._parts, now, session.request, session.client, granted, record)
            return opened.run()

        try:
            held = await self._failover.deliver(want, session.request, record, attempt)
        except Refusal:
            return None
        if held is not None or opened is None or opened.handshake.socket is None or relay is None:
            return None
        self._observer.session_opened(before.record.account, -1)
        self._observer.session_opened(opened.record.account, 1)
        session.opened = opened
        relay.move_to(opened.handshake.socket)
        return opened.granted

    def _refused(self, record: RequestRecord, refusal: Refusal) -> None:
        """An event of the client was."""
        of_event = msgspec.structs.replace(record, code=refusal.error.code, rules=refusal.rules)
        self._observer.event_refused(of_event)
        self._note(of_event, refusal)

    @staticmethod
    def _headers(opened: HandshakeAttempt) -> list[Header]:
        handshake = opened.handshake
        headers = headers_for_client(handshake.headers, secret=opened.secret)
        kept = [pair for pair in headers if not pair[0].lower().startswith(b"sec-websocket-")]
        return [*kept, (b"x-quotapool-source", b"upstream")]

    def _state_of(self, key: str) -> State:
        known = self._roster.pool.keys.get(key)
        if known is None or key not in self._configuration.now.credentials:
            return State.REMOVED
        return self._roster.pool.state_of(known)

    async def close(self, seconds: float) -> None:
        """End all sessions and what they still owe the store; wait at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._open.end()
                await self._parts.sync.settled()
        self._open.forget()


def _query(target: str) -> dict[str, str]:
    try:
        return session_query(target)
    except ValueError as unclear:
        raise Refusal(replies.INVALID_HTTP, f"This target has more than one reading: {unclear}.") from unclear
