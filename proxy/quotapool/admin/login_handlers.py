"""The admin API's handlers for logins: in with the token or a one-time link, out, who is in, and who is calling."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

from quotapool import __version__
from quotapool.admin.access import CALLER, TOKEN_NAME, Access
from quotapool.admin.http import Call, Handler, WithCookies
from quotapool.admin.routes import ApiError
from quotapool.domain.actor import Actor, Role
from quotapool.domain.failed_logins import FailedLogins
from quotapool.login.audit import Audit
from quotapool.login.cookies import SESSION, no_session, only_value, session_cookie
from quotapool.login.links import Links
from quotapool.login.oidc import Identity
from quotapool.login.peer import Peer
from quotapool.login.secrets import are_equal, id_of, is_secret, new_secret
from quotapool.login.sessions import Session, csrf_of, proof_of
from quotapool.shapes.general import Deleted
from quotapool.shapes.logins import Login, LoginMethods, LoginRow, LoginRows, OperatorSession
from quotapool.store.store import StoreError

_JSON: Final = "application/json"


class LoginHandlers:
    """`failed` is shared with the identity provider's callback."""

    def __init__(self, access: Access, links: Links, audit: Audit, failed: FailedLogins) -> None:
        self._access = access
        self._links = links
        self._audit = audit
        self._failed = failed

    def handlers(self) -> dict[str, Handler]:
        """By the names of their routes."""
        handlers: dict[str, Handler] = {
            "login_methods": self._methods,
            "login": self._login,
            "logout": self._logout,
            "show_session": self._show,
            "list_logins": self._list,
            "end_login": self._end,
        }
        return {name: _with_store_errors(handler) for name, handler in handlers.items()}

    async def _methods(self, call: Call) -> Any:
        dashboard = self._access.dashboard
        return LoginMethods(
            signed_in=await self._is_signed_in(call),
            token=dashboard.enabled,
            oidc=dashboard.oidc.name if dashboard.enabled and dashboard.oidc is not None else None,
            header=dashboard.enabled and dashboard.trusted_header is not None,
        )

    async def _is_signed_in(self, call: Call) -> bool:
        try:
            await self._access.caller(_request(call))
        except ApiError:
            return False
        return True

    async def _login(self, call: Call) -> Any:
        body: Login = call.body
        request = _request(call)
        if not self._access.dashboard.enabled:
            raise ApiError("not_found", "There is no page here (dashboard.enabled), so there are no logins.")
        if request.content_type != _JSON:  # what a form of another page cannot send
            raise ApiError("bad_request", f"A login must be sent as {_JSON}.")
        if (body.token is None) == (body.code is None):
            raise ApiError("bad_request", "A login needs either `token` or `code`.")
        peer = self._access.peer(request)
        self.check_attempt(peer)
        self._failed.note(peer.address, time.monotonic())
        actor = await self._proven(body, peer)
        if actor is None:
            what = "token" if body.token is not None else "link"
            nobody = Actor(what, "viewer", "token" if what == "token" else "link", peer.address)
            await self._audit.refused(nobody, "login", "", "login_failed")
            how = "this is not the admin token" if what == "token" else "this link is used up or too old"
            raise ApiError("login_failed", f"Not logged in: {how}.")
        self._failed.forgive(peer.address)
        session, cookie = await self.start(request, actor)
        return WithCookies(session, (cookie,))

    def check_attempt(self, peer: Peer) -> None:
        """Raises ApiError if this address failed too often."""
        wait_s = self._failed.wait_s(peer.address, time.monotonic())
        if wait_s > 0:
            raise ApiError("too_many_logins", "Too many failed logins. Try again later.", retry_after_s=int(wait_s) + 1)

    async def _proven(self, body: Login, peer: Peer) -> Actor | None:
        if body.token is not None:
            right = are_equal(body.token.strip(), self._access.token)
            return Actor(TOKEN_NAME, "operator", "token", peer.address) if right else None
        name = await self._links.take(body.code or "")
        return Actor(name, "operator", "link", peer.address) if name is not None else None

    async def start(
        self, request: web.Request, actor: Actor, identity: Identity | None = None
    ) -> tuple[OperatorSession, str]:
        """A new session for this browser, always under a new secret; the one that it had ends. Raises StoreError."""
        secret, now = new_secret(), time.time()
        lasts_s = self._access.dashboard.session
        session = Session(
            actor=actor.name,
            role=actor.role,
            by=actor.by if actor.by in {"link", "oidc"} else "token",
            address=actor.address,
            started=now,
            ends=now + lasts_s,
            proof="" if identity is not None else proof_of(secret, self._access.token),
            values=identity.values if identity is not None else (),
            source=identity.source if identity is not None else "",
        )
        old = only_value(request.headers.getall("Cookie", []), SESSION)
        if is_secret(old):
            await self._access.sessions.end(id_of(old))
        await self._access.sessions.start(session, secret)
        await self._audit.record(actor, "login", "", {})
        shown = self._shown(actor.name, actor.role, actor.by, session.ends, csrf_of(secret))
        secure = self._access.is_https(request)
        return shown, session_cookie(secret, lasts_s, secure=secure)

    async def _logout(self, call: Call) -> Any:
        request = _request(call)
        caller = request[CALLER]
        if caller.session_id:
            await self._access.sessions.end(caller.session_id)
            await self._audit.record(call.actor, "logout", "", {})
        return WithCookies(
            Deleted(caller.session_id, bool(caller.session_id)),
            (no_session(secure=self._access.is_https(request)),),
        )

    async def _show(self, call: Call) -> Any:
        caller, actor = _request(call)[CALLER], call.actor
        return self._shown(actor.name, actor.role, actor.by, caller.ends, caller.csrf)

    def _shown(self, name: str, role: Role, by: str, ends: float | None, csrf: str) -> OperatorSession:
        pool = self._access.settings().pool
        return OperatorSession(name, role, by, ends, csrf, pool, __version__)  # type: ignore[arg-type]  # never a command

    async def _list(self, call: Call) -> Any:
        current = _request(call)[CALLER].session_id
        return LoginRows(
            [
                LoginRow(name, s.actor, s.role, s.by, s.address, s.started, s.ends, name == current)
                for name, s in reversed(await self._access.sessions.all(time.time()))
                if _may_see(call.actor, s)
            ]
        )

    async def _end(self, call: Call) -> Any:
        sessions = dict(await self._access.sessions.all(time.time()))
        session = sessions.get(call.id)
        if session is None or not _may_see(call.actor, session) or not await self._access.sessions.end(call.id):
            raise ApiError("not_found", "There is no such session.")
        await self._audit.record(call.actor, "end_login", "", {"session": [f"{session.actor} {call.id[:8]}", None]})
        return Deleted(call.id)


def _may_see(actor: Actor, session: Session) -> bool:
    return actor.role == "operator" or (actor.name, actor.by) == (session.actor, session.by)


def _request(call: Call) -> web.Request:
    if call.request is None:
        raise AssertionError("logins come over HTTP")
    return call.request


def _with_store_errors(handler: Callable[[Call], Any]) -> Handler:
    async def handle(call: Call) -> Any:
        try:
            return await handler(call)
        except StoreError:
            raise ApiError("store_unavailable", "The store does not answer.") from None

    return handle
