"""A real Prometheus, with the configuration we ship, scrapes the running proxy and evaluates its rules."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import OpenAI

from tests.fakes.processes import RunningProxy, fetch, pool_config, wait_until
from tests.fakes.valkey import free_port

CONFIG = Path(__file__).parents[2] / "config" / "prometheus"
CHATS = 6
SCRAPE_EVERY = "500ms"


class Prometheus:
    def __init__(self, url: str) -> None:
        self.url = url

    def api(self, path: str) -> Any:
        status, text = fetch(f"{self.url}/api/v1/{path}")
        assert status == 200, text
        return json.loads(text)["data"]

    def ready(self) -> bool:
        try:
            return fetch(f"{self.url}/-/ready")[0] == 200
        except OSError:
            return False

    def values(self, query: str) -> list[float]:
        """The values of all series that `query` finds now."""
        found = self.api("query?" + urllib.parse.urlencode({"query": query}))["result"]
        return [float(series["value"][1]) for series in found]

    def rules(self, kind: str) -> list[dict[str, Any]]:
        groups = self.api(f"rules?type={kind}")["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextmanager
def running(program: str, directory: Path, target: str) -> Iterator[Prometheus]:
    """Prometheus with the files of config/prometheus: only its target and its pace are others'."""
    shutil.copytree(CONFIG, directory)
    config = yaml.safe_load((directory / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], SCRAPE_EVERY)
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
    prometheus = Prometheus(f"http://127.0.0.1:{(port := free_port())}")
    command = [
        program,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    log = directory / "log"
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait_until(lambda: prometheus.ready() or process.poll() is not None, "Prometheus becomes ready")
            assert process.poll() is None, log.read_text()
            yield prometheus
        finally:
            process.terminate()


@pytest.fixture
def proxy(start_simulator: Callable[..., Any], start_proxy: Callable[..., RunningProxy]) -> RunningProxy:
    return start_proxy(pool_config(start_simulator(2)))


def test_a_real_prometheus_scrapes_the_proxy_and_its_rules_yield_what_happened(
    program: Callable[[str], str], proxy: RunningProxy, tmp_path: Path
):
    target = proxy.admin_url.removeprefix("http://")
    with running(program("prometheus"), tmp_path / "prometheus", target) as prometheus:
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
