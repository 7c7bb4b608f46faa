"""Who is calling on the operators' port: by the admin token, by a trusted proxy's header, or by the session of the
page.

A token counts before everything else, a header before a cookie. The last two are sent by browsers on their own, so
each change that is called for with one also needs the session's CSRF token.
"""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import msgspec
from aiohttp import web

from quotapool.admin.routes import ApiError
from quotapool.domain.actor import Actor, is_name, role_of
from quotapool.login.cookies import SESSION, only_value, values_of
from quotapool.login.oidc import source_of
from quotapool.login.peer import Peer, is_in, peer_of
from quotapool.login.secrets import are_equal, derived, id_of, is_secret
from quotapool.login.sessions import Session, Sessions, csrf_of, proof_of
from quotapool.settings import Settings
from quotapool.settings.dashboard import Dashboard
from quotapool.store.store import StoreError

CSRF_HEADER: Final = "X-Quotapool-CSRF"
TOKEN_NAME: Final = "admin token"  # noqa: S105 - the actor of whoever has it
_CHANGES_NOTHING: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling. `csrf`: what a change must bring along, "" if nothing. `session_id`, `ends` (Unix seconds): of a
    session of the page."""

    actor: Actor
    csrf: str = ""
    session_id: str = ""
    ends: float | None = None


CALLER: Final = web.RequestKey("caller", Caller)
StillValid = Callable[[web.Request], Awaitable[bool]]
STILL_VALID: Final[web.AppKey[StillValid]] = web.AppKey("still_valid")


class Access:
    """`settings`: those in force, which a reload replaces. `token`: the admin token, which only a restart changes."""

    def __init__(self, token: str, settings: Callable[[], Settings], sessions: Sessions) -> None:
        self.token = token
        self.settings = settings
        self.sessions = sessions

    @property
    def dashboard(self) -> Dashboard:
        return self.settings().dashboard

    def peer(self, request: web.Request) -> Peer:
        """The caller's address, and whether its browser speaks https: as trusted proxies say."""
        header = self.dashboard.trusted_header
        trusted = (*self.settings().trusted_proxies, *(header.sources if header is not None else ()))
        lines = request.headers
        return peer_of(
            request.remote or "", lines.getall("X-Forwarded-For", []), lines.getall("X-Forwarded-Proto", []), trusted
        )

    def is_https(self, request: web.Request) -> bool:
        """Whether the browser speaks https, so that its cookies are for https only."""
        url = self.dashboard.url
        if url is None or not url.startswith("https://"):
            return self.peer(request).is_https
        lines = request.headers
        of_page = lines.get("Host", "").lower() == urlsplit(url).netloc or lines.get("Origin", "").lower() == url
        return of_page or self.peer(request).is_https

    async def caller(self, request: web.Request) -> Caller:
        """Raises ApiError: nobody who may call, or a change without its CSRF token."""
        if "Authorization" in request.headers:
            return self._holder_of_the_token(request)
        found = await self._known_to_the_browser(request)
        if request.method not in _CHANGES_NOTHING and not are_equal(request.headers.get(CSRF_HEADER, ""), found.csrf):
            raise ApiError(
                "csrf_wanted", f"A change from the page needs {CSRF_HEADER}, which GET /admin/session tells."
            )
        return found

    async def still_valid(self, request: web.Request) -> bool:
        """Whether whoever opened this request would be let in again, in the same role: for answers that take long.
        While the store is away nobody's session ends."""
        before = request.get(CALLER)
        try:
            now = await self.caller(request)
        except ApiError as error:
            return error.code == "store_unavailable"
        return before is not None and (before.actor.name, before.actor.role) == (now.actor.name, now.actor.role)

    def _holder_of_the_token(self, request: web.Request) -> Caller:
        lines = request.headers.getall("Authorization")
        scheme, _, given = lines[0].partition(" ")
        if len(lines) == 1 and scheme.lower() == "bearer" and are_equal(given.strip(), self.token):
            return Caller(Actor(TOKEN_NAME, "operator", "token", self.peer(request).address))
        raise _nobody()

    async def _known_to_the_browser(self, request: web.Request) -> Caller:
        if not self.dashboard.enabled:
            raise _nobody()
        peer = self.peer(request)
        refused: ApiError | None = None
        try:
            if (by_header := self._by_header(request, peer)) is not None:
                return by_header
        except ApiError as error:
            if error.code != "no_role":
                raise
            refused = error
        secret = only_value(request.headers.getall("Cookie", []), SESSION)
        found = await self.session(secret) if is_secret(secret) else None
        if found is None:
            raise refused or _nobody(several=len(values_of(request.headers.getall("Cookie", []), SESSION)) > 1)
        name, session = found
        actor = Actor(session.actor, session.role, session.by, peer.address)
        return Caller(actor, csrf_of(secret), name, session.ends)

    def _by_header(self, request: web.Request, peer: Peer) -> Caller | None:
        """Whom the identity-aware proxy names; None: there is none, or the call does not come from it."""
        options = self.dashboard.trusted_header
        if options is None:
            return None
        networks = [ipaddress.ip_network(source) for source in options.sources]
        given = request.headers.getall(options.name, [])
        if not given or not is_in(request.remote or "", networks):
            return None
        name = given[0].strip()
        if len(given) > 1 or "," in name or not is_name(name):
            raise ApiError("identity_unclear", f"{options.name} must have one value, which names one person.")
        role = role_of([name], options.operators, options.viewers)
        if role is None:
            raise ApiError("no_role", f"{name} has no role here: the configuration has no pattern for it.")
        csrf = derived(self.token, f"quotapool csrf of {name}")
        return Caller(Actor(name, role, "header", peer.address), csrf)

    async def session(self, secret: str) -> tuple[str, Session] | None:
        """(id, session) of a cookie's secret, if it is still good: not over, made with the admin token of today, and
        with a role by the patterns of today. Raises ApiError (the store is away)."""
        try:
            session = await self.sessions.find(secret, time.time())
        except StoreError:
            raise ApiError("store_unavailable", "The store does not answer.") from None
        session = self._as_of_today(session, secret) if session is not None else None
        return None if session is None else (id_of(secret), session)

    def _as_of_today(self, session: Session, secret: str) -> Session | None:
        if session.by != "oidc":
            return session if are_equal(session.proof, proof_of(secret, self.token)) else None
        options = self.dashboard.oidc
        if options is None or session.source != source_of(options):
            return None
        role = role_of(session.values, options.operators, options.viewers)
        if role is None:
            return None
        return msgspec.structs.replace(session, role=role)


def _nobody(*, several: bool = False) -> ApiError:
    if several:
        return ApiError(
            "admin_token_wanted",
            "The browser sends several cookies named quotapool_session, so none is believed. Delete them first.",
        )
    return ApiError(
        "admin_token_wanted",
        "The admin token is required: Authorization: Bearer <content of state_dir/admin-token>",
    )
