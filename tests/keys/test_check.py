"""Whether upstream accepts a key: where it is asked, what is tried again, what the operator reads."""

from __future__ import annotations

import pytest
from aiohttp import web
from quotapool.keys.check import KeyChecker, check_all
from quotapool.observe.redaction import Redactor
from quotapool.settings import Settings

INVALID = {"error": {"message": "Incorrect API key", "type": "invalid_request_error", "code": "invalid_api_key"}}
BUSY = {"error": {"message": "Rate limit reached", "type": "requests", "code": "rate_limit_exceeded"}}
MODELS = {"object": "list", "data": []}


@pytest.fixture
async def upstream(aiohttp_server, monkeypatch):
    """A server whose answers the test sets, by path; it keeps each request's path, query and headers."""
    monkeypatch.setattr("quotapool.keys.check._PAUSE_S", 0.0)
    answers: dict[str, list[tuple[int, object]]] = {}
    seen: list[web.Request] = []

    async def handle(request):
        seen.append(request)
        queue = answers[request.path]
        status, document = queue.pop(0) if len(queue) > 1 else queue[0]
        if isinstance(document, str):
            return web.Response(text=document, content_type="text/html", status=status)
        return web.json_response(document, status=status)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = await aiohttp_server(app)
    server.answers, server.seen = answers, seen
    return server


async def checked(settings: Settings):
    checker = KeyChecker(settings, Redactor(), per_second=10_000.0)
    try:
        return {key.id: check async for key, check in check_all(checker, settings.keys, lambda key: key)}
    finally:
        await checker.aclose()


async def test_each_key_is_checked_at_its_own_upstream_with_its_own_header(upstream):
    upstream.answers |= {"/v1/models": [(401, INVALID)], "/own/v1/models": [(200, MODELS)]}
    own = {"url": str(upstream.make_url("/own")), "header": "api-key", "query": {"api-version": "1"}}
    keys = [{"id": "a", "secret": "sk-secret-of-a"}, {"id": "b", "secret": "sk-secret-of-b", "upstream": own}]
    found = await checked(Settings.model_validate({"upstream": str(upstream.make_url("/")), "keys": keys}))
    assert (found["a"].ok, found["a"].answer) == (False, "dead: invalid_api_key")
    assert (found["b"].ok, found["b"].answer) == (True, "valid")
    headers = {request.path_qs: request.headers for request in upstream.seen}
    assert headers["/v1/models"]["Authorization"] == "Bearer sk-secret-of-a"
    assert headers["/own/v1/models?api-version=1"]["api-key"] == "sk-secret-of-b"
    assert "Authorization" not in headers["/own/v1/models?api-version=1"]


async def test_a_temporary_answer_is_tried_again_and_a_final_one_is_not(upstream):
    upstream.answers["/v1/models"] = [(429, BUSY), (503, {}), (200, MODELS)]
    settings = Settings.model_validate(
        {"upstream": str(upstream.make_url("/")), "keys": [{"id": "a", "secret": "sk-secret-of-a"}]}
    )
    assert (await checked(settings))["a"].answer == "valid"
    assert len(upstream.seen) == 3
    upstream.answers["/v1/models"] = [(401, INVALID)]
    assert not (await checked(settings))["a"].ok
    assert len(upstream.seen) == 4


@pytest.mark.parametrize(
    ("status", "document"),
    [
        (200, "<html>Please log in</html>"),
        (200, {}),
        (200, {"object": "list", "data": [{"name": "gpt-4o"}]}),
        (200, [{"id": "gpt-4o"}]),
        (302, {"object": "list", "data": []}),
        (204, None),
    ],
)
async def test_what_is_no_list_of_models_proves_nothing_and_is_not_asked_again(upstream, status, document):
    upstream.answers["/v1/models"] = [(status, document)]
    settings = Settings.model_validate(
        {"upstream": str(upstream.make_url("/")), "keys": [{"id": "a", "secret": "sk-secret-of-a"}]}
    )
    found = (await checked(settings))["a"]
    assert (found.ok, found.answer) == (False, "cannot tell: this is not OpenAI's API")
    assert (found.kind, found.reason) == ("egress", f"http_{status}")
    assert len(upstream.seen) == 1


@pytest.mark.parametrize(
    ("status", "document", "is_known"),
    [
        (200, MODELS, True),
        (401, INVALID, True),
        (429, BUSY, True),
        (503, {}, False),
        (404, {"error": {"message": "no such path"}}, False),
        (407, "a forward proxy wants a login", False),
        (200, "<html>Please log in</html>", False),
    ],
)
async def test_an_answer_that_is_not_about_the_key_says_nothing_of_it(upstream, status, document, is_known):
    upstream.answers["/v1/models"] = [(status, document)]
    settings = Settings.model_validate(
        {"upstream": str(upstream.make_url("/")), "keys": [{"id": "a", "secret": "sk-secret-of-a"}]}
    )
    assert (await checked(settings))["a"].is_known is is_known


async def test_a_list_of_models_is_valid_whatever_else_it_has(upstream):
    listed = {
        "object": "list",
        "first_id": "x",
        "data": [{"id": "gpt-4o", "object": "model", "created": 1, "more": {}}],
    }
    upstream.answers["/v1/models"] = [(200, listed)]
    settings = Settings.model_validate(
        {"upstream": str(upstream.make_url("/")), "keys": [{"id": "a", "secret": "sk-secret-of-a"}]}
    )
    found = (await checked(settings))["a"]
    assert (found.ok, found.answer) == (True, "valid")


async def test_without_an_answer_a_key_is_neither_valid_nor_dead(unused_tcp_port, monkeypatch):
    monkeypatch.setattr("quotapool.keys.check._PAUSE_S", 0.0)
    settings = Settings.model_validate(
        {"upstream": f"http://127.0.0.1:{unused_tcp_port}", "keys": [{"id": "a", "secret": "sk-secret-of-a"}]}
    )
    found = (await checked(settings))["a"]
    assert (found.ok, found.answer, found.kind, found.reason) == (False, "no answer", "", "no answer")
    assert not found.is_known
