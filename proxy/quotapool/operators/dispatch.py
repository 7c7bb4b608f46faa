"""Serves the table of routes: reads what is asked, has it answered, and turns refusals into OpenAI's error shape."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import structlog
from aiohttp import web

from quotapool.domain.redact import mask
from quotapool.openai.replies import error_body
from quotapool.operators.openapi import document
from quotapool.operators.routes import PREFIX, ROUTES, Problem, Route
from quotapool.operators.shapes import Nothing

_log = structlog.get_logger()
LARGEST_BODY: Final = 2**20
_KIND_OF: Final = {429: "requests", 500: "server_error", 503: "service_unavailable_error"}


@dataclass(frozen=True, slots=True)
class Asked:
    """One call: `name` is the id in the path, "" where it has none; `query` and `body` are of the route's types."""

    name: str
    query: Any
    body: Any


Answerer = Callable[[Asked], Awaitable[Any]]


def add_routes(app: web.Application, answerers: Mapping[str, Answerer], version: str) -> None:
    """Every route of the table, and the document that describes them. `answerers` by the routes' names."""
    page = msgspec.json.encode(document(version))

    async def openapi(_: web.Request) -> web.Response:
        return web.Response(body=page, content_type="application/json")

    app.router.add_get(f"{PREFIX}/openapi.json", openapi)
    for route in ROUTES:
        app.router.add_route(route.method, PREFIX + route.path, _handler(route, answerers[route.name]))


def _handler(route: Route, answer: Answerer) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        try:
            query = _read_query(route, request)
            body = await _read_body(route, request)
            found = await answer(Asked(request.match_info.get("id", ""), query, body))
        except Problem as problem:
            return refusal(problem)
        except web.HTTPRequestEntityTooLarge:
            return refusal(Problem(413, "body_too_large", "The body is larger than 1 MiB."))
        except Exception:  # noqa: BLE001 - the last stand: a bug must not become a page with a traceback
            _log.exception("admin call failed", operation=route.name)
            return refusal(Problem(500, "internal_error", "The proxy failed on this call by a fault of its own."))
        headers = {"Cache-Control": "no-store"}
        return web.Response(
            body=msgspec.json.encode(found), status=route.status, content_type="application/json", headers=headers
        )

    return handle


def refusal(problem: Problem) -> web.Response:
    kind = _KIND_OF.get(problem.status, "invalid_request_error")
    body = error_body(problem.message, kind, problem.code)
    return web.Response(body=body, status=problem.status, content_type="application/json")


def _read_query(route: Route, request: web.Request) -> Any:
    given = {name: request.query[name] for name in request.query}
    try:
        return msgspec.convert(given, route.query or Nothing, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(400, "bad_request", f"The query is not as described: {mask(str(error))}") from None


async def _read_body(route: Route, request: web.Request) -> Any:
    raw = await request.read()
    try:
        return msgspec.json.decode(raw or b"{}", type=route.body or Nothing)
    except msgspec.ValidationError as error:
        raise Problem(400, "bad_request", f"The body is not as described: {mask(str(error))}") from None
    except msgspec.DecodeError:
        raise Problem(400, "bad_request", "The body is not valid JSON.") from None
