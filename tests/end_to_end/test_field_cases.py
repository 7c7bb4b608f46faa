"""What the field found, with real processes: one worker and four, with client keys and without, HTTP and WebSocket."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config

KEY = "a-client-key-of-sixteen"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


@pytest.fixture(params=[(1, False), (4, True)], ids=["one worker, anonymous", "four workers, client keys"])
def deployed(request, start_simulator, start_proxy):
    """(the simulated OpenAI with three accounts, a proxy before it, the client's headers)."""
    workers, keyed = request.param
    simulator = start_simulator(3)
    clients = {"clients": [{"id": "app", "key": KEY}]} if keyed else {}
    proxy = start_proxy(pool_config(simulator, workers=workers, **clients))
    return simulator, proxy, {"Authorization": f"Bearer {KEY}"} if keyed else {}


def ask(proxy: RunningProxy, headers: dict[str, str], **more: Any) -> int:
    return fetch(f"{proxy.base_url}/chat/completions", method="POST", body={**CHAT, **more}, headers=headers)[0]


def fault_all(simulator: Simulator, name: str, **options: Any) -> None:
    for key in range(3):
        simulator.fault(key, name, **options)


def test_a_model_that_each_account_refused_once_goes_on_serving_everybody(deployed):
    simulator, proxy, headers = deployed
    assert [ask(proxy, headers) for _ in range(12)] == [200] * 12
    fault_all(simulator, "model_not_found", count=1)
    first = ask(proxy, headers)
    assert first in {200, 403}  # the simulated OpenAI refuses a model of another project with 403
    assert [ask(proxy, headers) for _ in range(24)].count(200) >= 22  # at most what is left of the three refusals


def test_a_session_opens_although_each_account_refused_the_model_once(deployed):
    simulator, proxy, headers = deployed
    fault_all(simulator, "model_not_found", count=1)
    address = f"{proxy.base_url.replace('http', 'ws')}/realtime?model=gpt-realtime"
    results = [opens(address, headers) for _ in range(4)]
    assert results.count("open") >= 3
    assert set(results) <= {"open", "403"}  # the first may meet all three refusals


def opens(address: str, headers: dict[str, str]) -> str:
    try:
        with connect(address, additional_headers=headers, open_timeout=10):
            return "open"
    except InvalidStatus as refused:
        return str(refused.response.status_code)


THREAD = {"client_metadata": {"thread_id": "01a22309-0000-7000-8000-000000000000"}}  # Codex's own words


def respond(proxy: RunningProxy, headers: dict[str, str], **more: Any) -> tuple[int, dict[str, Any]]:
    body = {"model": "gpt-5.4", "input": "hello", **more}
    status, text = fetch(f"{proxy.base_url}/responses", method="POST", body=body, headers=headers)
    return status, json.loads(text)


def test_a_clients_own_words_for_a_thread_are_nobodys_object(deployed):
    _, proxy, headers = deployed
    answers = [respond(proxy, headers, store=False, **THREAD) for _ in range(12)]
    assert [status for status, _ in answers] == [200] * 12


def test_what_a_session_made_is_found_again_by_it_and_over_http_by_whichever_worker(deployed):
    _, proxy, headers = deployed
    address = f"{proxy.base_url.replace('http', 'ws')}/responses"
    with connect(address, additional_headers=headers, open_timeout=10) as session:
        made = create(session, store=True, **THREAD)
        made = create(session, store=True, previous_response_id=made, **THREAD)
    for _ in range(8):  # each on a connection of its own, so on any worker
        status, answer = respond(proxy, headers, previous_response_id=made)
        assert (status, answer.get("error")) == (200, None)


def create(session: ClientConnection, **more: Any) -> str:
    session.send(json.dumps({"type": "response.create", "model": "gpt-5.4", "input": "hello", **more}))
    while True:
        event = json.loads(session.recv(timeout=10))
        assert event["type"] != "error", event
        if event["type"] == "response.completed":
            return str(event["response"]["id"])


HOST = b"Host: 127.0.0.1\r\n"


@pytest.mark.parametrize(
    ("line", "more", "status"),
    [
        (b"GET /v1/models HTTP/2.0", HOST, 505),
        (b"GET /v1/models HTTP/0.9", HOST, 505),
        (b"GET /v1/models RTSP/1.0", HOST, 400),
        (b"GET /v1/models HTTP/1.1", HOST + b"Host: b\r\n", 400),
        (b"GET /v1/models#x HTTP/1.1", HOST, 400),
        (b"POST /v1/chat/completions HTTP/1.0", HOST + b"Transfer-Encoding: chunked\r\n", 400),
        (
            b"POST /v1/chat/completions HTTP/1.1",
            HOST + b"Content-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 2\r\n",
            400,
        ),
    ],
)
def test_what_two_servers_could_read_differently_is_refused(deployed, line, more, status):
    _, proxy, headers = deployed
    auth = b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items())
    assert raw(proxy, line + b"\r\n" + more + auth + b"\r\n{}").startswith(b"HTTP/1.1 %d " % status)


def test_two_requests_at_once_whose_last_body_comes_late_are_both_answered(deployed):
    _, proxy, headers = deployed
    body = json.dumps(CHAT).encode()
    lines = [*(f"{name}: {value}" for name, value in headers.items()), f"Content-Length: {len(body)}"]
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + HOST + "\r\n".join((*lines, "", "")).encode()
    got = raw(proxy, head + body + head[:-9], head[-9:], body[:5], body[5:], answers=2)
    assert got.count(b"HTTP/1.1 200 OK") == 2


def raw(proxy: RunningProxy, *pieces: bytes, answers: int = 1) -> bytes:
    """What comes back for these bytes, sent a moment apart, until so many answers are here."""
    port, got = int(proxy.config["listen"].rsplit(":", 1)[1]), b""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        for piece in pieces:
            client.sendall(piece)
            time.sleep(0.02)
        while got.count(b"HTTP/1.1 ") < answers and (piece := client.recv(65_536)):
            got += piece
    return got
