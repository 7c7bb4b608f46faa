"""nginx, HAProxy and Caddy before the proxy, as `config/in-front` sets them up; Traefik too, where it is installed."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
import websockets.sync.client
from quotapool.settings.model import Queue, Timeouts

from tests.conftest import missing
from tests.fakes.firehose import Firehose, running_firehose
from tests.fakes.in_front import NAME, RECIPES, InFront, in_front, program_of
from tests.fakes.processes import RunningProxy, Simulator, pool_config, wait_until
from tests.fakes.running import Wire, reset, running_proxy, running_simulator
from tests.fakes.valkey import free_port
from tests.scenarios import big_bodies
from tests.scenarios.big_bodies import MIB, Memory

FRONTS = ["nginx", "haproxy", "caddy", *(["traefik"] if program_of("traefik") else [])]
KEY, AT_HOME = "ann-client-key-0123456789", "127.0.0.5"
CLIENTS = [{"id": "ann", "key": KEY}, {"id": "home", "key": f"{KEY}-home", "allowed_ips": [AT_HOME]}]
CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Say hello."}]}
SHORT, ENDLESS = {**CHAT, "max_tokens": 1}, {**CHAT, "stream": True}
AS_ANN = {"Authorization": f"Bearer {KEY}"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    """A stream of it takes 40 s, so one that was read to its end was not looked at while it came."""
    with running_simulator(1, "--tokens-per-second", "5", "--completion-tokens", "200") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    config = pool_config(simulator, clients=CLIENTS, trusted_proxies=["127.0.0.1"])
    with running_proxy(tmp_path_factory.mktemp("proxy"), config) as running:
        yield running


@pytest.fixture(scope="module", params=FRONTS)
def front(request: pytest.FixtureRequest, proxy: RunningProxy) -> Iterator[InFront]:
    if program_of(request.param) is None:
        missing(request.param)
    with in_front(request.param, proxy.config["listen"]) as running:
        yield running


@pytest.fixture(autouse=True)
def healthy(simulator: Simulator) -> None:
    reset(simulator)


def wait_for_a_cancelled_one(proxy: RunningProxy, already: int) -> None:
    """Among the requests that are logged after the first `already`."""
    wait_until(
        lambda: any(line["attempts"][0]["outcome"] == "cancelled" for line in proxy.request_lines()[already:]),
        "the proxy notices that its client has left",
        10,
    )


def ask(front: InFront, path: str, headers: dict[str, str], caller: str = "") -> tuple[int, Any]:
    """(status, answer) of a short chat."""
    with front.request("POST", path, headers, SHORT, caller=caller) as answer:
        return answer.status, json.loads(answer.read())


def test_a_stream_arrives_as_it_is_made_and_ends_when_its_client_leaves(front, proxy, simulator):
    before = len(proxy.request_lines())
    with front.request("POST", "/v1/chat/completions", AS_ANN, ENDLESS) as answer:
        assert answer.readline().startswith(b"data: ")
        assert [account["open_streams"] for account in simulator.stats()["accounts"]] == [1]
    wait_for_a_cancelled_one(proxy, before)


def test_a_client_that_leaves_before_its_answer_began_frees_its_place(front, proxy, simulator):
    before = len(proxy.request_lines())
    simulator.fault(0, "hang")
    with pytest.raises(TimeoutError), front.request("POST", "/v1/chat/completions", AS_ANN, SHORT, patience=2):
        pass
    wait_for_a_cancelled_one(proxy, before)


def test_a_websocket_passes(front):
    url = f"{front.base_url.replace('https', 'wss')}/responses"
    with websockets.sync.client.connect(
        url, sock=front.connect(), ssl=front.trust, additional_headers=AS_ANN
    ) as session:
        asked = {"type": "response.create", "model": "gpt-4o-mini", "input": "Say hello.", "max_output_tokens": 2}
        session.send(json.dumps(asked))
        while (event := json.loads(session.recv(20)))["type"] != "response.incomplete":
            assert event["type"] != "error", event
    assert event["response"]["usage"]["output_tokens"] > 0


def test_the_address_of_the_client_is_told_and_cannot_be_made_up(front):
    as_home = {"Authorization": f"Bearer {KEY}-home"}
    for caller, more, status in (
        (AT_HOME, {}, 200),
        ("127.0.0.6", {}, 403),
        ("127.0.0.6", {"X-Forwarded-For": AT_HOME}, 403),
    ):
        got, said = ask(front, "/v1/chat/completions", {**as_home, **more}, caller)
        assert got == status, (caller, more, said)
        assert status == 200 or said["error"]["code"] == "client_ip_not_allowed"


def test_a_wrong_base_url_is_answered_with_the_one_by_which_clients_come(front):
    status, said = ask(front, "/chat/completions", AS_ANN)
    assert (status, said["error"]["code"]) == (404, "path_not_found")
    assert said["error"]["message"].endswith(f"Set base_url to {front.base_url}.")


def test_clients_may_speak_http_2(front, program):
    resolved = f"{NAME}:{front.port}:127.0.0.1"
    curl = [program("curl"), "-sS", "--http2", "--cacert", front.authority.ca_file, "--resolve", resolved]
    asked = [
        "-o",
        "/dev/null",
        "-w",
        "%{http_version} %{http_code}",
        "-H",
        f"Authorization: Bearer {KEY}",
        "--json",
        json.dumps(SHORT),
    ]
    done = subprocess.run(
        [*curl, *asked, f"{front.base_url}/chat/completions"], capture_output=True, text=True, timeout=30
    )
    assert done.stdout == "2 200", done.stderr


# ---- large bodies


@pytest.fixture(scope="module")
def hose() -> Iterator[Firehose]:
    with running_firehose() as running:
        yield running


@pytest.fixture(scope="module")
def hosed(hose: Firehose, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    with running_proxy(
        tmp_path_factory.mktemp("hosed"), {**big_bodies.config(hose), "allowed_hosts": [NAME]}
    ) as running:
        yield running


@pytest.fixture(scope="module", params=FRONTS)
def wide_front(request: pytest.FixtureRequest, hosed: RunningProxy) -> Iterator[InFront]:
    if program_of(request.param) is None:
        missing(request.param)
    with in_front(request.param, hosed.config["listen"]) as running:
        with running.request("GET", "/v1/files/file-1/content?size=10", AS_ANN) as answer:
            assert len(answer.read()) == 10  # what a front makes once is there
        yield running


@pytest.mark.parametrize("framing", [{"Content-Length": str(32 * MIB)}, {}], ids=["length", "chunked"])
def test_an_upload_passes_while_it_is_sent_and_is_never_held(wide_front, hose, framing):
    before = hose.received

    def pieces() -> Iterator[bytes]:
        for _ in range(16):
            yield bytes(MIB)
        wait_until(lambda: hose.received - before > 8 * MIB, "upstream has a part of the half that was sent", 20)
        for _ in range(16):
            yield bytes(MIB)

    memories = [Memory(pid) for pid in wide_front.pids()]
    form = {"Content-Type": "multipart/form-data; boundary=b", **framing}
    with wide_front.request("POST", "/v1/files", form, pieces()) as answer:
        assert (answer.status, json.loads(answer.read())["bytes"]) == (200, 32 * MIB)
    assert sum(memory.grown_mib for memory in memories) < 16


def test_a_download_waits_for_its_reader(wide_front, hose):
    before = hose.given
    with wide_front.request("GET", f"/v1/files/file-1/content?size={512 * MIB}", AS_ANN) as answer:
        assert len(answer.read(65_536)) == 65_536
        given = -1
        while given != (given := hose.given):  # until nothing has moved for half a second
            time.sleep(0.5)
        assert given - before < 128 * MIB  # what kernels and programs hold between them; all of it, if there is a file


@pytest.mark.parametrize("name", FRONTS)
def test_a_pool_without_client_keys_is_not_open_to_all_who_reach_the_front(name, hose, start_proxy):
    if program_of(name) is None:
        missing(name)
    with in_front(name, start_proxy(big_bodies.config(hose)).config["listen"]) as front:
        status, said = ask(front, "/v1/chat/completions", {})
    assert (status, said["error"]["code"]) == (403, "host_not_allowed")


# ---- time


IMPATIENT = {"nginx": {"proxy_read_timeout 65m": "proxy_read_timeout 1s"}, "haproxy": {"server 65m": "server 1s"}}


@pytest.mark.parametrize("name", IMPATIENT)
def test_a_front_that_is_less_patient_than_the_model_answers_504_in_its_own_name(name, proxy, simulator):
    if program_of(name) is None:
        missing(name)
    simulator.fault(0, "slow", latency_ms=2500)
    with (
        in_front(name, proxy.config["listen"], IMPATIENT[name]) as front,
        front.request("POST", "/v1/chat/completions", AS_ANN, SHORT) as answer,
    ):
        assert (answer.status, answer.getheader("x-quotapool-source")) == (504, None)


@pytest.mark.parametrize(
    ("file", "options"),
    [
        ("nginx.conf", ["proxy_read_timeout", "proxy_send_timeout"]),
        ("haproxy.cfg", ["timeout client", "timeout server", "timeout tunnel"]),
    ],
)
def test_what_is_in_front_waits_longer_than_the_proxy(file, options):
    longest_s = Queue().max_wait + Timeouts().first_byte
    minutes = [int(re.findall(rf"{option} (\d+)m", (RECIPES / file).read_text())[0]) for option in options]
    assert min(minutes) * 60 > longest_s


# ---- nginx as it comes


PLAIN_NGINX = """
server {{
    listen 127.0.0.1:{port};
    location / {{ proxy_pass http://{proxy}; {more} }}
}}
"""


@pytest.mark.parametrize(
    ("more", "is_held"), [("", False), ("proxy_ignore_headers X-Accel-Buffering;", True)], ids=["plain", "deaf"]
)
def test_a_stream_is_not_held_by_an_nginx_that_buffers_because_the_proxy_says_so(more, is_held, simulator, proxy):
    if program_of("nginx") is None:
        missing("nginx")
    port = free_port()
    plain = PLAIN_NGINX.format(port=port, proxy=proxy.config["listen"], more=more)
    with (
        in_front("nginx", proxy.config["listen"], port=port, plain=plain),
        Wire(f"http://127.0.0.1:{port}", 1.5) as wire,
    ):
        wire.request("POST", "/v1/chat/completions", AS_ANN, json.dumps(ENDLESS).encode())
        if is_held:
            with pytest.raises(TimeoutError):
                wire.head()
        else:
            assert wire.head()[0] == 200
