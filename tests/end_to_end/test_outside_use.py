"""Somebody else calls OpenAI with one of the pool's keys, past the proxy: its account is named, and no other."""

from __future__ import annotations

import json
import time

import redis

from tests.fakes.load import Load
from tests.fakes.processes import pool_config, wait_until

RPM = 600  # of each account: ten a second
OWN = 10  # requests a second by the pool, half of what its two accounts allow
OUTSIDE = 2  # a second with the key of one account: 20 % of its limit
WITHIN_S = 300


def now(proxy) -> list[dict]:
    done = proxy.command("now", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["attention"]


def test_a_second_client_on_an_account_is_named_within_five_minutes_and_its_account_drained_if_it_is_to_be(
    start_simulator, start_proxy, empty_valkey
):
    simulator = start_simulator(2, "--rpm", str(RPM))
    with redis.Redis.from_url(empty_valkey) as store:
        store.set("qp:{default}:epoch", "f:1")  # an old one: of a new store nothing is said for two minutes
    options = {"redis": empty_valkey, "workers": 2, "outside_use": {"drain_after": "1m"}}
    proxy = start_proxy(pool_config(simulator, **options))
    with Load(proxy.base_url, rate=OWN, seconds=WITHIN_S + 120) as own:
        time.sleep(30)  # the books know the limits
        began = time.time()
        with Load(f"{simulator.url}/v1", rate=OUTSIDE, seconds=WITHIN_S + 60, key=simulator.secrets[1]) as stranger:

            def accounts() -> set[str]:
                name = "quotapool_outside_use_requests_per_minute"
                return {dict(labels)["account"] for (metric, labels) in proxy.metrics() if metric == name}

            wait_until(accounts, "outside use is named", seconds=WITHIN_S)
            named_after = time.time() - began
            assert accounts() == {"key-1"}
            assert [row["ids"] for row in now(proxy) if row["code"] == "outside_use"] == [["key-1"]]
            events = proxy.command("events", "--kind", "outside_use", "--json").stdout.splitlines()
            assert [json.loads(line)["field"] for line in events] == ["a/key-1"]
            wait_until(
                lambda: "draining" in proxy.command("keys", "list", "--state", "draining").stdout,
                "its account is drained",
                seconds=120,
            )
            stranger.stop()
        own.stop()
    print(f"named after {named_after:.0f} s")
    assert not own.errors
