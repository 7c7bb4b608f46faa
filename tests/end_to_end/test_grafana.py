"""Every query of every dashboard is answered with data by a real Prometheus that scrapes the product under load.

The load has all that a dashboard can show: keys that are dead, without money, slow and refused for rate; clients at
their limits; a queue; a cache; money; an open session; a worker that hangs. A panel that stays empty asks wrongly.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from quotapool.domain.outside import OutsideUse
from quotapool.observe.outside_store import OutsideStore
from websockets.sync.client import connect as open_websocket

from tests.fakes.connect import connect
from tests.fakes.grafana import DASHBOARDS, filled_in, queries
from tests.fakes.processes import RunningProxy, Simulator, fetch, wait_until
from tests.fakes.prometheus import Prometheus, running_prometheus
from tests.fakes.store import ledger_on, move_time
from tests.fakes.valkey import running_valkey

KEYS = 6
WINDOW = "20s"  # of rates: many scrapes
PATIENCE_S = 120.0
CLIENT_KEYS = {name: f"a-client-key-of-{name}" for name in ("app", "capped", "soft", "leaving")}
POLICY = {"error": {"message": "Refused.", "type": "invalid_request_error", "code": "bio_policy", "param": None}}


class _Other(BaseHTTPRequestHandler):
    """An upstream that refuses content, and the webhook of alerts."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        text = json.dumps(POLICY).encode()
        self.send_response(200 if self.path == "/hook" else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def other() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Other)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def configuration(simulator: Simulator, other: str, store: str) -> dict[str, Any]:
    today = datetime.now(UTC).date()
    keys = [
        {"id": f"key-{n}", "secret": secret, "account": f"account-{n}"} for n, secret in enumerate(simulator.secrets)
    ]
    refusing = {"id": "refusing", "secret": "sk-" + "r" * 40, "upstream": {"url": other, "models": {"refused": "m"}}}
    return {
        "upstream": simulator.url,
        "redis": store,
        "master_key": "${POOL_MASTER_KEY}",
        "keys": [*keys, refusing],
        "workers": 2,
        "queue": {"max_wait": "1s"},
        "accounts": {
            # 60 a minute of the 100 that upstream allows, at the most one at once: requests have to wait
            "account-0": {
                "models": {"gpt-4o": {"rpm": 60}},
                "grants": [{"usd": 100, "expires_on": str(today + timedelta(days=3))}],
                "monthly_limit_usd": 50,
            },
        },
        "metrics": {"models": ["refused"]},
        "spend": {"daily_limit_usd": 1000},
        "cache": {"models": ["gpt-4o-mini"]},
        "clients": [
            {"id": "app", "key": CLIENT_KEYS["app"]},
            {"id": "capped", "key": CLIENT_KEYS["capped"], "budgets": [{"requests": 2, "per": "day"}]},
            {"id": "soft", "key": CLIENT_KEYS["soft"], "budgets": [{"requests": 2, "per": "day", "mode": "soft"}]},
            {"id": "leaving", "key": CLIENT_KEYS["leaving"], "expires_on": str(today + timedelta(days=5))},
        ],
        "alerts": {"targets": [{"url": f"{other}/hook", "name": "hook"}]},
    }


class Load:
    """Requests of many kinds, in rounds, until it is stopped."""

    def __init__(self, proxy: RunningProxy) -> None:
        self.proxy = proxy
        self.rounds = 0
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(24)

    def chat(self, client: str, model: str, text: str, **more: Any) -> None:
        body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
        with contextlib.suppress(OSError):  # a worker that hangs or was killed
            fetch(
                f"{self.proxy.base_url}/chat/completions",
                method="POST",
                body=body,
                headers={"Authorization": f"Bearer {CLIENT_KEYS[client]}"},
            )

    def run(self) -> None:
        while not self._stopped.is_set():
            number, self.rounds = self.rounds, self.rounds + 1
            asked = [("app", "gpt-4o", f"{number} {n}") for n in range(12)]
            asked += [("app", "gpt-4o-mini", "the same"), ("capped", "gpt-4o-mini", f"c{number}")]
            asked += [("soft", "gpt-4o-mini", f"s{number}"), ("leaving", "gpt-4o-mini", f"l{number}")]
            asked += [("app", "refused", str(number)), ("app", "our-own-model", str(number))]
            waiting = [self._pool.submit(self.chat, *one) for one in asked]
            waiting.append(self._pool.submit(self.chat, "app", "gpt-4o-mini", f"x{number}", stream=True))
            waiting.append(self._pool.submit(self.chat, "app", "gpt-4o-mini", f"t{number}", temperature=2))
            for one in waiting:
                one.result()
            self._stopped.wait(0.2)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=self.run)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()
            self._pool.shutdown()


Asked = tuple[str, str, str]
# What takes a pool at rest, and a second start.
AFTERWARDS = {"Probes", "Starts"}


def asked() -> set[Asked]:
    """(dashboard, panel or variable, PromQL) of everything that the dashboards ask."""
    return {(file.stem, where, expr) for file in DASHBOARDS for where, expr in queries(json.loads(file.read_text()))}


def answered(prometheus: Prometheus, expr: str) -> bool:
    """Whether there is a number now: a series, or a value for a variable."""
    if expr.startswith("label_values("):
        metric, _, label = expr.removeprefix("label_values(").removesuffix(")").rpartition(", ")
        return bool(prometheus.labels(label, filled_in(metric, WINDOW)))
    return any(not math.isnan(value) for value in prometheus.values(filled_in(expr, WINDOW)))


def unanswered(prometheus: Prometheus, wanted: set[Asked]) -> set[Asked]:
    return {one for one in wanted if not answered(prometheus, one[2])}


def name_outside_use(store_url: str) -> None:
    """As the replica does that judges."""

    async def run() -> None:
        store = connect(store_url)
        await OutsideStore(store, "default").put([OutsideUse("account-0", "gpt-4o", time.time(), 40.0, 12_000.0)])
        await store.close()

    asyncio.run(run())


def make_older(store_url: str, seconds: float) -> None:
    """Let `seconds` pass in the store."""

    async def run() -> None:
        store = connect(store_url)
        await move_time(ledger_on(store, "default"), seconds)
        await store.close()

    asyncio.run(run())


@pytest.mark.alone
def test_every_query_of_every_dashboard_has_data_while_the_product_is_under_load(
    program: Callable[[str], str],
    start_simulator: Callable[..., Simulator],
    start_proxy: Callable[..., RunningProxy],
    other: str,
    tmp_path: Path,
):
    simulator = start_simulator(KEYS, "--rpm", "100")
    simulator.fault(1, "invalid_api_key")
    simulator.fault(2, "insufficient_quota")
    simulator.fault(3, "slow_down")
    simulator.fault(4, "error_500", count=3)
    with running_valkey(tmp_path) as store:
        config, env = configuration(simulator, other, store), {"POOL_MASTER_KEY": "0123456789abcdef" * 2}
        proxy = start_proxy(config, env=env)
        target = proxy.admin_url.removeprefix("http://")
        session = f"{proxy.base_url.replace('http', 'ws')}/realtime?model=gpt-realtime"
        bearer = {"Authorization": f"Bearer {CLIENT_KEYS['app']}"}
        with running_prometheus(program("prometheus"), tmp_path / "prometheus", target) as prometheus:
            wait_until(lambda: prometheus.values("up") == [1.0], "the first scrape")
            missing = {one for one in asked() if one[1] not in AFTERWARDS}
            name_outside_use(store)
            with Load(proxy).running(), open_websocket(session, additional_headers=bearer):
                os.kill(proxy.worker_pids()[0], signal.SIGSTOP)
                # The credit is assessed once a minute, a worker is killed after 20 s, the rest comes with the load.
                deadline = time.monotonic() + PATIENCE_S
                while (missing := unanswered(prometheus, missing)) and time.monotonic() < deadline:
                    time.sleep(0.5)
                wait_until(lambda: proxy.total("quotapool_worker_restarts_total", reason="hung") == 1, "a hung worker")
            assert {(page, where) for page, where, _ in missing} == set()

            make_older(store, 3600)  # without requests, keys without money are probed
            missing = {one for one in asked() if one[1] == "Probes"}
            wait_until(lambda: not unanswered(prometheus, missing), "a probe is shown")
            assert proxy.stop() == 0
            start_proxy(proxy.config, env=env)
            missing = {one for one in asked() if one[1] == "Starts"}
            wait_until(lambda: not unanswered(prometheus, missing), "the second start is marked")
