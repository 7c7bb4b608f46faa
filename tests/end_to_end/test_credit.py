"""Credit that is known stops an account before OpenAI refuses it, and a top-up brings it back; a spent day refuses."""

from __future__ import annotations

import json
import os
import signal

from tests.fakes.processes import fetch, pool_config, wait_until

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}
DEAR = {"gpt-4o-mini": {"input": 100, "cached_input": 100, "output": 100}}  # USD per million


def ask(proxy) -> tuple[int, dict]:
    status, text = fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)
    return status, json.loads(text)


def rows(proxy) -> dict[str, dict]:
    return {row["id"]: row for row in json.loads(proxy.command("keys", "list", "--json").stdout)["keys"]}


def test_a_grant_of_a_cent_stops_before_upstream_refuses_and_a_top_up_brings_it_back(start_simulator, start_proxy):
    simulator = start_simulator(1)
    proxy = start_proxy(
        pool_config(
            simulator,
            prices=DEAR,
            accounts={"key-0": {"grants": [{"usd": 0.01}], "stop_at": 0.98}},
        )
    )
    # Given one account with a cent of credit, some answers cost more, and it stops without a refusal of upstream's.
    wait_until(lambda: ask(proxy)[0] == 429, "the account stops at its credit", 30)
    assert ask(proxy)[1]["error"]["code"] == "pool_credit_exhausted"
    row = rows(proxy)["key-0"]
    assert (row["state"], row["reason"], row["evidence"]["by"]) == ("quarantined", "credit_stop_at", "wallet")
    assert row["credit"]["remaining_usd"] <= 0.0002
    assert simulator.stats()["accounts"][0]["refused"] == {}
    attempts = simulator.stats()["accounts"][0]["attempts"]
    # Neither traffic nor probes try it meanwhile.
    assert [ask(proxy)[0] for _ in range(5)] == [429] * 5
    assert simulator.stats()["accounts"][0]["attempts"] == attempts
    # If the operator says that there is more, I expect it to serve again within seconds.
    said = proxy.command("keys", "topup", "key-0", "5", "--expires", "2099-01-31")
    assert said.returncode == 0, said.stderr
    assert said.stdout == "account key-0: $5.00 more, until 2099-01-31; $5.00 of credit left\n"
    wait_until(lambda: ask(proxy)[0] == 200, "the account serves again", 15)
    wait_until(lambda: proxy.total("quotapool_credit_remaining_usd", account="key-0") > 4.9, "the metric knows it", 15)
    assert rows(proxy)["key-0"]["state"] == "active"


def test_a_pool_that_spent_its_day_refuses_what_costs_money_and_nothing_else(start_simulator, start_proxy):
    simulator = start_simulator(1)
    proxy = start_proxy(pool_config(simulator, prices=DEAR, spend={"daily_limit_usd": 0.01}))
    wait_until(lambda: ask(proxy)[0] == 429, "the day is spent", 30)
    assert ask(proxy)[1]["error"]["code"] == "pool_daily_limit_reached"
    assert fetch(f"{proxy.base_url}/models")[0] == 200
    assert proxy.total("quotapool_spend_today_usd") >= 0.01
    assert proxy.total("quotapool_daily_limit_usd") == 0.01
    # A worker that is born while the day is spent knows it too: the last word to the crew stands.
    before = proxy.worker_pids()
    os.kill(before[0], signal.SIGKILL)
    wait_until(lambda: proxy.worker_pids() not in ([], before), "another worker", 15)
    wait_until(proxy.ready, "ready again", 15)
    wait_until(lambda: ask(proxy)[1]["error"]["code"] == "pool_daily_limit_reached", "the new one knows", 10)


def test_a_top_up_ends_a_money_quarantines_rest(start_simulator, start_proxy):
    simulator = start_simulator(1)
    simulator.fault(0, "insufficient_quota")
    proxy = start_proxy(pool_config(simulator))
    wait_until(lambda: ask(proxy)[0] == 429 and rows(proxy)["key-0"]["state"] == "quarantined", "out of money", 15)
    simulator.heal(0)
    assert ask(proxy)[0] == 429  # it rests for a minute
    said = proxy.command("keys", "topup", "key-1", "10")
    assert (said.returncode, "no account 'key-1' in the pool; did you mean 'key-0'?" in said.stderr) == (2, True)
    said = proxy.command("keys", "topup", "key-0", "10")
    assert "tried again now" in said.stdout, said.stderr
    wait_until(lambda: ask(proxy)[0] == 200, "it is tried at once", 10)
