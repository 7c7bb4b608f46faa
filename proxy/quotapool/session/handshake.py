"""One attempt of a session: ask upstream for a WebSocket with one key, and hold what it answers instead."""

from __future__ import annotations

from typing import cast

from quotapool.domain.quantities import NOTHING
from quotapool.domain.request_record import RequestRecord
from quotapool.ledger.grants import Granted
from quotapool.ledger.rules import Charge
from quotapool.openai.headers import headers_for_client, headers_for_upstream
from quotapool.pool.configuration import Snapshot
from quotapool.request.attempt import Attempt, AttemptParts, observed_in
from quotapool.request.client_request import ClientRequest
from quotapool.session.client import SessionClient
from quotapool.traces.joining import onward
from quotapool.upstream.client import UpstreamClient
from quotapool.websocket.socket import Handshake, open_websocket


class HandshakeAttempt(Attempt):
    """`handshake` is there, with its socket, once upstream has opened the session."""

    __slots__ = ("_client", "charge", "handshake")

    handshake: Handshake

    def __init__(
        self,
        parts: AttemptParts,
        now: Snapshot,
        request: ClientRequest,
        client: SessionClient,
        granted: Granted,
        record: RequestRecord,
    ) -> None:
        super().__init__(parts, now, request, granted, record)
        self._client = client
        self.charge: Charge | None = None  # of its client's rules, for as long as the session is open
        self.outcome.usage = NOTHING  # a handshake itself uses no tokens

    async def _exchange(self) -> None:
        now, client, record, outcome = self.now, self._client, self.record, self.outcome
        route = now.credentials.route(record.key)
        headers = headers_for_upstream(client.headers, now.credentials.header(record.key))
        trace = self.request_record.trace
        if trace is not None and trace.goes_on:
            headers = onward(headers, trace, len(self.request_record.attempts) - 1)
        handshake = await open_websocket(
            cast("UpstreamClient", now.upstream_of(route)),  # a worker's upstream can do more than answer requests
            client.target if route is None else route.target(client.target),
            headers,
            client.protocols,
            most=now.settings.max_ws_message,
        )
        record.status, outcome.observed = handshake.status, observed_in(handshake.headers)
        request_id = handshake.headers.get("x-request-id", "")
        record.upstream_request_id = "" if self.secret in request_id else request_id
        if handshake.socket is None:
            headers = headers_for_client(handshake.headers, secret=self.secret)
            self._refused(handshake, headers, handshake.body)
            return
        self.handshake = handshake
        outcome.delivered = True
        self.charge, self.granted.charge = self.granted.charge, None
