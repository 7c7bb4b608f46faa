"""A real Prometheus, with the configuration we ship, scrapes the running proxy and evaluates its rules."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from openai import OpenAI

from tests.fakes.processes import RunningProxy, fetch, pool_config, wait_until
from tests.fakes.prometheus import CONFIG, running_prometheus
from tests.fakes.valkey import free_port

CHATS = 6


@pytest.fixture
def proxy(start_simulator: Callable[..., Any], start_proxy: Callable[..., RunningProxy]) -> RunningProxy:
    return start_proxy(pool_config(start_simulator(2)))


def test_a_real_prometheus_scrapes_the_proxy_and_its_rules_yield_what_happened(
    program: Callable[[str], str], proxy: RunningProxy, tmp_path: Path
):
    target = proxy.admin_url.removeprefix("http://")
    with running_prometheus(program("prometheus"), tmp_path / "prometheus", target) as prometheus:
        wait_until(lambda: prometheus.values("up") == [1.0], "the first scrape")
        assert prometheus.values("quotapool_build_info") == [1.0]

        answered = 'sum(quotapool_requests_total{status="200"})'
        with OpenAI(base_url=proxy.base_url, api_key="any", max_retries=0) as client:
            # Twice: a rate needs a series that was there before it grew.
            for so_far in (CHATS, 2 * CHATS):
                for number in range(CHATS):
                    question = {"role": "user", "content": f"number {number}"}
                    client.chat.completions.create(model="gpt-4o-mini", messages=[question])
                wait_until(
                    lambda so_far=so_far: prometheus.values(answered) == [so_far],
                    "Prometheus counts what the client counted",
                )
        wait_until(lambda: prometheus.values("quotapool:requests:rate5m > 0"), "the request rate is recorded")
        assert prometheus.values("quotapool:upstream_refusing:ratio15m") == [0.0]
        headroom = prometheus.values('quotapool:account_headroom:ratio{model="gpt-4o-mini"}')
        assert headroom
        assert all(0 < share <= 1 for share in headroom)

        rules = prometheus.rules("record") + prometheus.rules("alert")
        written = [
            rule
            for file in ("recording.yml", "alerts.yml")
            for group in yaml.safe_load((CONFIG / file).read_text())["groups"]
            for rule in group["rules"]
        ]
        assert len(rules) == len(written)
        assert {rule["name"]: rule["health"] for rule in rules} == dict.fromkeys((r["name"] for r in rules), "ok")
        firing = [rule["name"] for rule in prometheus.rules("alert") if rule["state"] == "firing"]
        assert firing == []


class Told(BaseHTTPRequestHandler):
    """A receiver of Alertmanager's: who was told what."""

    messages: ClassVar[list[dict[str, Any]]]

    def do_POST(self) -> None:
        self.messages.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(its URL, the messages that it got)."""
    handler = type("_Told", (Told,), {"messages": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/", handler.messages
    server.shutdown()
    server.server_close()


@contextmanager
def running_alertmanager(program: str, directory: Path, url: str) -> Iterator[str]:
    """Its address. Alertmanager with the file that we ship, but that `url` is told, and at once."""
    config = yaml.safe_load((CONFIG / "alertmanager.yml").read_text())
    (operators,) = (one for one in config["receivers"] if one["name"] == "operators")
    operators["webhook_configs"] = [{"url": url}]
    config["route"]["group_wait"] = "100ms"
    file = directory / "alertmanager.yml"
    file.write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [
        program,
        f"--config.file={file}",
        f"--storage.path={directory / 'alertmanager'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]
    log = directory / "alertmanager.log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait_until(lambda: _is_ready(address) or process.poll() is not None, "Alertmanager becomes ready")
            assert process.poll() is None, log.read_text()
            yield address
        finally:
            process.terminate()


def _is_ready(address: str) -> bool:
    try:
        return fetch(f"http://{address}/-/ready")[0] == 200
    except OSError:
        return False


def test_a_dead_key_reaches_the_operators_by_prometheus_and_alertmanager(
    program: Callable[[str], str],
    start_simulator: Callable[..., Any],
    start_proxy: Callable[..., RunningProxy],
    receiver: tuple[str, list[dict[str, Any]]],
    tmp_path: Path,
):
    simulator = start_simulator(2)
    simulator.fault(0, "account_deactivated")
    proxy = start_proxy(pool_config(simulator))
    url, messages = receiver
    target = proxy.admin_url.removeprefix("http://")
    with running_alertmanager(program("prometheus-alertmanager"), tmp_path, url) as address:
        told = {"alerting": {"alertmanagers": [{"static_configs": [{"targets": [address]}]}]}}
        with running_prometheus(program("prometheus"), tmp_path / "prometheus", target, **told):
            with OpenAI(base_url=proxy.base_url, api_key="any", max_retries=0) as client:
                for _ in range(2 * CHATS):  # enough that both keys are used
                    client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hello"}])
            wait_until(lambda: messages, "the operators are told")

    (alert,) = messages[0]["alerts"]
    assert alert["labels"] == {
        "alertname": "QuotapoolKeyRemoved",
        "severity": "warning",
        "job": "quotapool",
        "key": "key-0",
        "account": "key-0",
    }
    assert alert["annotations"]["summary"] == "Key key-0 is dead and out of the pool"
    assert alert["annotations"]["runbook_url"].endswith("docs/operations.md#a-key-was-removed")
