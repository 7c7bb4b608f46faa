"""Pages of allowed origins can read every answer, also a refusal; other pages none; and no preflight costs anything."""

from __future__ import annotations

import hashlib

import pytest
from quotapool.web.cors import Cors

from tests.fakes.wire import parse_head, post

APP = "https://app.example.com"
CHAT = b'{"model": "gpt-4o", "messages": []}'
KEY = "a-client-key-of-some-length"


@pytest.fixture
def open_to(wire):
    """Lets pages of these origins in, without client keys or with one."""

    def configure(*origins: str, keys: bool = False) -> None:
        clients = {hashlib.sha256(KEY.encode()).hexdigest(): "app"} if keys else {}
        wire.house.auth.configure(clients=clients, hosts=(), origins=origins, allow_anonymous=False)
        wire.handler.cors = Cors(origins)

    return configure


def fields(head: bytes) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in parse_head(head)[1]:
        found.setdefault(name.lower(), []).append(value)
    return found


def status(head: bytes) -> int:
    return int(head.split()[1])


def preflight(origin: str, *more: str) -> bytes:
    lines = ["OPTIONS /v1/chat/completions HTTP/1.1", "Host: localhost", f"Origin: {origin}",
             "Access-Control-Request-Method: POST", *more, "", ""]  # fmt: skip
    return "\r\n".join(lines).encode()


async def test_a_preflight_is_answered_here_and_touches_neither_upstream_nor_budgets(wire, open_to):
    open_to(APP, keys=True)  # a browser sends no key with it
    asked = "Access-Control-Request-Headers: authorization,content-type,x-stainless-lang"
    head, _ = await wire.ask(preflight(APP, asked, "Access-Control-Request-Private-Network: true"))
    got = fields(head)
    assert status(head) == 204
    assert got["access-control-allow-origin"] == [APP]
    assert got["access-control-allow-headers"] == ["authorization,content-type,x-stainless-lang"]
    assert "POST" in got["access-control-allow-methods"][0]
    assert got["access-control-allow-private-network"] == ["true"]
    assert int(got["access-control-max-age"][0]) > 0
    assert got["vary"][0].startswith("Origin")
    assert "access-control-allow-credentials" not in got
    assert wire.upstream.requests == []
    assert wire.house.grants.granted == []


async def test_private_networks_are_only_spoken_of_when_asked_for(wire, open_to):
    open_to(APP)
    head, _ = await wire.ask(preflight(APP))
    assert "access-control-allow-private-network" not in fields(head)


async def test_a_preflight_of_another_origin_is_refused_and_never_goes_upstream(wire, open_to):
    open_to(APP, keys=True)
    head, body = await wire.ask(preflight("https://evil.example"))
    assert status(head) == 403
    assert b"origin_not_allowed" in body
    assert "access-control-allow-origin" not in fields(head)
    assert wire.upstream.requests == []


async def test_options_that_no_browser_asked_passes_upstream(wire, open_to):
    open_to(APP)
    wire.upstream.answer = b"HTTP/1.1 204 No Content\r\n\r\n"
    head, _ = await wire.ask(b"OPTIONS /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status(head) == 204
    assert wire.upstream.requests[0].startswith(b"OPTIONS /v1/models ")


async def test_an_answer_to_an_allowed_page_can_be_read_with_its_headers(wire, open_to):
    open_to(APP)
    wire.upstream.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nAccess-Control-Allow-Origin: https://elsewhere.example\r\n"
        b"Access-Control-Expose-Headers: X-Request-ID\r\nVary: Accept-Encoding\r\nContent-Length: 2\r\n\r\n{}"
    )
    head, _ = await wire.ask(post(CHAT, f"Origin: {APP}"))
    got = fields(head)
    assert got["access-control-allow-origin"] == [APP]  # ours, not upstream's
    assert got["vary"] == ["Accept-Encoding", "Origin"]
    exposed = set(got["access-control-expose-headers"][0].split(", "))
    wanted = {"retry-after", "retry-after-ms", "x-should-retry", "x-request-id", "x-quotapool-request-id"}
    wanted |= {"x-quotapool-source", "x-quotapool-cache", "x-quotapool-cache-items", "age"}
    assert wanted | {"x-ratelimit-remaining-tokens", "x-ratelimit-reset-requests"} <= exposed
    assert len(got["access-control-expose-headers"]) == 1


async def test_a_page_can_read_why_it_was_refused(wire, open_to):
    open_to(APP, keys=True)
    for request, code in (
        (post(CHAT, f"Origin: {APP}"), 401),
        (post(b"{nope", f"Origin: {APP}", f"Authorization: Bearer {KEY}"), 400),
        (b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + KEY.encode()
         + b"\r\nOrigin: " + APP.encode() + b"\r\n\r\n", 404),
    ):  # fmt: skip
        head, _ = await wire.ask(request)
        assert status(head) == code
        assert fields(head)["access-control-allow-origin"] == [APP]
        assert "Origin" in fields(head)["vary"]
    assert wire.upstream.requests == []


async def test_a_429_and_a_503_can_be_read_too(wire, open_to):
    open_to(APP)
    wire.upstream.answer = (
        b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: 26\r\n\r\n"
        b'{"error":{"message":"no"}}'
    )
    head, _ = await wire.ask(post(CHAT, f"Origin: {APP}"))
    assert (status(head), fields(head)["access-control-allow-origin"]) == (400, [APP])
    huge = b'{"model": "gpt-4o", "max_tokens": 999999999999, "messages": []}'
    head, body = await wire.ask(post(huge, f"Origin: {APP}"))
    assert (status(head), fields(head)["access-control-allow-origin"]) == (429, [APP])
    assert b"request_too_large_for_pool" in body


async def test_a_page_of_another_origin_reads_nothing_even_with_a_key(wire, open_to):
    open_to(APP, keys=True)
    wire.upstream.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Access-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\n{}"
    )
    head, _ = await wire.ask(post(CHAT, "Origin: https://other.example", f"Authorization: Bearer {KEY}"))
    assert status(head) == 200
    assert not [name for name in fields(head) if name.startswith("access-control-")]


async def test_without_an_origin_nothing_is_added_and_nothing_taken(wire):
    wire.upstream.answer = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nAccess-Control-Expose-Headers: X-Request-ID\r\n"
        b"Content-Length: 2\r\n\r\n{}"
    )
    head, _ = await wire.ask(post(CHAT))
    got = fields(head)
    assert got["access-control-expose-headers"] == ["X-Request-ID"]
    assert "vary" not in got
