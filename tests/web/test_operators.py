"""The operators' listener: three open pages for machines, everything else for holders of the token."""

from __future__ import annotations

import asyncio

import pytest

from proxy.web.operators import operators_app

TOKEN = "0123456789abcdef"


@pytest.fixture
async def operators(aiohttp_client):
    state = {"why_not": ""}

    async def metrics():
        return b"quotapool_up 1\n", "text/plain; version=0.0.4; charset=utf-8"

    async def keys():
        return [{"id": "a1", "state": "active"}]

    app = operators_app(token=TOKEN, metrics=metrics, ready=lambda: state["why_not"], keys=keys)
    client = await aiohttp_client(app)
    client.state = state
    return client


async def test_machines_need_no_token(operators):
    answer = await operators.get("/metrics")
    assert (answer.status, await answer.read()) == (200, b"quotapool_up 1\n")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert (await operators.get("/healthz")).status == 200
    assert (await operators.get("/readyz")).status == 200


async def test_not_ready_says_why(operators):
    operators.state["why_not"] = "draining"
    answer = await operators.get("/readyz")
    assert (answer.status, await answer.text()) == (503, "draining\n")
    assert (await operators.get("/healthz")).status == 200


@pytest.mark.parametrize(
    "sent",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
    ],
)
@pytest.mark.parametrize("path", ["/admin/keys", "/admin/nothing", "/"])
async def test_everything_else_needs_the_token_even_what_is_not_there(operators, path, sent):
    answer = await operators.get(path, headers=sent)
    assert answer.status == 401


async def test_any_bytes_may_come_as_a_token(operators):
    reader, writer = await asyncio.open_connection(operators.host, operators.port)
    writer.write(b"GET /admin/keys HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\n\r\n")
    assert (await reader.readline()).split()[1] == b"401"
    writer.close()


async def test_the_token_opens_it(operators):
    answer = await operators.get("/admin/keys", headers={"Authorization": f"Bearer {TOKEN}"})
    assert (answer.status, (await answer.json())["keys"][0]["id"]) == (200, "a1")
