"""The operators' listener: /metrics, /healthz and /readyz for machines, everything else for holders of the token."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_OPEN = frozenset({"/metrics", "/healthz", "/readyz"})


def operators_app(
    *,
    token: str,
    metrics: Callable[[], Awaitable[tuple[bytes, str]]],
    ready: Callable[[], str],
    keys: Callable[[], Awaitable[list[dict[str, Any]]]],
) -> web.Application:
    """`metrics` gives a body and its content type; `ready` says "" or why not; `keys` describes the pool."""

    async def show_metrics(_: web.Request) -> web.Response:
        body, content_type = await metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        why_not = ready()
        return web.Response(text=f"{why_not or 'ready'}\n", status=503 if why_not else 200)

    async def show_keys(_: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode({"keys": await keys()}), content_type="application/json")

    app = web.Application(middlewares=[_token_wanted(token)])
    app.router.add_get("/metrics", show_metrics)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/admin/keys", show_keys)
    return app


def _token_wanted(token: str) -> Any:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.path in _OPEN:
            return await handler(request)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        told = given.strip().encode("utf-8", "surrogateescape")  # any bytes may come in a header
        if scheme.lower() != "bearer" or not hmac.compare_digest(told, token.encode()):
            return web.json_response(
                {"error": {"message": "The admin token is wanted: Authorization: Bearer <state_dir>/admin-token"}},
                status=401,
            )
        return await handler(request)

    return check
