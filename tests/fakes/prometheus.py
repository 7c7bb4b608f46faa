"""A real Prometheus that scrapes a running proxy, with the configuration and the rules that we ship."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.fakes.processes import fetch, wait_until
from tests.fakes.valkey import free_port

CONFIG = Path(__file__).parents[2] / "config" / "prometheus"
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

    def labels(self, name: str, metric: str) -> list[str]:
        """The values of label `name` in the series that `metric` selects."""
        return list(self.api(f"label/{name}/values?" + urllib.parse.urlencode({"match[]": metric})))

    def rules(self, kind: str) -> list[dict[str, Any]]:
        groups = self.api(f"rules?type={kind}")["groups"]
        return [rule for group in groups for rule in group["rules"]]


@contextmanager
def running_prometheus(program: str, directory: Path, target: str, **more: Any) -> Iterator[Prometheus]:
    """Prometheus with the files of config/prometheus: only its target and its pace are others'. `more`: sections that
    its configuration gets besides."""
    shutil.copytree(CONFIG, directory)
    config = yaml.safe_load((directory / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], SCRAPE_EVERY)
    config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
    (directory / "prometheus.yml").write_text(yaml.safe_dump(config | more))
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
