"""The admin listener: /metrics, /healthz and /readyz for machines; the admin API for holders of the token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Final

from aiohttp import web

from quotapool import __version__
from quotapool.observe.exposition import CONTENT_TYPE
from quotapool.operators.admin_http import Handler, add_routes, error_response
from quotapool.operators.admin_routes import LARGEST_BODY, ApiError

_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OPEN: Final = frozenset({"/metrics", "/healthz", "/readyz"})
_PAGE: Final = "/"  # the dashboard's own files, which hold no secret: open to links from other sites, too
_ASSETS: Final = "/assets/"
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_OWN_PAGE: Final = frozenset({"same-origin", "none"})  # of Sec-Fetch-Site: our own page, or typed into the address bar


def admin_app(
    *,
    token: str,
    metrics: Callable[[], Awaitable[bytes]],
    why_not_ready: Callable[[], str],
    why_unhealthy: Callable[[], str],
    handlers: Mapping[str, Handler],
    hosts: Callable[[], Collection[str]],
    more: Iterable[web.RouteDef] = (),
) -> web.Application:
    """`metrics` returns the text of /metrics; `why_not_ready`: "" if it is ready; `why_unhealthy`: "" unless a restart
    would help; `handlers`: those of the admin API, by names of routes; `hosts`: names in the Host header that are
    allowed besides loopback's; `more`: routes of the dashboard."""

    async def show_metrics(request: web.Request) -> web.Response:
        answer = web.Response(body=await metrics(), headers={"Content-Type": CONTENT_TYPE})
        if "gzip" in request.headers.get("Accept-Encoding", ""):
            answer.enable_compression(web.ContentCoding.gzip)  # a large page in another thread
        return answer

    async def healthz(_: web.Request) -> web.Response:
        why = why_unhealthy()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    async def readyz(_: web.Request) -> web.Response:
        why_not = why_not_ready()
        return web.Response(text=f"{why_not or 'ready'}\n", status=503 if why_not else 200)

    app = web.Application(middlewares=[_guard(token, hosts)], client_max_size=LARGEST_BODY)
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    add_routes(app, handlers, __version__)
    app.router.add_routes(more)
    return app


def _guard(token: str, hosts: Callable[[], Collection[str]]) -> Any:
    """Refuses web pages, whether by a rebound host name or from another origin, and callers without the token."""

    @web.middleware
    async def check(request: web.Request, handler: _Next) -> web.StreamResponse:
        if request.path in _OPEN:
            return await handler(request)
        if request.path == _PAGE or request.path.startswith(_ASSETS):
            error = _host_error(request, hosts())
        else:
            error = _page_error(request, hosts()) or _token_error(request, token)
        if error is not None:
            return error_response(error)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return error_response(ApiError("not_found", "There is no such path; /admin/openapi.json lists them."))
        except web.HTTPMethodNotAllowed as refused:
            answer = error_response(ApiError("method_not_allowed", "This path has other methods."))
            answer.headers["Allow"] = refused.headers.get("Allow", "")
            return answer

    return check


def _host_error(request: web.Request, hosts: Collection[str]) -> ApiError | None:
    host = request.headers.get("Host", "").lower()
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    if name not in _LOOPBACK and name not in hosts and host not in hosts:
        return ApiError("host_not_allowed", "Use 127.0.0.1 or localhost, or add this host to allowed_hosts.")
    return None


def _page_error(request: web.Request, hosts: Collection[str]) -> ApiError | None:
    if (error := _host_error(request, hosts)) is not None:
        return error
    host = request.headers.get("Host", "").lower()
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin.lower().partition("://")[2] != host
    if foreign or request.headers.get("Sec-Fetch-Site", "none") not in _OWN_PAGE:
        return ApiError("page_not_allowed", "Web pages of other origins may not use the admin port.")
    return None


def _token_error(request: web.Request, token: str) -> ApiError | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    sent = given.strip().encode("utf-8", "surrogateescape")  # a header may have any bytes
    if scheme.lower() == "bearer" and hmac.compare_digest(sent, token.encode()):
        return None
    return ApiError(
        "admin_token_wanted",
        "The admin token is required: Authorization: Bearer <content of state_dir/admin-token>",
    )
