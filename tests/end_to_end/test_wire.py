"""What crosses the proxy as bytes: uploads, unknown paths, methods, large bodies; and what must never cross it."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config
from tests.fakes.running import Wire, chat_body, post_json, raw, reset, running_proxy, running_simulator, seen_upstream

MIB = 2**20
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(2) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    config = pool_config(simulator, max_json_body="4MiB")
    with running_proxy(tmp_path_factory.mktemp("wire"), config) as running:
        yield running


@pytest.fixture(autouse=True)
def empty_log(simulator: Simulator) -> None:
    reset(simulator)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ---- bytes


def test_an_upload_passes_byte_for_byte(proxy, simulator):
    content = random.Random(1).randbytes(3 * MIB)
    with OpenAI(base_url=proxy.base_url, api_key="x", max_retries=0) as client:
        client.files.create(file=("numbers.bin", io.BytesIO(content)), purpose="user_data")
    body = b"--b\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n" + content + b"\r\n--b--\r\n"
    raw(proxy.base_url, "POST", "/v1/files", {"Content-Type": "multipart/form-data; boundary=b"}, body)
    by_sdk, by_hand = seen_upstream(simulator)
    assert by_hand["body_sha256"] == sha256(body)
    assert by_sdk["body_bytes"] > len(content)
    assert ["Content-Type", "multipart/form-data; boundary=b"] in by_hand["headers"]


def test_a_chunked_upload_of_unknown_length_passes_byte_for_byte(proxy, simulator):
    pieces = [random.Random(n).randbytes(10_000 + n) for n in range(20)]
    with Wire(proxy.base_url) as wire:
        headers = {"Content-Type": "multipart/form-data; boundary=b", "Transfer-Encoding": "chunked"}
        wire.request("POST", "/v1/things/uploads", headers)
        for piece in pieces:
            wire.send(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
        wire.send(b"0\r\n\r\n")
        assert wire.answer().status == 200
    assert seen_upstream(simulator)[0]["body_sha256"] == sha256(b"".join(pieces))


@pytest.mark.parametrize("target", [
    "/v1/things/not/known?b=2&a=1&a=%20x",
    "/v1/things/thing-%41bc/content",
    "/v1/things/x/search?q=%E2%82%AC",
    "/v1/models/ft:gpt-4o:acme::abc",
])  # fmt: skip
def test_a_path_that_nobody_knows_passes_letter_by_letter(target, proxy, simulator):
    body = b'{"any": [1, 2, 3]}  '
    answer = raw(proxy.base_url, "POST", target, JSON, body)
    assert answer.status == 200
    seen = seen_upstream(simulator)[0]
    assert (seen["method"], seen["path"], seen["body_sha256"]) == ("POST", target, sha256(body))


@pytest.mark.parametrize("method", ["GET", "DELETE", "PATCH", "PUT", "OPTIONS"])
def test_each_method_arrives_as_itself(method, proxy, simulator):
    answer = raw(proxy.base_url, method, "/v1/things/thing_1")
    assert (answer.status, answer.json()["method"]) == (200, method)
    assert seen_upstream(simulator)[0]["body_bytes"] == 0


def test_head_has_the_headers_and_no_body_and_the_connection_goes_on(proxy):
    with Wire(proxy.base_url) as wire:
        wire.request("HEAD", "/v1/models")
        assert wire.answer(headless=True).status == 200
        wire.request("GET", "/v1/models")
        assert wire.answer().json()["object"] == "list"


def test_trace_is_refused_since_it_would_echo_the_key(proxy, simulator):
    answer = raw(proxy.base_url, "TRACE", "/v1/models")
    assert (answer.status, answer.error["code"]) == (405, "method_not_allowed")
    assert seen_upstream(simulator) == []


@pytest.mark.parametrize(("target", "kind"), [
    ("/v1/chat/completions", "application/json"),
    ("/v1/files", "multipart/form-data; boundary=b"),
])  # fmt: skip
def test_who_asks_whether_to_continue_is_told_so(target, kind, proxy, simulator):
    body = json.dumps(chat_body()).encode()
    with Wire(proxy.base_url) as wire:
        headers = {"Content-Type": kind, "Content-Length": str(len(body)), "Expect": "100-continue"}
        wire.request("POST", target, headers)
        assert wire.head()[0] == 100
        wire.send(body)
        assert wire.answer().status == 200
    seen = seen_upstream(simulator)[0]
    assert seen["body_bytes"] >= len(body)
    assert "expect" not in {name.lower() for name, _ in seen["headers"]}


def test_who_asks_whether_to_continue_is_refused_before_the_body_is_sent(proxy, simulator):
    with Wire(proxy.base_url) as wire:
        headers = {**JSON, "Content-Length": str(5 * MIB), "Expect": "100-continue"}
        wire.request("POST", "/v1/chat/completions", headers)
        assert wire.head()[0] == 413
    assert seen_upstream(simulator) == []


def test_two_mebibytes_of_json_are_served(proxy, simulator):
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 2 * MIB}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "what is this?"}, image]}]
    answer = post_json(proxy.base_url, "/v1/chat/completions", chat_body(messages=messages))
    assert answer.status == 200
    assert seen_upstream(simulator)[0]["body_bytes"] > 2 * MIB


@pytest.mark.parametrize("announced", [True, False])
def test_more_json_than_allowed_is_413_and_never_goes_upstream(announced, proxy, simulator):
    body = json.dumps(chat_body(user="x" * 5 * MIB)).encode()
    with Wire(proxy.base_url) as wire:
        if announced:
            wire.request("POST", "/v1/chat/completions", JSON, body)
        else:
            framed = f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
            wire.request("POST", "/v1/chat/completions", {**JSON, "Transfer-Encoding": "chunked"}, framed)
        answer = wire.answer()
    assert (answer.status, answer.error["code"]) == (413, "body_too_large")
    assert str(4 * MIB) in answer.error["message"]
    assert seen_upstream(simulator) == []


def test_one_connection_serves_good_and_bad_requests_in_turn(proxy):
    with Wire(proxy.base_url) as wire:
        for _ in range(3):
            body = json.dumps(chat_body()).encode()
            wire.request("POST", "/v1/chat/completions", JSON, body)
            assert wire.answer().status == 200
            wire.request("POST", "/v1/chat/completions", JSON, b"{nope")
            assert wire.answer().status == 400
            wire.request("GET", "/nowhere")
            assert wire.answer().status == 404


def test_what_is_not_http_gets_an_answer_in_openais_shape_that_repeats_nothing(proxy, simulator):
    for broken in (
        b"GET /v1/models?my-secret-word HTTP/9.x\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\nmy-secret-word here : a\r\n\r\n",
        b"GET /v1/models HTTP/1.1\r\nHost: x\r\napi-key: my-secret-word" + b"c" * 70_000 + b"\r\n\r\n",
        b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nmy-secret-word\r\n",
    ):
        with Wire(proxy.base_url) as wire:
            wire.send(broken)
            answer = wire.answer()
        assert (answer.status, answer.error["code"]) == (400, "invalid_http")
        assert b"my-secret-word" not in answer.body
    assert "my-secret-word" not in proxy.log()
    assert "Traceback" not in proxy.log()


# ---- what never crosses


SPELLINGS = [
    "/v1/organization/usage/completions",
    "/v1/organization/admin_api_keys",
    "/v1/ORGANIZATION/projects",
    "/v1/organization",
    "/v1//organization/users",
    "/v1/./organization/users",
    "/v1/models/../organization/users",
    "/v1/models/%2e%2e/organization/users",
    "/v1/%6frganization/users",
    "/v1/%256frganization/users",
    "/v1%2forganization/users",
    "/v1/organization%2fusers",
    "/v1/models/..%2forganization/users",
    "/v1/models%5c..%5corganization",
    "/v1\\organization\\users",
    "/v1/organization;x=1/users",
    "/v1/v1/organization/users",
    "/organization/users",
    "//v1/organization/users",
    "/v1/organization?x=/v1/models",
    "/v1/models/../../v1/organization",
    "/v1/dashboard/billing/subscription",
    "/v1/Dashboard/billing/credit_grants",
    "/dashboard/billing/usage",
    "/v1/organizations",
]


@pytest.mark.parametrize("target", SPELLINGS)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_organizations_affairs_never_reach_upstream(method, target, proxy, simulator):
    answer = raw(proxy.base_url, method, target, JSON, b"{}" if method == "POST" else b"")
    assert answer.status in {403, 404}
    assert answer.error["code"] in {"path_not_allowed", "path_not_found"}
    assert seen_upstream(simulator) == []


def test_a_full_url_as_target_leads_nowhere_else(proxy, simulator):
    for target in ("http://example.org/v1/models", "http://example.org/v1/organization/users"):
        assert raw(proxy.base_url, "GET", target).status in {400, 403, 404}
    assert seen_upstream(simulator) == []


CLIENTS_OWN = {
    "Authorization": "Bearer the-clients-own-token",
    "api-key": "the-clients-own-azure-key",
    "OpenAI-Organization": "org-of-the-client",
    "OpenAI-Project": "proj_of_the_client",
    "Cookie": "session=of-the-client",
    "Proxy-Authorization": "Basic of-the-client",
    "Sec-WebSocket-Protocol": "realtime, openai-insecure-api-key.of-the-client",
    "X-Quotapool-Anything": "of-the-client",
    "Connection": "close, X-Hop",
    "X-Hop": "of-the-client",
    "TE": "trailers",
    "Forwarded": "for=192.0.2.1",
}


def test_the_clients_own_credentials_never_reach_upstream_and_other_headers_do(proxy, simulator):
    with Wire(proxy.base_url) as wire:
        body = json.dumps(chat_body()).encode()
        sent = {**JSON, **CLIENTS_OWN, "OpenAI-Beta": "assistants=v2", "X-Stainless-Lang": "python",
                "User-Agent": "OpenAI/Python", "Idempotency-Key": "once"}  # fmt: skip
        wire.request("POST", "/v1/chat/completions", sent, body)
        assert wire.answer().status == 200
    headers = {name.lower(): value for name, value in seen_upstream(simulator)[0]["headers"]}
    assert headers.pop("authorization") in {"Bearer <key 0>", "Bearer <key 1>"}
    assert not [value for value in headers.values() if "the-client" in value or "the_client" in value]
    assert {"cookie", "api-key", "te", "openai-organization", "openai-project"}.isdisjoint(headers)
    assert headers["host"] in simulator.url
    for name in ("OpenAI-Beta", "X-Stainless-Lang", "User-Agent", "Idempotency-Key"):
        assert headers[name.lower()] == sent[name]


def test_headers_given_twice_arrive_twice(proxy, simulator):
    with Wire(proxy.base_url) as wire:
        wire.send(f"GET /v1/things HTTP/1.1\r\nHost: {wire.host}\r\nX-Twice: a\r\nX-Twice: b\r\n\r\n".encode())
        assert wire.answer().status == 200
    assert [value for name, value in seen_upstream(simulator)[0]["headers"] if name == "X-Twice"] == ["a", "b"]


def test_the_operators_side_wants_its_token_for_all_that_holds_anything(proxy: RunningProxy) -> None:
    token = (proxy.state_dir / "admin-token").read_text().strip()
    for path in ("/metrics", "/healthz", "/readyz", "/", "/admin/login-methods"):
        assert fetch(proxy.admin_url + path)[0] == 200
    for path in ("/admin/keys", "/admin/stream", "/v1/models", "/metrics/", "//metrics"):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {token}"}):
            assert fetch(proxy.admin_url + path, headers=headers)[0] == 401, path
    status, text = fetch(proxy.admin_url + "/admin/keys", headers={"Authorization": f"Bearer {token}"})
    keys: list[dict[str, Any]] = json.loads(text)["keys"]
    assert (status, [key["id"] for key in keys]) == (200, ["key-0", "key-1"])
    assert "sk-sim" not in text
    assert Path(proxy.state_dir / "admin-token").stat().st_mode & 0o777 == 0o600
