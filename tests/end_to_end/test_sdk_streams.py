"""A stream through the proxy is, byte for byte, the stream that upstream would have sent to the client itself."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI

from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.fakes.running import RawAnswer, Wire, chat_body, post_json, running_proxy, running_simulator

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
WITH_USAGE = {"stream_options": {"include_usage": True}}
CASES = {
    "chat": ("/v1/chat/completions", {}),
    "chat with options that do not ask": ("/v1/chat/completions", {"stream_options": {"include_obfuscation": False}}),
    "chat that says no": ("/v1/chat/completions", {"stream_options": {"include_usage": False}}),
    "chat with options of null": ("/v1/chat/completions", {"stream_options": None}),
    "several choices": ("/v1/chat/completions", {"n": 2}),
    "a tool": ("/v1/chat/completions", {"tools": [TOOL]}),
    "chat with usage": ("/v1/chat/completions", WITH_USAGE),
    "completions": ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "hello"}),
    "completions with usage": ("/v1/completions", {"model": "gpt-3.5-turbo-instruct", "prompt": "hi", **WITH_USAGE}),
    "responses": ("/v1/responses", {"input": "hello"}),
    # Words that look like what the proxy takes out, in the prompt and so (by its checksum) in nothing else.
    "a prompt about usage": ("/v1/chat/completions", {"messages": [{"role": "user", "content": '"usage":null'}]}),
}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(2, "--tokens-per-second", "400") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    with running_proxy(tmp_path_factory.mktemp("streams"), pool_config(simulator)) as running:
        yield running


def events(answer: RawAnswer) -> list[bytes]:
    """The stream's events; ids and times of creation, which differ from request to request, made equal."""
    assert answer.status == 200, answer.body
    same = re.sub(rb'"((?:chatcmpl-|cmpl-|resp_|msg_|rs_|fc_|call_)[0-9a-zA-Z_]+)"', b'"ID"', answer.body)
    same = re.sub(rb'"(created|created_at|completed_at)":\d+', rb'"\1":0', same)
    return re.split(rb"(?<=\n\n)", same)


def read_to_the_end(wire: Wire) -> None:
    while wire.chunk():
        pass


@pytest.mark.parametrize("case", CASES)
def test_the_clients_bytes_are_those_of_a_stream_that_was_never_touched(case, simulator, proxy):
    path, more = CASES[case]
    body = {**(chat_body() if "chat" in path else {"model": "gpt-4o-mini"}), "stream": True, **more}
    direct = post_json(simulator.url, path, body, {"Authorization": f"Bearer {simulator.secrets[0]}"})
    through = post_json(proxy.base_url, path, body)
    assert events(through) == events(direct)
    assert through.header("content-type") == direct.header("content-type")
    asked = bool((more.get("stream_options") or {}).get("include_usage"))
    if path != "/v1/responses":
        assert (b'"usage"' in through.body) == asked
        assert through.body.count(b'"total_tokens"') == asked


@pytest.mark.parametrize("case", ["chat", "completions", "responses"])
def test_the_proxy_knows_the_usage_that_the_client_did_not_ask_for(case, proxy):
    path, more = CASES[case]
    body = {**(chat_body() if "chat" in path else {"model": "gpt-4o-mini"}), "stream": True, **more}
    before = proxy.total("quotapool_tokens_total", kind="completion")
    post_json(proxy.base_url, path, body)
    wait_until(lambda: proxy.total("quotapool_tokens_total", kind="completion") == before + 32, "usage is counted", 15)


def test_events_reach_the_client_as_upstream_sends_them(proxy):
    # 32 tokens at 400 a second last 80 ms.
    with Wire(proxy.base_url) as wire:
        body = json.dumps(chat_body(stream=True)).encode()
        wire.request("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, body)
        assert wire.head()[0] == 200
        first = wire.chunk()
        began = time.monotonic()
        read_to_the_end(wire)
        took = time.monotonic() - began
    assert b"[DONE]" not in first
    assert took > 0.03


def test_an_error_under_http_200_at_the_start_of_a_stream_is_raised_as_what_it_is(simulator, tmp_path):
    config = pool_config(simulator, retry={"max_attempts": 2})
    with (
        running_proxy(tmp_path, config) as proxy,
        OpenAI(base_url=proxy.base_url, api_key="x", max_retries=0) as client,
    ):
        for key in (0, 1):
            simulator.fault(key, "stream_error", code="server_error")
        messages: Any = [{"role": "user", "content": "hello"}]
        with pytest.raises(openai.InternalServerError) as chat:
            list(client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True))
        with pytest.raises(openai.InternalServerError) as responses:
            list(client.responses.create(model="gpt-4o-mini", input="hello", stream=True))
        for raised in (chat.value, responses.value):
            assert raised.code == "server_error"
            assert raised.response.headers["content-type"] == "application/json"
            assert raised.response.headers.get_list("x-quotapool-source") == ["upstream"]
        # A limit that shows only within the stream is one key's affair: the other one answers, and the client never
        # hears of it.
        simulator.heal(0)
        simulator.fault(1, "stream_error", code="rate_limit_exceeded")
        for _ in range(4):
            chunks = list(client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True))
            assert chunks[-1].choices[0].finish_reason == "stop"
        simulator.heal(1)


def test_a_stream_that_breaks_off_upstream_breaks_off_for_the_client(simulator, proxy):
    for key in (0, 1):
        simulator.fault(key, "reset_mid_stream", events=6)
    try:
        with Wire(proxy.base_url) as wire:
            body = json.dumps(chat_body(stream=True)).encode()
            wire.request("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, body)
            assert wire.head()[0] == 200
            with pytest.raises((EOFError, ConnectionError)):
                read_to_the_end(wire)
        messages: Any = [{"role": "user", "content": "hello"}]
        with (
            OpenAI(base_url=proxy.base_url, api_key="x", max_retries=0) as client,
            pytest.raises(Exception, match=r"(?i)peer closed|connection|incomplete|reset"),
        ):
            list(client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True))
    finally:
        for key in (0, 1):
            simulator.heal(key)
