"""The operators' listener: /metrics, /healthz and /readyz for machines, everything else for holders of the token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any, Final

from aiohttp import web

from quotapool import __version__
from quotapool.operators.dispatch import LARGEST_BODY, Answerer, add_routes, refusal
from quotapool.operators.routes import Problem

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OPEN: Final = frozenset({"/metrics", "/healthz", "/readyz"})
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "[::1]"})
_OWN_PAGE: Final = frozenset({"same-origin", "none"})  # of Sec-Fetch-Site: ours, or typed into the address bar


def operators_app(
    *,
    token: str,
    metrics: Callable[[], Awaitable[tuple[bytes, str]]],
    ready: Callable[[], str],
    answerers: Mapping[str, Answerer],
    hosts: Callable[[], Collection[str]] = tuple,
) -> web.Application:
    """`metrics` gives a body and its content type; `ready` says "" or why not; `answerers`: the admin API's, by the
    names of its routes; `hosts`: names in the Host header that are allowed besides loopback's."""

    async def show_metrics(_: web.Request) -> web.Response:
        body, content_type = await metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why_not = ready()
        return web.Response(text=f"{why_not or 'ready'}\n", status=503 if why_not else 200)

    app = web.Application(middlewares=[_guard(token, hosts)], client_max_size=LARGEST_BODY)
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    add_routes(app, answerers, __version__)
    return app


def _guard(token: str, hosts: Callable[[], Collection[str]]) -> Any:
    """No stranger's page, by a rebound name or from another origin; nobody without the token."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in _OPEN:
            return await handler(request)
        problem = _page(request, hosts()) or _holder(request, token)
        if problem is not None:
            return refusal(problem)
        try:
            return await handler(request)
        except web.HTTPNotFound:
            return refusal(Problem(404, "not_found", "There is no such path; /admin/openapi.json lists them."))
        except web.HTTPMethodNotAllowed as error:
            answer = refusal(Problem(405, "method_not_allowed", "This path has other methods."))
            answer.headers["Allow"] = error.headers.get("Allow", "")
            return answer

    return check


def _page(request: web.Request, hosts: Collection[str]) -> Problem | None:
    host = request.headers.get("Host", "").lower()
    name = host.rpartition(":")[0] if ":" in host and not host.endswith("]") else host
    if name not in _LOOPBACK and name not in hosts and host not in hosts:
        return Problem(403, "host_not_allowed", "Call by 127.0.0.1 or localhost, or add this host to allowed_hosts.")
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin.lower().partition("://")[2] != host
    if foreign or request.headers.get("Sec-Fetch-Site", "none") not in _OWN_PAGE:
        return Problem(403, "page_not_allowed", "Web pages of other origins may not use the operators' port.")
    return None


def _holder(request: web.Request, token: str) -> Problem | None:
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    told = given.strip().encode("utf-8", "surrogateescape")  # any bytes may come in a header
    if scheme.lower() == "bearer" and hmac.compare_digest(told, token.encode()):
        return None
    return Problem(
        401, "admin_token_wanted", "The admin token is wanted: Authorization: Bearer <what state_dir/admin-token holds>"
    )
