"""Real processes for end-to-end tests: the proxy as its user starts it, and the simulated upstream."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families
from quotapool.simulator import simulated_secret

from tests.fakes.valkey import free_port

START_S = 60.0
Sample = tuple[str, frozenset[tuple[str, str]]]


def _environment(more: dict[str, str]) -> dict[str, str]:
    """The tester's own, without the forward proxies it may name: the upstreams of tests are on this machine."""
    plain = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    return {**plain, **more}


def fetch(url: str, *, method: str = "GET", body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, str]:
    """(status, text) of one call; a refused connection raises URLError."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers or {}, method=method)
    if data is not None:
        request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def wait_until(condition: Any, what: str, seconds: float = START_S) -> None:
    """Poll until `condition()` is true. Raises AssertionError after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)


@dataclass
class Simulator:
    """`python -m quotapool.simulator` on a port of its own, and its control API."""

    process: subprocess.Popen[str]
    url: str
    secrets: list[str]

    @classmethod
    def start(cls, keys: int, *options: str) -> Simulator:
        command = [sys.executable, "-m", "quotapool.simulator", "--port", "0", "--keys", str(keys), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = process.stdout.readline() if process.stdout else ""
        assert "listening on" in line, line
        return cls(process, line.split()[-1], [simulated_secret(i) for i in range(keys)])

    def fault(self, key: int | str, name: str, **options: Any) -> None:
        status, text = fetch(f"{self.url}/_sim/keys/{key}/fault", method="POST", body={"fault": name, **options})
        assert status == 200, text

    def heal(self, key: int | str) -> None:
        fetch(f"{self.url}/_sim/keys/{key}/fault", method="DELETE")

    def stats(self) -> dict[str, Any]:
        return dict(json.loads(fetch(f"{self.url}/_sim/stats")[1]))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


@dataclass
class RunningProxy:
    """`quotapool serve` with a configuration file of its own. `log_file` holds all it wrote."""

    process: subprocess.Popen[bytes]
    config_file: Path
    config: dict[str, Any]
    log_file: Path
    base_url: str
    admin_url: str
    env: dict[str, str] = field(default_factory=dict)

    @property
    def state_dir(self) -> Path:
        return Path(self.config["state_dir"])

    def metrics(self) -> dict[Sample, float]:
        """Every sample on /metrics, by (name, labels)."""
        status, text = fetch(f"{self.admin_url}/metrics")
        assert status == 200, text
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def total(self, name: str, **labels: str) -> float:
        """Sum of all samples of `name` that carry `labels`."""
        wanted = set(labels.items())
        return sum(value for (n, have), value in self.metrics().items() if n == name and wanted <= have)

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def request_lines(self) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == "request"]

    def worker_pids(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [
            pid for pid in map(int, children) if b"quotapool.app.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]

    def store_pid(self) -> int:
        return int(json.loads((self.state_dir / "valkey.json").read_text())["pid"])

    def ready(self) -> bool:
        try:
            return fetch(f"{self.admin_url}/readyz")[0] == 200
        except OSError:
            return False

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `quotapool ARGUMENTS --config FILE`."""
        return subprocess.run(
            [sys.executable, "-m", "quotapool", *arguments, "--config", str(self.config_file)],
            capture_output=True,
            text=True,
            env=_environment(self.env),
            timeout=300,
        )

    def standing(self) -> str:
        """What its processes wait for, and its last words: for a test that cannot end it."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        rows = []
        for pid in [str(self.process.pid), *children]:
            with contextlib.suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:90]
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
                rows.append(f"{pid} {state} {Path(f'/proc/{pid}/wchan').read_text()} {command}")
        return "\n".join([*rows, *self.log().splitlines()[-20:]])

    def stop(self, seconds: float = 35.0) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


def start_proxy_process(
    directory: Path, config: dict[str, Any], *, wait: bool = True, env: dict[str, str] | None = None
) -> RunningProxy:
    """Start `quotapool serve` on free ports with `config` (what is not given: ports, state_dir, JSON logs)."""
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "listen": f"127.0.0.1:{free_port()}",
        "admin_listen": f"127.0.0.1:{free_port()}",
        "state_dir": str(directory / "state"),
        "log": {"level": "info", "format": "json"},
        **config,
    }
    config_file = directory / "quotapool.yaml"
    config_file.write_text(yaml.safe_dump(config))
    log_file = directory / "proxy.log"
    with log_file.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "quotapool", "serve", "--config", str(config_file)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(env or {}),
        )
    running = RunningProxy(
        process,
        config_file,
        config,
        log_file,
        f"http://{config['listen']}/v1",
        f"http://{config['admin_listen']}",
        env or {},
    )
    if wait:
        wait_until(lambda: running.ready() or process.poll() is not None, "the proxy becomes ready")
        assert process.poll() is None, running.log()
    return running


def pool_config(simulator: Simulator, **more: Any) -> dict[str, Any]:
    """A configuration whose keys `key-0`, `key-1`… are the simulator's."""
    keys = [{"id": f"key-{i}", "secret": secret} for i, secret in enumerate(simulator.secrets)]
    return {"upstream": simulator.url, "keys": keys, **more}
