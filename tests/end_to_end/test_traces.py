"""Traces of a running proxy, as a collector gets them: OpenTelemetry's own, where it is installed, and a receiver."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fakes.collector import Receiver, collecting, receiving
from tests.fakes.processes import fetch, pool_config, wait_until
from tests.fakes.running import Wire

CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
KEPT = {"traceparent": f"00-{CALLER[0]}-{CALLER[1]}-01", "tracestate": "vendor=opaque"}
NOT_KEPT = {"traceparent": f"00-{CALLER[0]}-{CALLER[1]}-00"}
PROMPT, SECRET_HEADER = "a-prompt-that-nobody-may-see", "Bearer a-token-of-the-collector"
CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": PROMPT}]}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as running:
        yield running


@pytest.fixture(params=["a receiver", "OpenTelemetry's collector"])
def endpoint(request, receiver: Receiver, program: Callable[[str], str], tmp_path: Path) -> Iterator[str]:
    """Where the proxy sends; what arrives there ends up at the receiver."""
    if request.param == "a receiver":
        yield receiver.url
        return
    with collecting(program("otelcol"), tmp_path, receiver) as url:
        yield url


def chat(proxy, headers=None, **more) -> int:
    return fetch(f"{proxy.base_url}/chat/completions", method="POST", body={**CHAT, **more}, headers=headers)[0]


def lines_of(proxy, number: int) -> list[dict[str, Any]]:
    """The log lines of so many requests, once they are written."""
    wait_until(lambda: len(proxy.request_lines()) >= number, f"{number} requests are logged", 10)
    return proxy.request_lines()


def read_all(wire: Wire) -> None:
    wire.head()
    while wire.chunk():
        pass


def test_the_trace_of_a_failed_over_queued_and_streamed_request(start_simulator, start_proxy, receiver, endpoint):
    """Each account takes one request in 3 s. Both are used up; the third request waits for the first account, which
    is out of money by then, and moves on to the second."""
    simulator = start_simulator(2, "--rpm", "0", "--tokens-per-second", "100", "--completion-tokens", "20")
    accounts = {f"key-{n}": {"rpm": 20, "burst": 3} for n in range(2)}
    proxy = start_proxy(pool_config(simulator, accounts=accounts, traces={"endpoint": endpoint, "ratio": 0}))
    assert chat(proxy) == 200
    time.sleep(0.5)
    assert chat(proxy) == 200
    first = lines_of(proxy, 2)[0]["attempts"][0]["key"]
    other = {"key-0": "key-1", "key-1": "key-0"}[first]
    simulator.fault(int(first[-1]), "insufficient_quota")
    assert chat(proxy, KEPT, stream=True, stream_options={"include_usage": True}) == 200
    wait_until(lambda: len(receiver.spans) >= 7, "the spans arrive", 15)
    print(receiver.tree())

    server = receiver.named("POST /v1/chat/completions")
    assert (server.trace, server.parent, server.kind, server.failed) == (*CALLER, "server", False)
    assert {span.trace for span in receiver.spans} == {CALLER[0]}
    assert receiver.roots() == [server]  # its parent is the caller's, and there is no other root
    assert server.attributes["http.response.status_code"] == 200
    assert server.attributes["quotapool.attempts"] == 2
    assert server.attributes["quotapool.waited_for"].startswith("rpm of gpt-4o-mini")

    failed, served = sorted((one for one in receiver.spans if one.kind == "client"), key=lambda one: one.start)
    assert (failed.name, served.name) == ("chat gpt-4o-mini", "chat gpt-4o-mini")
    assert (failed.attributes["quotapool.key"], served.attributes["quotapool.key"]) == (first, other)
    assert (failed.failed, failed.attributes["error.type"]) == (True, "insufficient_quota")
    assert failed.attributes["http.response.status_code"] == 429
    assert (served.failed, served.parent) == (False, server.id)
    host, _, port = simulator.url.removeprefix("http://").partition(":")
    assert (served.attributes["server.address"], served.attributes["server.port"]) == (host, int(port))
    assert served.attributes["gen_ai.provider.name"] == "openai"
    assert served.attributes["gen_ai.operation.name"] == "chat"
    assert served.attributes["gen_ai.request.stream"] is True
    assert served.attributes["gen_ai.response.model"].startswith("gpt-4o-mini")
    assert served.attributes["gen_ai.usage.output_tokens"] == 20
    assert served.attributes["gen_ai.usage.input_tokens"] > 0
    assert "gen_ai.usage.input_tokens" not in failed.attributes

    waits = [span for span in receiver.spans if span.name == "queue"]
    reserves = sorted((span for span in receiver.spans if span.name == "reserve"), key=lambda one: one.start)
    assert [one.attributes["quotapool.account"] for one in reserves] == [first, other]
    assert waits[0].parent == reserves[0].id
    assert waits[0].ms > 50
    relay = receiver.named("relay")
    assert relay.parent == served.id
    assert relay.ms >= 100  # 20 tokens of 100 a second
    assert server.start <= reserves[0].start <= waits[0].start <= failed.start <= failed.end <= reserves[1].start
    assert served.start <= relay.start <= relay.end <= served.end <= server.end

    line = lines_of(proxy, 3)[-1]
    assert (line["trace_id"], line["span_id"]) == (server.trace, server.id)
    wait_until(lambda: proxy.command("explain", line["request_id"]).returncode == 0, "it is kept")
    assert f"Trace: {server.trace}" in proxy.command("explain", line["request_id"]).stdout.splitlines()
    rows = [json.loads(row) for row in proxy.command("logs", "--json").stdout.splitlines()]
    assert [row["trace_id"] for row in rows] == ["", "", server.trace]
    assert server.resource["service.name"] == "quotapool"
    assert server.resource["service.instance.id"].endswith("/0")


def test_the_caller_decides_and_else_the_ratio(start_simulator, start_proxy, receiver):
    simulator = start_simulator(1)
    proxy = start_proxy(pool_config(simulator, traces={"endpoint": receiver.url, "ratio": 1}))
    assert chat(proxy, NOT_KEPT) == 200
    assert chat(proxy, {"traceparent": "00-not-a-trace-01"}) == 200
    assert chat(proxy) == 200
    wait_until(lambda: len(receiver.roots()) >= 2, "the spans arrive", 15)
    assert proxy.stop() == 0  # what waits is sent before it ends
    assert {span.trace for span in receiver.spans}.isdisjoint({CALLER[0]})
    assert [root.parent for root in receiver.roots()] == ["", ""]
    assert len({root.trace for root in receiver.roots()}) == 2
    lines = proxy.request_lines()
    assert "trace_id" not in lines[0]
    assert [line["trace_id"] for line in lines[1:]] == [root.trace for root in receiver.roots()]


def test_nothing_that_is_secret_leaves_with_a_span(start_simulator, start_proxy, receiver):
    simulator = start_simulator(1)
    client = {"id": "app", "key": "a-client-key-of-some-length"}
    traces = {"endpoint": receiver.url, "ratio": 1, "headers": {"Authorization": SECRET_HEADER}}
    proxy = start_proxy(pool_config(simulator, clients=[client], traces=traces))
    known = {"Authorization": f"Bearer {client['key']}", "X-Note": "a-header-of-the-client"}
    query = f"{proxy.base_url}/chat/completions?note=a-value-of-the-query"
    assert fetch(query, method="POST", body=CHAT, headers=known)[0] == 200
    leaked = {**CHAT, "model": simulator.secrets[0]}  # a key where the model's name belongs
    fetch(f"{proxy.base_url}/chat/completions", method="POST", body=leaked, headers=known)
    fetch(f"{proxy.base_url}/files/file-abc123", headers=known)
    assert chat(proxy, KEPT) == 401  # a stranger writes nothing into a trace
    proxy.stop()
    assert [header["authorization"] for header, _ in receiver.messages] == [SECRET_HEADER] * len(receiver.messages)
    sent = b"".join(body for _, body in receiver.messages)
    assert b"gpt-4o-mini" in sent
    assert bytes.fromhex(CALLER[0]) not in sent
    log = proxy.log()
    for secret in (PROMPT, client["key"], simulator.secrets[0], "a-value-of-the-query", "file-abc123"):
        assert secret.encode() not in sent
    for secret in ("a-header-of-the-client", "a-token-of-the-collector", "a-value-of-the-query"):
        assert secret not in log
        assert secret.encode() not in sent


@pytest.mark.parametrize("how", ["refused", "silent", "failing"])
def test_a_collector_that_is_away_harms_nothing(start_simulator, start_proxy, receiver, how):
    simulator = start_simulator(1)
    url = "http://127.0.0.1:9" if how == "refused" else receiver.url
    receiver.status = 500 if how == "failing" else 200
    if how == "silent":
        receiver.released.clear()
    proxy = start_proxy(
        pool_config(simulator, drain_timeout=0.5, traces={"endpoint": url, "ratio": 1, "timeout": "2s"})
    )
    for _ in range(5):
        assert chat(proxy) == 200
    lost = "quotapool_traced_requests_total"
    wait_until(lambda: proxy.total(lost, result="failed") >= 1, "a message to the collector fails", 20)
    assert chat(proxy) == 200
    began = time.monotonic()
    assert proxy.stop() == 0
    assert (
        time.monotonic() - began < 6
    )  # the drain of 0.5 s, the last second for the collector, and the supervisor's own
    assert proxy.log().count("the collector does not take traces") == 1


def test_a_reload_turns_traces_on_and_off(start_simulator, start_proxy, receiver):
    simulator = start_simulator(1)
    proxy = start_proxy(pool_config(simulator))
    assert chat(proxy, KEPT) == 200
    assert "trace_id" not in lines_of(proxy, 1)[0]

    def traced() -> bool:
        before = len(lines_of(proxy, 1))
        assert chat(proxy, KEPT) == 200
        return "trace_id" in lines_of(proxy, before + 1)[-1]

    def configured(**traces) -> None:
        fresh = proxy.config_file.with_suffix(".new")
        fresh.write_text(yaml.safe_dump({**proxy.config, "traces": traces}))
        fresh.replace(proxy.config_file)

    configured(endpoint=receiver.url, ratio=0, service="pool-a", attributes={"deployment.environment.name": "test"})
    wait_until(traced, "the new configuration is taken", 15)
    wait_until(lambda: len(receiver.spans) >= 4, "the spans arrive", 15)
    assert receiver.spans[0].resource["service.name"] == "pool-a"
    assert receiver.spans[0].resource["deployment.environment.name"] == "test"
    configured()
    wait_until(lambda: not traced(), "the new configuration is taken", 15)
    kept = sum("trace_id" in line for line in proxy.request_lines())
    wait_until(lambda: len(receiver.roots()) >= kept, "those that were under way are in them", 15)
    assert len(receiver.roots()) == kept


def test_the_variables_of_opentelemetry_are_enough(start_simulator, start_proxy, receiver):
    simulator = start_simulator(1)
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=acme%20corp",
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_SERVICE_NAME": "the-pool",
        "OTEL_RESOURCE_ATTRIBUTES": "k8s.pod.name=quotapool-0",
    }
    proxy = start_proxy(pool_config(simulator), env=env)
    assert chat(proxy) == 200
    proxy.stop()
    (headers, _), *_ = receiver.messages
    assert headers["x-tenant"] == "acme corp"
    assert receiver.named("POST /v1/chat/completions").resource["service.name"] == "the-pool"
    assert receiver.spans[0].resource["k8s.pod.name"] == "quotapool-0"


def test_a_client_that_leaves_is_no_error_and_a_cut_of_upstreams_is(start_simulator, start_proxy, receiver):
    simulator = start_simulator(1, "--tokens-per-second", "20", "--completion-tokens", "100")
    proxy = start_proxy(pool_config(simulator, traces={"endpoint": receiver.url, "ratio": 1}))
    with Wire(proxy.base_url.removesuffix("/v1")) as wire:
        body = b'{"model": "gpt-4o-mini", "stream": true, "messages": [{"role": "user", "content": "x"}]}'
        wire.request("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, body)
        assert wire.head()[0] == 200
        wire.chunk()
    lines_of(proxy, 1)
    simulator.fault(0, "reset_mid_stream")
    with Wire(proxy.base_url.removesuffix("/v1")) as wire:
        wire.request("POST", "/v1/chat/completions", {"Content-Type": "application/json"}, body)
        with pytest.raises((EOFError, ValueError)):
            read_all(wire)
    lines_of(proxy, 2)
    proxy.stop()
    left, cut = sorted((one for one in receiver.spans if one.kind == "server"), key=lambda one: one.start)
    assert (left.failed, left.attributes["quotapool.cut"]) == (False, True)
    assert (cut.failed, cut.attributes["quotapool.cut"]) == (True, True)
    assert cut.attributes["error.type"]
