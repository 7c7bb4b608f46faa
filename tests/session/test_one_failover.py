"""What upstream answers means the same to a request and to a session: the client gets the same, and the pool learns the
same. Each promise is tried over HTTP and over a WebSocket."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from tests.fakes.edge import chat_body
from tests.fakes.sessions import Hall, Refused
from tests.fakes.wire import RawClient, post

MODEL = "gpt-realtime"
SESSION = f"/v1/realtime?model={MODEL}"
PAGE = b"<html><body>Access denied by policy</body></html>"


def answer(status: int, body: bytes, content_type: str = "application/json") -> bytes:
    fields = f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close"
    return f"HTTP/1.1 {status} X\r\n{fields}\r\n\r\n".encode() + body


def refusal(status: int, code: str, kind: str = "invalid_request_error") -> bytes:
    error = {"message": f"This is {code}.", "type": kind, "param": None, "code": code}
    return answer(status, json.dumps({"error": error}).encode())


@dataclass
class Seen:
    """What a client got."""

    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def code(self) -> Any:
        return json.loads(self.body)["error"]["code"]


async def over_http(hall: Hall) -> Seen:
    client = await RawClient.to(hall.port)
    await client.send(post(chat_body(MODEL)))
    head, body = await client.answer()
    client.close()
    first, *lines = head.decode().split("\r\n")[:-2]
    fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return Seen(int(first.split()[1]), fields, body)


async def over_websocket(hall: Hall) -> Seen:
    try:
        await hall.connect(SESSION)
    except Refused as refused:
        return Seen(refused.status, {name.lower(): value for name, value in refused.fields}, refused.body)
    return Seen(101, {}, b"")


@pytest.fixture(params=[over_http, over_websocket], ids=["http", "websocket"])
def ask(request):
    return request.param


def accounts_asked(hall: Hall) -> list[str]:
    """In order, by the key that upstream saw."""
    by_secret = {f"Bearer {secret}": hall.house.account_of(key) for key, secret in hall.house.secrets.items()}
    return [by_secret[dict(fields)["Authorization"]] for _, fields in hall.upstream.requests]


async def test_a_gateways_page_is_not_shown_to_the_client_and_one_other_account_is_asked(open_hall, ask):
    hall = await open_hall({"a": 1, "b": 1, "c": 1})
    hall.upstream.refusals = [answer(403, PAGE, "text/html")] * 3
    seen = await ask(hall)
    assert (seen.status, seen.code) == (502, "egress_refused")
    assert seen.fields["x-quotapool-source"] == "proxy"
    assert len(set(accounts_asked(hall))) == len(accounts_asked(hall)) == 2


async def test_an_account_without_the_model_is_remembered(open_hall, ask):
    hall = await open_hall({"a": 1, "b": 1})
    hall.upstream.refusals = [refusal(404, "model_not_found"), *[refusal(400, "invalid_value")] * 9]
    for _ in range(9):
        seen = await ask(hall)
        assert (seen.status, seen.code) == (400, "invalid_value")
    first, *rest = accounts_asked(hall)
    assert set(rest) == {"a", "b"} - {first}


async def test_after_the_proxys_retries_the_client_is_asked_not_to_retry(open_hall, ask):
    hall = await open_hall({"a": 1}, retry={"max_attempts": 3})
    hall.upstream.refusals = [refusal(503, "server_is_overloaded", "server_error")] * 3
    seen = await ask(hall)
    assert (seen.status, seen.code) == (503, "server_is_overloaded")
    assert seen.fields["x-should-retry"] == "false"
    assert len(hall.upstream.requests) == 3


async def test_an_account_out_of_credit_is_quarantined_and_the_next_one_asked(open_hall, ask):
    hall = await open_hall({"a": 1, "b": 1})
    hall.upstream.refusals = [
        refusal(429, "insufficient_quota", "insufficient_quota"),
        refusal(400, "invalid_value"),
    ]
    seen = await ask(hall)
    assert seen.code == "invalid_value"
    first, second = accounts_asked(hall)
    assert {first, second} == {"a", "b"}
    assert list(await hall.house.states()) == [f"a/{first}"]
