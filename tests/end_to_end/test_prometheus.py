"""A real Prometheus, with the configuration we ship, scrapes the running proxy and evaluates its rules."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from openai import OpenAI

from tests.fakes.processes import RunningProxy, pool_config, wait_until
from tests.fakes.prometheus import CONFIG, running_prometheus

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
