"""The operators' listener: /metrics, /healthz and /readyz for machines, the page for browsers, and the admin API for
whoever holds the token or is logged in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from aiohttp import web

from quotapool import __version__
from quotapool.admin.access import CALLER, STILL_VALID, Access
from quotapool.admin.http import Around, Handler, add_routes, error_response
from quotapool.admin.routes import LARGEST_BODY, PREFIX, ROUTES, ApiError
from quotapool.observe.exposition import CONTENT_TYPE

_Next = Callable[[web.Request], Awaitable[web.StreamResponse]]
_MACHINES: Final = frozenset({"/metrics", "/healthz", "/readyz"})
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_OWN_PAGE: Final = frozenset({"same-origin", "none"})  # of Sec-Fetch-Site: our own page, or typed into the address bar
_OPEN_CALLS: Final = frozenset(PREFIX + route.path for route in ROUTES if route.is_open)
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    # No script or style that stands in the page itself, nothing from elsewhere, no text made into a page, and no frame
    # around it.
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; connect-src "
        "'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
}


def admin_app(
    *,
    access: Access,
    metrics: Callable[[], Awaitable[bytes]],
    why_not_ready: Callable[[], str],
    why_unhealthy: Callable[[], str],
    handlers: Mapping[str, Handler],
    around: Around,
    hosts: Callable[[], Collection[str]],
    pages: Iterable[Callable[[web.Application], None]] = (),
) -> web.Application:
    """`metrics` returns the text of /metrics; `why_not_ready`: "" if it is ready; `why_unhealthy`: "" unless a restart
    would help; `handlers`: those of the admin API, by names of routes; `around`: what happens around them; `hosts`:
    names in the Host header that are allowed besides loopback's; each of `pages` adds what is open to browsers: `/`,
    `/assets/…`, `/login/…`."""

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

    app = web.Application(middlewares=[_guard(access, hosts)], client_max_size=LARGEST_BODY)
    app[STILL_VALID] = access.still_valid
    app.on_response_prepare.append(_harden)
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    for add in pages:
        add(app)
    add_routes(app, handlers, __version__, around)
    return app


async def _harden(_: web.Request, response: web.StreamResponse) -> None:
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


def _guard(access: Access, hosts: Callable[[], Collection[str]]) -> Any:
    """Refuses other web pages, whether by a rebound host name or from another origin, and whoever may not call. A
    handler of the admin API is reached by nobody else, except those of routes that are open."""

    @web.middleware
    async def check(request: web.Request, handler: _Next) -> web.StreamResponse:
        if request.path in _MACHINES:
            return await handler(request)
        try:
            _check_page(request, hosts(), access.dashboard.url)
            if _is_for_browsers(request.path) and not access.dashboard.enabled:
                raise ApiError("not_found", "The page is turned off: dashboard.enabled.")
            if not (_is_for_browsers(request.path) or request.path in _OPEN_CALLS):
                request[CALLER] = await access.caller(request)
        except ApiError as error:
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


def _is_for_browsers(path: str) -> bool:
    """The page, its files, and where an identity provider is asked: open, and without secrets."""
    return path == "/" or path.startswith(("/assets/", "/login/"))


def _check_page(request: web.Request, hosts: Collection[str], url: str | None) -> None:
    """Raises ApiError."""
    lines = request.headers.getall("Host", [])
    host = lines[0].lower() if len(lines) == 1 else ""
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    own = urlsplit(url).netloc if url is not None else None
    if not (name in _LOOPBACK or name in hosts or host in hosts or (own is not None and host == own)):
        raise ApiError("host_not_allowed", "Use 127.0.0.1 or localhost, or add this host to allowed_hosts.")
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin.lower() != url and origin.lower().partition("://")[2] != host
    site = request.headers.get("Sec-Fetch-Site", "none")
    if foreign or not (site in _OWN_PAGE or _is_followed_link(request)):
        raise ApiError("page_not_allowed", "Web pages of other origins may not use the admin port.")


def _is_followed_link(request: web.Request) -> bool:
    """Somebody follows a link on another page, in a tab and not in a frame, to what is open to browsers anyway."""
    return (
        request.method == "GET"
        and request.headers.get("Sec-Fetch-Mode") == "navigate"
        and request.headers.get("Sec-Fetch-Dest", "document") == "document"
        and _is_for_browsers(request.path)
    )
