"""An operator has the last word about a key: within a second, over restarts, whatever upstream says."""

from __future__ import annotations

import json

import pytest

from tests.fakes.processes import fetch, pool_config, wait_until

CHAT = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hello"}]}


def ask(proxy) -> int:
    return fetch(f"{proxy.base_url}/chat/completions", method="POST", body=CHAT)[0]


def states(proxy) -> dict[str, str]:
    rows = json.loads(proxy.command("keys", "list", "--json").stdout)["keys"]
    return {row["id"]: row["state"] for row in rows}


def attempts(simulator) -> dict[str, int]:
    return {account["id"]: account["attempts"] for account in simulator.stats()["accounts"]}


@pytest.mark.parametrize(("saying", "state"), [("disable", "disabled"), ("drain", "draining"), ("remove", "removed")])
def test_a_key_that_an_operator_takes_out_gets_no_request_until_it_is_enabled(
    start_simulator, start_proxy, saying, state
):
    simulator = start_simulator(2)
    proxy = start_proxy(pool_config(simulator))
    said = proxy.command("keys", saying, "key-0")
    assert (said.returncode, said.stdout) == (0, f"key key-0 is {state}\n")
    assert [ask(proxy) for _ in range(10)] == [200] * 10
    assert attempts(simulator) == {"account-00": 0, "account-01": 10}
    assert states(proxy) == {"key-0": state, "key-1": "active"}
    assert proxy.command("keys", "enable", "key-0").returncode == 0
    wait_until(lambda: ask(proxy) == 200 and attempts(simulator)["account-00"] > 0, "key-0 serves again", 10)


def test_a_dead_key_comes_back_by_an_operators_word_and_not_before(start_simulator, start_proxy):
    simulator = start_simulator(2)
    simulator.fault(0, "account_deactivated")
    proxy = start_proxy(pool_config(simulator))
    wait_until(lambda: ask(proxy) == 200 and states(proxy)["key-0"] == "removed", "key-0 is found dead", 10)
    simulator.heal(0)
    before = attempts(simulator)["account-00"]
    assert [ask(proxy) for _ in range(10)] == [200] * 10
    assert attempts(simulator)["account-00"] == before
    assert proxy.command("keys", "enable", "key-0").stdout == "key key-0 is active\n"
    wait_until(lambda: ask(proxy) == 200 and attempts(simulator)["account-00"] > before, "key-0 serves again", 10)


def test_an_unknown_key_is_named(start_simulator, start_proxy):
    proxy = start_proxy(pool_config(start_simulator(1)))
    said = proxy.command("keys", "disable", "nobody")
    assert said.returncode == 2
    assert "no key 'nobody'" in said.stderr
