"""Keys and limits change, and the proxy stops, without one request being lost."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import yaml
from openai import OpenAI

from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until
from tests.fakes.running import Wire, chat_body, post_json, running_proxy, running_simulator

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    # 120 tokens at 240 a second: a stream lasts 500 ms.
    with running_simulator(3, "--tokens-per-second", "240", "--completion-tokens", "120") as running:
        yield running


@contextmanager
def clients_calling(proxy: RunningProxy, count: int = 6) -> Iterator[list[Any]]:
    """`count` clients that call all the time, plainly and streamed. Yields the list of what went wrong."""
    wrong: list[Any] = []
    done = threading.Event()
    served = [0]

    def call(number: int) -> None:
        while not done.is_set():
            try:
                answer = post_json(proxy.base_url, "/v1/chat/completions", chat_body(stream=number % 2 == 0))
                if answer.status != 200 or (number % 2 == 0 and not answer.body.endswith(b"data: [DONE]\n\n")):
                    wrong.append((answer.status, answer.body))
                served[0] += 1
            except Exception as error:  # noqa: BLE001  whatever a client sees, the test must see
                wrong.append(error)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield wrong
    finally:
        done.set()
        for thread in threads:
            thread.join(20)
    assert served[0] > count


def change(proxy: RunningProxy, **options: Any) -> None:
    """Replace the configuration file, as editors and Kubernetes do."""
    fresh = proxy.config_file.with_suffix(".new")
    fresh.write_text(yaml.safe_dump({**proxy.config, **options}))
    fresh.replace(proxy.config_file)


def reloads(proxy: RunningProxy, result: str) -> float:
    return proxy.total("quotapool_config_reloads_total", result=result)


def attempts(simulator: Simulator) -> list[int]:
    return [account["attempts"] for account in simulator.stats()["accounts"]]


@pytest.mark.parametrize("how", ["SIGHUP", "file change"])
def test_a_reload_changes_keys_and_limits_and_drops_no_request(how, simulator, tmp_path):
    config = pool_config(simulator, workers=2)
    all_keys, config["keys"] = config["keys"], config["keys"][:2]
    with running_proxy(tmp_path, config) as proxy, clients_calling(proxy) as wrong:
        before = attempts(simulator)[2]
        change(proxy, keys=[all_keys[1], all_keys[2]], limits={"default": {"rpm": 400}})
        if how == "SIGHUP":
            proxy.process.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads(proxy, "ok") >= 1, "the new configuration is taken", 15)
        wait_until(lambda: attempts(simulator)[2] > before + 3, "the new key is used", 15)
        time.sleep(0.5)  # requests that had the old key are through
        first = attempts(simulator)[0]
        seen = attempts(simulator)[2]
        wait_until(lambda: attempts(simulator)[2] > seen + 5, "the new key is used further", 10)
        assert attempts(simulator)[0] == first
        assert not wrong, wrong[:3]
        assert len(proxy.worker_pids()) == 2
        assert proxy.total("quotapool_worker_restarts_total") == 0


def test_a_broken_new_configuration_is_refused_and_the_old_one_goes_on(simulator, tmp_path):
    with running_proxy(tmp_path, pool_config(simulator)) as proxy:
        change(proxy, wrokers=3)
        proxy.process.send_signal(signal.SIGHUP)
        wait_until(lambda: reloads(proxy, "refused") >= 1, "the new configuration is refused", 15)
        assert "did you mean 'workers'" in proxy.log()
        assert post_json(proxy.base_url, "/v1/chat/completions", chat_body()).status == 200


def open_stream(proxy: RunningProxy) -> Wire:
    wire = Wire(proxy.base_url)
    body = json.dumps(chat_body(stream=True)).encode()
    wire.request("POST", "/v1/chat/completions", JSON, body)
    assert wire.head()[0] == 200
    assert wire.chunk()
    return wire


def rest_of(wire: Wire) -> bytes:
    pieces = []
    while piece := wire.chunk():
        pieces.append(piece)
    return b"".join(pieces)


def accepts(proxy: RunningProxy) -> bool:
    try:
        Wire(proxy.base_url, timeout=1).close()
    except OSError:
        return False
    return True


def readiness(proxy: RunningProxy) -> int | None:
    try:
        return fetch(f"{proxy.admin_url}/readyz")[0]
    except OSError:
        return None


def test_a_stop_finishes_open_streams_and_settles_them(simulator, tmp_path):
    with running_proxy(tmp_path, pool_config(simulator, drain_timeout="60s", workers=2)) as proxy:
        simulator_before = sum(account["total_tokens"] for account in simulator.stats()["accounts"])
        wires = [open_stream(proxy) for _ in range(4)]
        assert readiness(proxy) == 200
        proxy.process.send_signal(signal.SIGTERM)
        wait_until(lambda: readiness(proxy) == 503, "readyz says that it drains", 15)
        assert fetch(f"{proxy.admin_url}/healthz")[0] == 200
        # New connections are not taken, open streams go on to their end.
        wait_until(lambda: not accepts(proxy), "the port is closed", 15)
        assert all(rest_of(wire).endswith(b"data: [DONE]\n\n") for wire in wires)
        assert proxy.process.wait(20) == 0
        billed = sum(account["total_tokens"] for account in simulator.stats()["accounts"]) - simulator_before
        lines = proxy.request_lines()
        assert [line["status"] for line in lines] == [200] * 4
        assert sum(line["tokens"]["prompt"] + line["tokens"]["completion"] for line in lines) == billed
        for wire in wires:
            wire.close()


def test_a_stop_answers_the_requests_that_wait_in_the_queue(simulator, tmp_path):
    limits = {"default": {"rpm": 3}}  # then the next one waits for 20 s
    config = pool_config(simulator, drain_timeout="60s", workers=1, limits=limits, queue={"max_wait": "60s"})
    with running_proxy(tmp_path, config) as proxy:
        wires = [Wire(proxy.base_url) for _ in range(3 * len(config["keys"]) + 4)]
        body = json.dumps(chat_body()).encode()
        for wire in wires:
            wire.request("POST", "/v1/chat/completions", JSON, body)
        wait_until(lambda: proxy.total("quotapool_queue_length") >= 4, "some wait", 15)
        began = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        answers = [wire.answer() for wire in wires]
        assert time.monotonic() - began < 15  # there is no room for the first of them before 20 s
        refused = [answer for answer in answers if answer.status != 200]
        assert len(refused) >= 4
        for answer in refused:
            assert (answer.status, json.loads(answer.body)["error"]["code"]) == (503, "draining")
            assert (answer.header("retry-after"), answer.header("connection")) == ("1", "close")
        assert proxy.process.wait(20) == 0
        assert "requests cut" not in proxy.log()
        for wire in wires:
            wire.close()


def test_a_stream_longer_than_the_patience_is_cut_and_not_ended_cleanly(simulator, tmp_path):
    with running_proxy(tmp_path, pool_config(simulator, drain_timeout="200ms")) as proxy:
        wire = open_stream(proxy)
        began = time.monotonic()
        proxy.process.send_signal(signal.SIGTERM)
        with pytest.raises((EOFError, ConnectionError)):
            rest_of(wire)
        assert proxy.process.wait(20) == 0
        assert time.monotonic() - began < 10
        assert proxy.request_lines()[0]["tokens"]["certainty"] == "at_least"
        wire.close()


def test_clients_that_keep_their_connections_see_no_error_when_it_stops(simulator, tmp_path):
    """A client whose connection is kept alive may send while the proxy stops: it is served, and told to close."""
    failures: list[str] = []
    answers: list[int] = []

    def call(proxy: RunningProxy, wire: Wire, go_on: Callable[[], bool]) -> None:
        try:
            while go_on():
                wire.request("POST", "/v1/embeddings", JSON, b'{"model":"text-embedding-3-small","input":"x"}')
                answer = wire.answer()
                answers.append(answer.status)
                if (answer.header("connection") or "").lower() == "close":
                    return
        except (OSError, EOFError) as error:
            failures.append(repr(error))

    with running_proxy(tmp_path, pool_config(simulator, drain_timeout="60s")) as proxy:
        wires = [Wire(proxy.base_url) for _ in range(8)]
        threads = [threading.Thread(target=call, args=(proxy, wire, lambda: True)) for wire in wires]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) > 50, "all are being served")
        proxy.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(20)
        assert proxy.process.wait(20) == 0
        assert failures == []
        assert set(answers) == {200}


def test_the_official_sdk_reads_its_stream_to_the_end_while_the_proxy_stops(simulator, tmp_path):
    with (
        running_proxy(tmp_path, pool_config(simulator, drain_timeout="60s")) as proxy,
        OpenAI(base_url=proxy.base_url, api_key="x", max_retries=0) as client,
    ):
        messages: Any = [{"role": "user", "content": "hello"}]
        stream = client.chat.completions.create(model="gpt-4o-mini", messages=messages, stream=True)
        next(stream)
        proxy.process.send_signal(signal.SIGINT)  # Ctrl-C, for once
        assert list(stream)[-1].choices[0].finish_reason == "stop"
        assert proxy.process.wait(20) == 0
