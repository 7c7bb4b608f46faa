"""THE REQUEST PATH: from a client's first line to the settled reservation. Read it from the top.

    authenticate -> endpoint -> read and estimate -> place -> reuse an answer, or:
    reserve (or wait, or refuse) -> attempt -> relay -> settle

Each step names the statuses it may answer with. `docs/request-life.md` tells the same as a story.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from quotapool.domain.request_record import AskedFor, RequestRecord
from quotapool.ledger.grants import Granted
from quotapool.ledger.rules import Charge
from quotapool.objects.placement import ObjectRequest, Objects
from quotapool.openai.endpoints import resolve
from quotapool.openai.head import Head
from quotapool.openai.reference_marks import involves_objects
from quotapool.openai.refusal import UnknownKey
from quotapool.openai.replies import ProxyError
from quotapool.pool.configuration import Configuration
from quotapool.pool.want import Want
from quotapool.request.addresses import AllowedAddresses
from quotapool.request.attempt import AttemptParts
from quotapool.request.auth import ClientAuth
from quotapool.request.client_request import ClientRequest
from quotapool.request.daily_limit import DailyLimit
from quotapool.request.failover import Failover
from quotapool.request.http_attempt import HttpAttempt
from quotapool.request.me import PREFIX, Me
from quotapool.request.models import Catalogue, refuse_model
from quotapool.request.outcome import Held, Outcome
from quotapool.request.read import read_client_request, want_of
from quotapool.request.refusals import not_served
from quotapool.request.relay import Downstream
from quotapool.request.reuse import Reuse
from quotapool.settings import Client

Note = Callable[[ClientRequest, RequestRecord, str, int], None]
"""Hears of a request, its target and its priority (`advice/notes.py`)."""


class RequestPath:
    """Serves requests with one pool. All its parts are given to it; it owns none."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        auth: ClientAuth,
        addresses: AllowedAddresses,
        daily_limit: DailyLimit,
        catalogue: Catalogue,
        objects: Objects,
        failover: Failover,
        parts: AttemptParts,
        me: Me,
        note: Note,
        reuse: Reuse,
    ) -> None:
        self._configuration = configuration
        self._auth = auth
        self._addresses = addresses
        self._daily_limit = daily_limit
        self._catalogue = catalogue
        self._objects = objects
        self._failover = failover
        self._parts = parts
        self._note = note
        self._reuse = reuse
        self.me = me

    def client_of(self, headers: Head) -> str:
        """The client whose key these headers carry; "" if they carry no valid one."""
        return self._auth.client_of(headers)

    async def serve(self, down: Downstream, record: RequestRecord) -> None:
        """Answer one request. Raises Refusal for what the proxy answers itself."""
        now = self._configuration.now

        # Who asks, and for what?
        try:
            record.client = self._auth.enter(down.headers)  # 401, 403
        except UnknownKey:
            await self._parts.sync.catch_up()
            record.client = self._auth.enter(down.headers)
        self._addresses.check(record.client, down)  # 403
        if down.target.startswith(PREFIX):
            await self.me.serve(down, record)  # 200, 404, 405, 503
            return
        endpoint = resolve(down.method, down.target)
        if isinstance(endpoint, ProxyError):
            raise not_served(endpoint, down.headers, tls=now.settings.tls is not None)  # 403, 404, 405
        record.endpoint, record.path = endpoint.name, endpoint.path
        client = now.clients.get(record.client)

        # Can it be answered here?
        if endpoint.name == "models" and await self._catalogue.serve(down, endpoint, client, record):  # 200, 404
            return

        # What does it contain, what will it cost, and which account must serve it?
        limited = client is not None and bool(client.models)
        first = limited or self._parts.charging.needs_models(record.client)  # before a form passes, its model is known
        roster = self._parts.sync.roster
        request = await read_client_request(  # 400, 413
            down, endpoint, now.settings, roster, every_model=limited, whole_forms=first
        )
        record.model, record.streamed = request.model, request.streamed
        refuse_model(client, request)  # 403
        charge = self._parts.charging.charge(record.client, request)  # 403, 503
        await self._place(down, request, record.client)  # 400, 404, 503

        # Need it be asked, or is its answer known, or on its way to another?
        reusable = self._reuse.of(down, request, client, record)
        if reusable is None:
            await self._ask(down, request, charge, client, record)
            return

        def ask(to: Downstream, asked: ClientRequest) -> Awaitable[None]:
            needed = charge if asked is request else self._parts.charging.charge(record.client, asked)
            return self._ask(to, asked, needed, client, record)

        await reusable.serve(ask)  # 504, and what `_ask` answers

    async def _ask(
        self,
        down: Downstream,
        request: ClientRequest,
        charge: Charge | None,
        client: Client | None,
        record: RequestRecord,
    ) -> None:
        """If it may cost money today: one account after another, until one delivers."""
        now = self._configuration.now
        if self._daily_limit.spent_until:
            self._daily_limit.check(down.method, down.target)  # 429
        if now.settings.safety.identifier:
            self._identify(down, request, record.client)
        want = want_of(request, down.headers, record.client, client, now)
        want.charge = charge
        if request.cost.requests:
            record.asked_for = _asked_for(request, want)
        if request.boundary:
            request.patience_s = want.max_wait_s

        def attempt(granted: Granted) -> Awaitable[Outcome]:
            return HttpAttempt(self._parts, self._configuration.now, request, want, down, granted, record).run()

        held = await self._failover.deliver(want, request, record, attempt)  # 404, 429, 502, 503, 504, upstream's
        self._note(request, record, down.target, want.priority)
        if held is not None:
            await _answer(down, held, record)

    async def _place(self, down: Downstream, request: ClientRequest, client: str) -> None:
        """Find out where the objects live that the request names, and have its answer read for new ones."""
        name, text = request.endpoint.name, None if request.body is None else request.text
        model, store = request.model, request.store
        if not involves_objects(name, down.method, down.target, text, model=model, store=store, is_keyed=client != ""):
            return
        asked = ObjectRequest(name, down.method, down.target, text, model, store, client)
        if request.stream is not None:
            request.stream = self._objects.checked_form(request.stream, asked, down.headers)  # 400, 404 as it passes
        request.placement = await self._objects.place(asked)

    def _identify(self, down: Downstream, request: ClientRequest, client: str) -> None:
        """Name the client in the body as its safety identifier."""
        if request.body is not None and request.endpoint.estimate in {"chat", "responses"}:
            request.body = self._parts.policy.identified(request.body, client, down.headers)


def _asked_for(request: ClientRequest, want: Want) -> AskedFor:
    """What is recorded of a request, whatever comes of it."""
    cost, only = request.cost, want.only
    return AskedFor(
        "" if request.group == request.model else request.group,
        cost.tokens,
        cost.images,
        want.priority,
        want.max_wait_s,
        next(iter(only)) if only is not None and len(only) == 1 else "",
    )


async def _answer(down: Downstream, held: Held, record: RequestRecord) -> None:
    """Upstream's error is the client's answer."""
    record.status, record.source = held.status, "upstream"
    if (full := down.reply(held.status, held.reason, held.headers, len(held.body), held.body)) is not None:
        await full
