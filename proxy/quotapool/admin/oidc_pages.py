"""Login at an identity provider, for browsers: `/login/oidc` sends them there, `/login/oidc/callback` is where they
come back.

Both are open, outside the admin API, and answer with pages for people. The callback does not redirect: the cookie of
the session is for this site only (SameSite=Strict), and a browser that comes from another one would not send it with
what follows a redirect. A page of our own that goes on to `/` is a new beginning.
"""

from __future__ import annotations

import html
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog
from aiohttp import web
from multidict import CIMultiDict

from quotapool.admin.access import Access
from quotapool.admin.login_handlers import LoginHandlers
from quotapool.admin.routes import ERROR_CODES, ApiError
from quotapool.domain.actor import Actor
from quotapool.domain.failed_logins import FailedLogins
from quotapool.login.audit import Audit
from quotapool.login.cookies import FLOW, flow_cookie, no_flow, only_value
from quotapool.login.oidc import CALLBACK, LASTS_S, LoginFailed, OidcLogin
from quotapool.login.provider import Provider
from quotapool.store.store import Store, StoreError

_log = structlog.get_logger()
BEGIN: Final = "/login/oidc"
_Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Quotapool</title>{refresh}</head>
<body><p>{text}</p><p><a href="/">{link}</a></p></body></html>
"""
_HEADERS: Final = {
    "Content-Type": "text/html; charset=utf-8",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


class OidcPages:
    def __init__(self, access: Access, logins: LoginHandlers, store: Store, audit: Audit, failed: FailedLogins) -> None:
        self._access = access
        self._logins = logins
        self._store = store
        self._audit = audit
        self._failed = failed
        self._login: OidcLogin | None = None  # of the options that it was made for

    def add_to(self, app: web.Application) -> None:
        app.router.add_get(BEGIN, self._shown(self._begin))
        app.router.add_get(CALLBACK, self._shown(self._finish))

    def _current(self) -> OidcLogin:
        settings = self._access.settings()
        options = settings.dashboard.oidc if settings.dashboard.enabled else None
        if options is None:
            raise LoginFailed("not_found", "No identity provider is configured here (dashboard.oidc).")
        if self._login is None or self._login.options != options:
            self._login = OidcLogin(Provider.of(settings, options), self._store, settings.pool)
        return self._login

    def _redirect_uri(self, request: web.Request) -> str:
        """`dashboard.url`, else the Host, which the guard has found to be allowed."""
        url = self._access.dashboard.url
        if url is None:
            scheme = "https" if self._is_https(request) else "http"
            url = f"{scheme}://{request.headers.get('Host', '').lower()}"
        return url + CALLBACK

    async def _begin(self, request: web.Request) -> web.Response:
        self._logins.check_attempt(self._access.peer(request))
        location, flow = await self._current().begin(self._redirect_uri(request), time.time())
        headers = CIMultiDict({"Location": location, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})
        headers.add("Set-Cookie", flow_cookie(flow, LASTS_S, secure=self._is_https(request)))
        return web.Response(status=303, headers=headers)

    async def _finish(self, request: web.Request) -> web.Response:
        peer = self._access.peer(request)
        self._logins.check_attempt(peer)
        self._failed.note(peer.address, time.monotonic())
        query = {name: request.query.get(name, "") for name in request.query}
        if any(len(request.query.getall(name)) > 1 for name in query):
            raise LoginFailed("login_refused", "The answer of the identity provider is ambiguous.")
        flow = only_value(request.headers.getall("Cookie", []), FLOW)
        identity = await self._current().finish(query, flow, self._redirect_uri(request), time.time)
        self._failed.forgive(peer.address)
        actor = Actor(identity.actor, identity.role, "oidc", peer.address)
        _, cookie = await self._logins.start(request, actor, identity)
        headers = CIMultiDict(_HEADERS)
        headers.add("Set-Cookie", cookie)
        headers.add("Set-Cookie", no_flow(secure=self._is_https(request)))
        refresh = '<meta http-equiv="refresh" content="0;url=/">'
        page = _PAGE.format(refresh=refresh, text="You are logged in.", link="Go on")
        return web.Response(body=page.encode(), headers=headers)

    def _is_https(self, request: web.Request) -> bool:
        return self._access.is_https(request)

    def _shown(self, answer: _Answer) -> _Answer:
        """The same handler; what it raises becomes a page."""

        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                return await answer(request)
            except LoginFailed as failed:
                code, message, retry_after_s = failed.code, str(failed), 0
            except ApiError as error:
                code, message, retry_after_s = error.code, error.message, error.retry_after_s
            except StoreError:
                code, message, retry_after_s = "store_unavailable", "The store does not answer.", 0
            if code not in {"too_many_logins", "not_found"}:
                # What is known of a person is shown to that person only.
                problem = {} if code == "no_role" else {"problem": message}
                _log.warning("a login at the identity provider failed", code=code, **problem)
                nobody = Actor("oidc", "viewer", "oidc", self._access.peer(request).address)
                await self._audit.refused(nobody, "login", "", code)
            page = _PAGE.format(refresh="", text=html.escape(message), link="Back to the page")
            headers = CIMultiDict(_HEADERS)
            headers.add("Set-Cookie", no_flow(secure=self._is_https(request)))
            if retry_after_s:
                headers["Retry-After"] = str(retry_after_s)
            return web.Response(body=page.encode(), status=ERROR_CODES[code][0], headers=headers)

        return handle
