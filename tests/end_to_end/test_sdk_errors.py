"""Each failure becomes the exception class that the SDK's user already handles, and says what to do next."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.fakes.running import chat_body, post_json, reset, running_proxy, running_simulator, seen_upstream

HELLO: Any = [{"role": "user", "content": "hello"}]
CLIENT_KEY = "a-client-key-of-our-own"


@dataclass(frozen=True)
class Pools:
    """Proxies in front of one simulator. `healthy`, `limited`: 2 requests a minute, no waiting; `guarded`: client
    keys; `offline`: nobody listens upstream."""

    simulator: Simulator
    healthy: RunningProxy
    limited: RunningProxy
    guarded: RunningProxy
    offline: RunningProxy


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pools]:
    place: Path = tmp_path_factory.mktemp("errors")
    with contextlib.ExitStack() as stack:
        simulator = stack.enter_context(running_simulator(2))
        config = pool_config(simulator, retry={"max_attempts": 2})
        started = [
            stack.enter_context(running_proxy(place / name, {**config, **more}, wait=False))
            for name, more in {
                "healthy": {},
                "limited": {"limits": {"default": {"rpm": 2}}, "queue": {"max_wait": 0}, "keys": config["keys"][:1]},
                "guarded": {"clients": [{"id": "ours", "key": CLIENT_KEY}]},
                "offline": {"upstream": "http://127.0.0.1:9", "timeouts": {"connect": 1}},
            }.items()
        ]
        for proxy in started:
            wait_until(proxy.ready, "the proxy becomes ready")
        yield Pools(simulator, *started)


@pytest.fixture
def pool(pools: Pools) -> Iterator[Pools]:
    reset(pools.simulator)
    yield pools
    reset(pools.simulator)


def client_of(proxy: RunningProxy, **options: Any) -> OpenAI:
    return OpenAI(**{"base_url": proxy.base_url, "api_key": "anything", "max_retries": 0, **options})


def failure(call: Callable[[], Any], kind: type[openai.APIStatusError]) -> openai.APIStatusError:
    """The error that `call` raises, which must be exactly of this class. Every answer names itself."""
    with pytest.raises(openai.APIStatusError) as raised:
        call()
    assert type(raised.value) is kind
    assert raised.value.response.headers["x-quotapool-request-id"].startswith("qp-")
    return raised.value


def chat(client: OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**{"model": "gpt-4o-mini", "messages": HELLO, **more})


def test_upstreams_400_is_passed_on_as_it_is(pool):
    client = client_of(pool.healthy)
    body = {"model": "gpt-4o-mini"}
    error = failure(lambda: client.post("/chat/completions", body=body, cast_to=object), openai.BadRequestError)
    # The simulator's words, which are OpenAI's: code, type and the parameter that is meant.
    assert (error.code, error.type, error.param) == ("missing_required_parameter", "invalid_request_error", "messages")
    assert error.response.headers["x-quotapool-source"] == "upstream"
    assert error.request_id is not None
    assert error.request_id.startswith("req_")
    assert len(seen_upstream(pool.simulator)) == 1


@pytest.mark.parametrize("body", [b"{nope", b"", b'"text"', b"[]", b'{"model": "\xff"}'])
def test_what_is_no_json_object_is_400_and_never_goes_upstream(body, pool):
    answer = post_json(pool.healthy.base_url, "/v1/chat/completions", body)
    assert (answer.status, answer.error["code"]) == (400, "invalid_json")
    assert answer.header("x-quotapool-source") == "proxy"
    assert seen_upstream(pool.simulator) == []


def test_an_unknown_client_key_is_401(pool):
    error = failure(lambda: chat(client_of(pool.guarded, api_key="someone-elses")), openai.AuthenticationError)
    assert (error.code, error.type) == ("invalid_proxy_key", "invalid_request_error")
    assert error.response.headers["x-quotapool-source"] == "proxy"
    assert chat(client_of(pool.guarded, api_key=CLIENT_KEY)).usage


def test_an_openai_key_sent_to_the_proxy_is_401_and_says_what_is_wanted(pool):
    error = failure(lambda: chat(client_of(pool.guarded, api_key="sk-proj-real")), openai.AuthenticationError)
    assert error.code == "openai_key_sent"
    assert "client key" in error.message
    assert "sk-proj-real" not in error.message


def test_a_country_that_openai_does_not_serve_is_403_and_no_key_is_hurt(pool):
    for key in (0, 1):
        pool.simulator.fault(key, "country")
    error = failure(lambda: chat(client_of(pool.healthy)), openai.PermissionDeniedError)
    assert (error.code, error.type) == ("unsupported_country_region_territory", "request_forbidden")
    assert error.response.headers["x-quotapool-source"] == "upstream"
    reset(pool.simulator)
    assert chat(client_of(pool.healthy)).usage


def test_organization_paths_are_403_by_the_proxy(pool):
    error = failure(lambda: client_of(pool.healthy).get("/organization/usage", cast_to=object),
                    openai.PermissionDeniedError)  # fmt: skip
    assert (error.code, error.response.headers["x-quotapool-source"]) == ("path_not_allowed", "proxy")


def test_a_model_that_nobody_has_is_404_from_upstream(pool):
    error = failure(lambda: chat(client_of(pool.healthy), model="no-such-one"), openai.NotFoundError)
    assert (error.code, error.response.headers["x-quotapool-source"]) == ("model_not_found", "upstream")


@pytest.mark.parametrize("wrong", ["", "/v1/v1", "/api/v1"])
def test_a_wrong_base_url_is_404_and_names_the_right_one(wrong, pool):
    url = pool.healthy.base_url.removesuffix("/v1") + wrong
    error = failure(lambda: chat(client_of(pool.healthy, base_url=url)), openai.NotFoundError)
    assert error.code == "path_not_found"
    assert "base_url" in error.message
    assert f" {pool.healthy.base_url}." in error.message
    assert seen_upstream(pool.simulator) == []


def test_the_pools_own_429_says_when_to_come_back(pool):
    client = client_of(pool.limited)
    failed = failure(lambda: [chat(client) for _ in range(3)], openai.RateLimitError)
    assert (failed.code, failed.type) == ("rate_limit_exceeded", "requests")
    headers = failed.response.headers
    # 2 requests a minute: the next one is due at most 30 s after the last.
    assert 1 <= int(headers["retry-after"]) <= 30
    assert 0 < int(headers["retry-after-ms"]) <= 30_000
    assert int(headers["retry-after"]) - 1 < int(headers["retry-after-ms"]) / 1000 <= int(headers["retry-after"])
    assert headers["x-should-retry"] == "true"
    assert headers["x-quotapool-source"] == "proxy"


def test_a_pool_without_money_is_429_and_not_to_be_retried(pool, tmp_path):
    for key in (0, 1):
        pool.simulator.fault(key, "insufficient_quota")
    with running_proxy(tmp_path, pool_config(pool.simulator)) as proxy:
        error = failure(lambda: chat(client_of(proxy, max_retries=2)), openai.RateLimitError)
        assert (error.code, error.type) == ("pool_credit_exhausted", "insufficient_quota")
        assert error.response.headers["x-should-retry"] == "false"
        # Each key was asked once, and the SDK did not try again.
        assert len(seen_upstream(pool.simulator)) == 2


def test_a_pool_of_dead_keys_is_503_and_not_to_be_retried(pool, tmp_path):
    pool.simulator.fault(0, "invalid_api_key")
    pool.simulator.fault(1, "account_deactivated")
    with running_proxy(tmp_path, pool_config(pool.simulator)) as proxy:
        error = failure(lambda: chat(client_of(proxy, max_retries=2)), openai.InternalServerError)
        assert (error.status_code, error.code) == (503, "pool_no_usable_keys")
        assert error.response.headers["x-should-retry"] == "false"
        assert len(seen_upstream(pool.simulator)) == 2


def test_upstreams_500_is_passed_on_when_retries_are_used_up(pool):
    for key in (0, 1):
        pool.simulator.fault(key, "error_500")
    error = failure(lambda: chat(client_of(pool.healthy, max_retries=2)), openai.InternalServerError)
    assert (error.status_code, error.type) == (500, "server_error")
    headers = error.response.headers
    assert headers["x-quotapool-source"] == "upstream"
    assert headers["x-request-id"].startswith("req_")
    # The proxy has tried twice. "false" keeps the SDK from making that six times.
    assert headers["x-should-retry"] == "false"
    assert len(seen_upstream(pool.simulator)) == 2


def test_one_bad_moment_upstream_is_never_seen_by_the_client(pool):
    for key in (0, 1):
        pool.simulator.fault(key, "error_500", count=1)
    for _ in range(2):
        with contextlib.suppress(openai.InternalServerError):
            chat(client_of(pool.healthy))
    pool.simulator.fault(0, "reset", count=1)
    for _ in range(4):
        assert chat(client_of(pool.healthy)).usage


def test_an_upstream_that_cannot_be_reached_is_502_by_the_proxy(pool):
    error = failure(lambda: chat(client_of(pool.offline)), openai.InternalServerError)
    assert (error.status_code, error.code) == (502, "upstream_unreachable")
    assert error.response.headers["x-quotapool-source"] == "proxy"


async def test_the_asynchronous_client_raises_the_same_classes(pool):
    for key in (0, 1):
        pool.simulator.fault(key, "error_500")
    async with AsyncOpenAI(base_url=pool.healthy.base_url, api_key="x", max_retries=0) as client:
        with pytest.raises(openai.InternalServerError):
            await client.chat.completions.create(model="gpt-4o-mini", messages=HELLO)
        with pytest.raises(openai.BadRequestError):
            await client.responses.create(model="gpt-4o-mini")
        with pytest.raises(openai.NotFoundError):
            await client.embeddings.create(model="no-such-embedding", input="hello")


def test_the_sdks_own_retry_comes_when_there_is_room(pool, tmp_path):
    config = pool_config(pool.simulator, limits={"default": {"rpm": 120}}, queue={"max_wait": 0})
    config["keys"] = config["keys"][:1]
    with running_proxy(tmp_path, config) as proxy, client_of(proxy, max_retries=2) as client:
        for _ in range(200):
            if post_json(proxy.base_url, "/v1/chat/completions", chat_body()).status == 429:
                break
        began = time.monotonic()
        assert chat(client).usage
        # 120 a minute are one each 0.5 s.
        assert time.monotonic() - began < 5
        assert proxy.total("quotapool_requests_total", status="429") >= 2


def test_an_error_is_told_with_one_id_everywhere(pool):
    answer = post_json(pool.healthy.base_url, "/v1/chat/completions", chat_body(model="no-such-model"))
    ours = answer.header("x-quotapool-request-id")
    wait_until(lambda: ours in pool.healthy.log(), "the request's line", 15)
    line = next(line for line in pool.healthy.request_lines() if line["request_id"] == ours)
    assert (line["status"], line["endpoint"]) == (404, "chat")
    assert json.loads(answer.body)["error"]["code"] == "model_not_found"
