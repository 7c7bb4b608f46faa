"""The admin API over HTTP: validates each request, calls its handler, encodes the result or the error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import msgspec
import structlog
from aiohttp import web
from multidict import CIMultiDict

from quotapool.admin.access import CALLER, Caller
from quotapool.admin.openapi import document
from quotapool.admin.routes import LARGEST_BODY, PREFIX, ROUTES, ApiError, Route
from quotapool.domain.actor import Actor
from quotapool.domain.redact import mask
from quotapool.openai.replies import error_body
from quotapool.operators.big_answers import compressed, encoded
from quotapool.shapes.general import Empty

_log = structlog.get_logger()
_KIND_OF: Final = {429: "requests", 500: "server_error", 503: "service_unavailable_error"}


@dataclass(frozen=True, slots=True)
class Call:
    """One validated request: `id` is the one in the path, "" if there is none; `query` and `body` are of the route's
    types; `actor`: who asks for it, without a name if the route is open. A handler may put
    into `changes` what the record of this call has to say besides what it finds itself: option -> [old, new]."""

    id: str
    query: Any
    body: Any
    actor: Actor
    request: web.Request | None = None
    changes: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WithCookies:
    """A handler's result, and cookies (Set-Cookie headers) to go with it."""

    result: Any
    cookies: tuple[str, ...]


Handler = Callable[[Call], Awaitable[Any]]


class Around(Protocol):
    """What happens around the handlers of all routes: records of changes (`recorder.py`)."""

    async def call(self, route: Route, call: Call, handler: Handler) -> Any:
        """The handler's result."""

    async def refused(self, route: Route, call: Call, code: str) -> None:
        """The call was refused before it reached its handler."""


def add_routes(app: web.Application, handlers: Mapping[str, Handler], version: str, around: Around) -> None:
    """Every route of the table, and the document that describes them. `handlers`: by the routes' names."""
    page = msgspec.json.encode(document(version))

    async def openapi(_: web.Request) -> web.Response:
        return web.Response(body=page, content_type="application/json")

    app.router.add_get(f"{PREFIX}/openapi.json", openapi)
    for route in ROUTES:
        app.router.add_route(route.method, PREFIX + route.path, _served(route, handlers[route.name], around))


def _served(route: Route, handler: Handler, around: Around) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def serve(request: web.Request) -> web.Response:
        try:
            actor = _actor(route, request)
            name = request.match_info.get("id", "")
            if not route.is_open and route.least_role == "operator" and actor.role != "operator":
                await around.refused(route, Call(name, None, None, actor, request), "role_not_enough")
                raise ApiError("role_not_enough", f"{actor.name} is a viewer, and may look only.")
            query = _read_query(route, request)
            call = Call(name, query, await _read_body(route, request), actor, request)
            result = await (around.call(route, call, handler) if route.is_recorded else handler(call))
        except ApiError as error:
            return error_response(error)
        except web.HTTPRequestEntityTooLarge:
            most = f"{route.most_bytes // 2**20} MiB"
            return error_response(ApiError("body_too_large", f"The body is larger than {most}."))
        except Exception:  # noqa: BLE001 - a bug must not become a page with a traceback
            _log.exception("an admin API call failed", operation=route.name)
            return error_response(ApiError("internal_error", "This call failed by a fault in the proxy."))
        headers = CIMultiDict({"Cache-Control": "no-store"})
        if isinstance(result, WithCookies):
            headers.extend([("Set-Cookie", cookie) for cookie in result.cookies])
            result = result.result
        body = await encoded(result)
        small = await compressed(body, request.headers.get("Accept-Encoding", ""))
        if small is not None:
            headers.extend({"Content-Encoding": "gzip", "Vary": "Accept-Encoding"})
        return web.Response(body=small or body, status=route.status, content_type="application/json", headers=headers)

    return serve


def _actor(route: Route, request: web.Request) -> Actor:
    caller: Caller | None = request.get(CALLER)
    if caller is not None:
        return caller.actor
    if not route.is_open:
        raise ApiError("admin_token_wanted", "Nobody is logged in.")
    return Actor("", "viewer", "token", request.remote or "")


def error_response(error: ApiError) -> web.Response:
    kind = _KIND_OF.get(error.status, "invalid_request_error")
    body = error_body(error.message, kind, error.code)
    headers = {"Retry-After": str(error.retry_after_s)} if error.retry_after_s else None
    return web.Response(body=body, status=error.status, content_type="application/json", headers=headers)


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
