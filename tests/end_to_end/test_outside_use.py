"""A second client on the account's key, behind the proxy's back: named within minutes, wherever operators look."""

from __future__ import annotations

import json
import threading
import time
import urllib.request

import redis

from tests.fakes.processes import fetch, pool_config, wait_until

MODEL = "gpt-5.5"
RPM = 240
OURS_S, THEIRS_S = 0.5, 1.25  # between two requests: half of the limit, and a fifth of it


def ask(base_url: str, secret: str) -> None:
    words = {"role": "user", "content": "hello"}
    body = json.dumps({"model": MODEL, "messages": [words], "max_completion_tokens": 20}).encode()
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {secret}"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{base_url}/chat/completions", body, headers), timeout=30
    ) as it:
        it.read()


class Load:
    """A client that asks at an even pace until the block ends."""

    def __init__(self, base_url: str, secret: str, every_s: float) -> None:
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(base_url, secret, every_s, n), daemon=True) for n in range(2)
        ]

    def _run(self, base_url: str, secret: str, every_s: float, n: int) -> None:
        due = time.monotonic() + n * every_s
        while not self._over.wait(max(0.0, due - time.monotonic())):
            due += 2 * every_s
            ask(base_url, secret)

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()


def admin(proxy, path: str):
    token = (proxy.state_dir / "admin-token").read_text().strip()
    status, text = fetch(f"{proxy.admin_url}/admin/{path}", headers={"Authorization": f"Bearer {token}"})
    assert status == 200, text
    return json.loads(text)


def test_a_second_client_on_the_same_key_is_named(start_simulator, start_proxy, empty_valkey):
    simulator = start_simulator(2, "--rpm", str(RPM))
    leaked, other = simulator.secrets
    # A store that has been there for a while. (Of a new one nothing is said for two minutes.)
    with redis.Redis.from_url(empty_valkey) as store:
        store.set("qp:{default}:epoch", "f:1")
    keys = [{"id": "leaked", "account": "acme", "secret": leaked}, {"id": "other", "account": "other", "secret": other}]
    # Given two workers, a hook for alerts, and ours alone
    proxy = start_proxy(pool_config(simulator, redis=empty_valkey, workers=2) | {"keys": keys})
    with Load(proxy.base_url, "none", OURS_S / 2):  # on two accounts
        time.sleep(15)
        assert admin(proxy, "events?kind=outside_use")["events"] == []
        # when somebody uses one of the keys directly
        with Load(f"{simulator.url}/v1", leaked, THEIRS_S):
            wait_until(lambda: admin(proxy, "events?kind=outside_use")["events"], "it is named", seconds=300)
            (event,) = admin(proxy, "events?kind=outside_use")["events"]
            assert (event["data"]["field"], event["data"]["key"], event["data"]["model"]) == ("a/acme", "leaked", MODEL)
            # then so it is everywhere, and the other key is in no such trouble.
            wait_until(
                lambda: admin(proxy, "accounts")["accounts"][0]["outside_use"], "the account says so", seconds=10
            )
            accounts = {row["id"]: row["outside_use"] for row in admin(proxy, "accounts")["accounts"]}
            assert accounts["other"] == []
            (row,) = accounts["acme"]
            assert (row["model"], row["key"]) == (MODEL, "leaked")
            assert 20 <= row["requests_per_minute"] <= 100  # 48 of them
            assert admin(proxy, "keys/leaked")["outside_use"][0]["model"] == MODEL
            (look,) = [one for one in admin(proxy, "now")["attention"] if one["code"] == "outside_use"]
            assert look["ids"] == ["acme"]
            assert "account acme is used by others too" in proxy.command("now").stdout
            shown = fetch(f"{proxy.admin_url}/metrics")[1]
            assert f'quotapool_outside_use_requests_per_minute{{account="acme",model="{MODEL}"}}' in shown
            assert "outside_use" in proxy.command("events", "--kind", "outside_use").stdout
    assert leaked not in proxy.log()
