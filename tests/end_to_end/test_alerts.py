"""Alerts of a running proxy reach a webhook, signed; `alerts test` says what each target answered."""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from quotapool.simulator import simulated_admin_secret

from tests.fakes.processes import fetch, pool_config, wait_until

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
SECRET = "a-secret-of-the-webhook"


class Hook(ThreadingHTTPServer):
    """A webhook; its first answer is a failure."""

    def __init__(self) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.failures = 1
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/hook"

    def kinds(self) -> list[str]:
        return [row["kind"] for _, body in self.got for row in json.loads(body)["alerts"]]


class _Handler(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fails, self.server.failures = self.server.failures > 0, self.server.failures - 1
        if not fails:
            self.server.got.append((dict(self.headers.items()), body))
        self.send_response(500 if fails else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def hook() -> Iterator[Hook]:
    server = Hook()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_dead_key_reaches_the_operators_webhook_signed_and_once(start_simulator, start_proxy, hook):
    simulator = start_simulator(2)
    simulator.fault(0, "account_deactivated")
    alerts = {"targets": [{"url": hook.url, "secret": SECRET, "name": "ops"}], "min_usable_keys": 2}
    proxy = start_proxy(pool_config(simulator, alerts=alerts))
    for _ in range(8):
        assert fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)[0] == 200
    wait_until(lambda: {"key_removed", "usable_keys"} <= set(hook.kinds()), "both alerts arrive", 25)
    headers, body = hook.got[0]
    at, _, given = headers["x-quotapool-signature"].partition(",v1=")
    assert given == hmac.new(SECRET.encode(), f"{at[2:]}.".encode() + body, hashlib.sha256).hexdigest()
    assert sorted(hook.kinds()) == ["key_removed", "usable_keys"]
    assert proxy.total("quotapool_alert_messages_total", target="ops", result="sent") == len(hook.got)
    everything = proxy.log().encode() + b"".join(body for _, body in hook.got)
    assert SECRET.encode() not in everything
    assert simulator.secrets[0].encode() not in everything


def test_alerts_test_says_what_each_target_answered(start_simulator, start_proxy, hook):
    closed = "http://127.0.0.1:9/hook"
    targets = [
        {"url": hook.url, "name": "ops"},
        {"url": closed, "name": "away"},
        {"url": "nonsense://x", "name": "odd"},
    ]
    proxy = start_proxy(pool_config(start_simulator(1), alerts={"targets": targets}))
    hook.failures = 0
    said = proxy.command("alerts", "test")
    assert said.returncode == 1
    lines = said.stdout.splitlines()
    assert "nonsense:// is not understood" in lines[0]
    assert lines[1] == "ops: delivered"
    assert lines[2].startswith("away: not delivered: no connection")
    assert hook.kinds() == ["test"]
    assert "an alert target cannot be used" in proxy.log()


def test_a_key_that_openai_says_expires_soon_is_told(start_simulator, start_proxy, hook):
    simulator = start_simulator(2)
    facts = {"expires_at": int(time.time()) + 3 * 86_400}
    assert fetch(f"{simulator.url}/_sim/keys/1/facts", method="POST", body=facts)[0] == 200
    admin = {"organization": "acme", "secret": simulated_admin_secret("account-01")}
    accounts = {"key-1": {"project": "proj_sim_account-01"}}
    alerts = {"targets": [{"url": hook.url, "name": "ops"}]}
    start_proxy(pool_config(simulator, alerts=alerts, admin_keys=[admin], accounts=accounts))
    wait_until(lambda: any(b"key key-1 expires on" in body for _, body in hook.got), "the alert arrives", 25)
