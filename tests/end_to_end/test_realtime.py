"""Realtime sessions as users open them: the official SDKs, over ws and wss, through the proxy to the simulator."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.fakes.certificates import Authority
from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, start_proxy_process, wait_until

MODEL = "gpt-realtime"
HELLO = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
NODE_SESSION = """
import OpenAI from "openai";
import { OpenAIRealtimeWS } from "openai/realtime/ws";
const [baseURL, model] = process.argv.slice(2);
const rt = new OpenAIRealtimeWS({ model }, new OpenAI({ baseURL, apiKey: "anything" }));
const seen = [];
rt.socket.on("open", () => {
  rt.send({ type: "session.update", session: { type: "realtime", model } });
  rt.send({
    type: "conversation.item.create",
    item: { type: "message", role: "user", content: [{ type: "input_text", text: "hello" }] },
  });
  rt.send({ type: "response.create" });
});
rt.on("event", (event) => seen.push(event.type));
rt.on("error", (error) => { console.error(String(error)); process.exit(1); });
rt.on("response.done", (event) => {
  console.log(JSON.stringify({ url: rt.url.protocol, seen, usage: event.response.usage }));
  rt.close();
});
"""


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    running = Simulator.start(2)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.make(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def plain(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    proxy = start_proxy_process(tmp_path_factory.mktemp("plain"), pool_config(simulator, drain_timeout=0.5))
    yield proxy
    proxy.stop()


@pytest.fixture(scope="module")
def secure(
    simulator: Simulator, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningProxy]:
    folder = tmp_path_factory.mktemp("secure")
    authority.issue(folder)
    tls = {"cert_file": str(folder / "tls.crt"), "key_file": str(folder / "tls.key")}
    proxy = start_proxy_process(folder, pool_config(simulator, drain_timeout=0.5, tls=tls))
    proxy.base_url = proxy.base_url.replace("http://", "https://")
    yield proxy
    proxy.stop()


def trusting(authority: Authority) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(authority.ca_file))


def sdk(proxy: RunningProxy) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=proxy.base_url, api_key="anything", max_retries=0)


def options(proxy: RunningProxy, authority: Authority) -> dict[str, Any]:
    return {"ssl": trusting(authority)} if proxy.base_url.startswith("https") else {}


@pytest.mark.parametrize("scheme", ["ws", "wss"])
async def test_the_python_sdk_holds_a_session(scheme, request, authority):
    proxy = request.getfixturevalue("plain" if scheme == "ws" else "secure")
    connecting = sdk(proxy).realtime.connect(model=MODEL, websocket_connection_options=options(proxy, authority))
    async with asyncio.timeout(20), connecting as connection:
        await connection.session.update(
            session={"type": "realtime", "audio": {"input": {"transcription": {"model": "gpt-4o-transcribe"}}}}
        )
        await connection.input_audio_buffer.append(audio="AAAA" * 4_000)
        await connection.input_audio_buffer.commit()
        await connection.conversation.item.create(item=HELLO)
        await connection.response.create()
        seen, text = [], ""
        async for event in connection:
            seen.append(event.type)
            if event.type == "response.output_text.delta":
                text += event.delta
            if event.type == "response.done":
                break
    assert seen[:2] == ["session.created", "session.updated"]
    assert "conversation.item.input_audio_transcription.completed" in seen
    assert event.response.usage.output_tokens == len(text.split())  # a word is a token, says the simulator
    used = event.response.usage.total_tokens
    wait_until(lambda: tokens_in_log(proxy) >= used, "the session's line in the log")


def tokens_in_log(proxy: RunningProxy) -> int:
    lines = [line for line in proxy.request_lines() if line["status"] == 101]
    return 0 if not lines else sum(int(lines[-1]["tokens"].get(name, 0)) for name in ("prompt", "completion"))


@pytest.fixture(scope="module")
def node(
    program: Callable[[str], str], client_programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """Runs one session with the Node SDK."""
    binary, folder = program("node"), tmp_path_factory.mktemp("node")
    (folder / "node_modules").symlink_to(client_programs / "node_modules")
    (folder / "session.mjs").write_text(NODE_SESSION)

    def run(base_url: str, ca_file: Path) -> Any:
        env = {**os.environ, "NODE_EXTRA_CA_CERTS": str(ca_file)}
        command = [binary, "session.mjs", base_url, MODEL]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, env=env)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_the_node_sdk_holds_a_session_over_wss(secure, authority, node):
    said = node(secure.base_url, authority.ca_file)
    assert said["url"] == "wss:"
    assert said["seen"][0] == "session.created"
    assert said["usage"]["output_tokens"] > 0


async def test_responses_over_a_websocket(plain):
    async with asyncio.timeout(20), sdk(plain).responses.connect() as connection:
        await connection.response.create(model="gpt-4o-mini", input="hello", max_output_tokens=50)
        async for event in connection:
            if event.type == "response.completed":
                break
    assert event.response.usage.total_tokens > 0


async def test_a_key_that_died_before_and_one_that_dies_meanwhile(start_simulator, start_proxy):
    simulator = start_simulator(2)
    proxy = start_proxy(pool_config(simulator, drain_timeout=0.5))
    fault(simulator, 0, "invalid_api_key")
    async with asyncio.timeout(20), sdk(proxy).realtime.connect(model=MODEL) as connection:
        assert (await connection.recv()).type == "session.created"
        fault(simulator, 1, "credit_balance_exhausted")
        await connection.conversation.item.create(item=HELLO)
        await connection.response.create()
        while (event := await connection.recv()).type != "response.done":
            pass
        assert event.response.status == "failed"
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        with pytest.raises(InvalidStatus) as refused:
            async with sdk(proxy).realtime.connect(model=MODEL):
                pass
    assert refused.value.response.status_code == 429
    assert json.loads(refused.value.response.body or b"{}")["error"]["code"] == "pool_credit_exhausted"


def fault(simulator: Simulator, key: int, name: str) -> None:
    status, text = fetch(f"{simulator.url}/_sim/keys/{key}/fault", method="POST", body={"fault": name})
    assert status == 200, text


async def test_a_stop_closes_sessions_with_a_code_on_which_sdks_connect_again(simulator, start_proxy):
    proxy = start_proxy(pool_config(simulator, drain_timeout=1))
    async with asyncio.timeout(20), sdk(proxy).realtime.connect(model=MODEL) as connection:
        await connection.recv()
        proxy.process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        with pytest.raises(ConnectionClosed) as closed:
            await connection.recv()
        assert 0.8 <= time.monotonic() - began <= 4  # it had drain_timeout for itself
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.code == 1012
    assert proxy.process.wait(10) == 0


async def test_secrets_of_clients_stay_out_of_upstream_and_logs(start_simulator, start_proxy):
    canaries = ["canary-subprotocol-0001", "canary-header-0002", "ek_canarysecret0003", "canary-closing-0004"]
    simulator = start_simulator(1)
    proxy = start_proxy(pool_config(simulator, drain_timeout=0.5, log={"level": "debug", "format": "json"}))
    url = proxy.base_url.replace("http://", "ws://") + f"/realtime?model={MODEL}"
    from websockets.asyncio.client import connect

    async with asyncio.timeout(20):
        browsers = [f"openai-insecure-api-key.{canaries[0]}", "realtime"]
        async with connect(url, subprotocols=browsers, additional_headers={"api-key": canaries[1]}) as socket:
            assert socket.subprotocol == "realtime"
            await socket.recv()
            await socket.send(json.dumps({"type": "simulator.close", "code": 4000, "reason": canaries[3]}))
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, canaries[3])
        with pytest.raises(InvalidStatus):
            await connect(url, subprotocols=["realtime", f"openai-insecure-api-key.{canaries[2]}"])
    wait_until(lambda: any(line["status"] == 101 for line in proxy.request_lines()), "the session's line in the log")
    seen = fetch(f"{simulator.url}/_sim/log?n=100")[1] + proxy.log() + fetch(f"{proxy.admin_url}/metrics")[1]
    assert [canary for canary in canaries if canary in seen] == []


async def test_open_sessions_are_counted_by_account(plain):
    async with sdk(plain).realtime.connect(model=MODEL) as connection:
        await connection.recv()
        assert open_sessions(plain) == 1
    wait_until(lambda: open_sessions(plain) == 0, "the session is counted out")


def open_sessions(proxy: RunningProxy) -> float:
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in fetch(f"{proxy.admin_url}/metrics")[1].splitlines()
        if line.startswith("quotapool_websockets_open{")
    )


# ---- TLS


def certificate(proxy: RunningProxy, authority: Authority) -> str:
    """The name in the certificate that a new connection is shown."""
    host, port = proxy.config["listen"].split(":")
    with (
        socket.create_connection((host, int(port)), 5) as connection,
        trusting(authority).wrap_socket(connection, server_hostname=host) as secured,
    ):
        assert secured.version() in {"TLSv1.2", "TLSv1.3"}
        subject = secured.getpeercert()["subject"]
        return dict(pair[0] for pair in subject)["commonName"]


def test_the_first_line_says_https(secure):
    said = f'"base_url":"{secure.base_url}"'  # written as soon as it is ready, not before
    wait_until(lambda: said in secure.log().replace(": ", ":"), "the line that says where it serves")


def test_a_new_certificate_is_used_by_new_connections_and_a_broken_one_is_not(secure, authority):
    folder = secure.config_file.parent
    assert certificate(secure, authority) == "server"
    authority.issue(folder, "renewed")
    wait_until(lambda: certificate(secure, authority) == "renewed", "the new certificate is used")
    (folder / "tls.key").write_text("half written")
    wait_until(lambda: "the new configuration is refused" in secure.log(), "the broken key is refused")
    assert "tls.key_file" in secure.log()
    assert certificate(secure, authority) == "renewed"
    authority.issue(folder, "third")
    wait_until(lambda: certificate(secure, authority) == "third", "the next one is used")


def test_older_tls_is_refused(secure):
    host, port = secure.config["listen"].split(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port)), 5) as connection, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(connection, server_hostname=host)


def test_plain_http_on_the_tls_port_gets_no_answer_and_makes_no_noise(secure):
    host, port = secure.config["listen"].split(":")
    with socket.create_connection((host, int(port)), 5) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Canary: canary-plain\r\n\r\n")
        assert b"HTTP/1.1 200" not in connection.recv(1000)
    assert "canary-plain" not in secure.log()
    assert "Traceback" not in secure.log()


def test_a_bad_certificate_stops_the_start_in_words(simulator, start_proxy, tmp_path):
    tls = {"cert_file": str(tmp_path / "none.crt"), "key_file": str(tmp_path / "none.key")}
    proxy = start_proxy(pool_config(simulator, tls=tls), wait=False)
    assert proxy.process.wait(20) == 2
    assert "tls.cert_file" in proxy.log()
    assert "cannot be read: no such file or directory" in proxy.log()
