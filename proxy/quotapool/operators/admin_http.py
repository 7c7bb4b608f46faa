"""The admin API over HTTP: validates each request, calls its handler, encodes the result or the error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from quotapool.domain.redact import mask
from quotapool.openai.replies import error_body
from quotapool.operators.actor import Actor
from quotapool.operators.admin_routes import LARGEST_BODY, PREFIX, ROUTES, ApiError, Route
from quotapool.operators.big_answers import compressed, encoded
from quotapool.operators.openapi import document
from quotapool.operators.shapes import Empty

_log = structlog.get_logger()
_KIND_OF: Final = {429: "requests", 500: "server_error", 503: "service_unavailable_error"}


@dataclass(frozen=True, slots=True)
class Call:
    """One validated request: `id` is the one in the path, "" if there is none; `query` and `body` are of the route's
    types; `actor`: who asks for it."""

    id: str
    query: Any
    body: Any
    actor: Actor


Handler = Callable[[Call], Awaitable[Any]]


def add_routes(app: web.Application, handlers: Mapping[str, Handler], version: str) -> None:
    """Every route of the table, and the document that describes them. `handlers`: by the routes' names."""
    page = msgspec.json.encode(document(version))

    async def openapi(_: web.Request) -> web.Response:
        return web.Response(body=page, content_type="application/json")

    app.router.add_get(f"{PREFIX}/openapi.json", openapi)
    for route in ROUTES:
        app.router.add_route(route.method, PREFIX + route.path, _served(route, handlers[route.name]))


def _served(route: Route, handler: Handler) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(request: web.Request) -> web.Response:
        try:
            query = _read_query(route, request)
            body = await _read_body(route, request)
            actor = Actor("admin token", "operator", "token", request.remote or "")
            result = await handler(Call(request.match_info.get("id", ""), query, body, actor))
        except ApiError as error:
            return error_response(error)
        except web.HTTPRequestEntityTooLarge:
            most = f"{route.most_bytes // 2**20} MiB"
            return error_response(ApiError("body_too_large", f"The body is larger than {most}."))
        except Exception:  # noqa: BLE001 - a bug must not become a page with a traceback
            _log.exception("an admin API call failed", operation=route.name)
            return error_response(ApiError("internal_error", "This call failed by a fault in the proxy."))
        headers = {"Cache-Control": "no-store"}
        body = await encoded(result)
        small = await compressed(body, request.headers.get("Accept-Encoding", ""))
        if small is not None:
            headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
        return web.Response(body=small or body, status=route.status, content_type="application/json", headers=headers)

    return serve


def error_response(error: ApiError) -> web.Response:
    kind = _KIND_OF.get(error.status, "invalid_request_error")
    body = error_body(error.message, kind, error.code)
    return web.Response(body=body, status=error.status, content_type="application/json")


def _read_query(route: Route, request: web.Request) -> Any:
    given = {name: request.query[name] for name in request.query}
    try:
        return msgspec.convert(given, route.query or Empty, strict=False)
    except msgspec.ValidationError as error:
        raise ApiError("bad_request", f"The query is not as described: {mask(str(error))}") from None


async def _read_body(route: Route, request: web.BaseRequest) -> Any:
    if route.most_bytes > LARGEST_BODY:
        request = request.clone(client_max_size=route.most_bytes)
    raw = await request.read()
    try:
        return msgspec.json.decode(raw or b"{}", type=route.body or Empty)
    except msgspec.ValidationError as error:
        raise ApiError("bad_request", f"The body is not as described: {mask(str(error))}") from None
    except msgspec.DecodeError:
        raise ApiError("bad_request", "The body is not valid JSON.") from None
