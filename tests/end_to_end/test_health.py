"""Each key's health with real processes: what runs dry, dies or comes back, and what is nobody's fault.

The simulated OpenAI says what the real one does (its error guide's codes). Who shares what, in these tests: key-0 and
key-1 are one project's, key-2 is another project's of the same organisation, the others belong to nobody of these.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from itertools import cycle
from typing import Any, TypeVar

import pytest
from quotapool.ledger.budgets import Ledger
from quotapool.ledger.clients import ClientStore

from tests.fakes.connect import connect
from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until
from tests.fakes.running import running_proxy, running_simulator
from tests.fakes.store import ledger_on, move_time
from tests.fakes.valkey import running_valkey

T = TypeVar("T")
MONEY, DEAD = "quarantined", "removed"
KEY, PROJECT, ORGANIZATION = {"key-0"}, {"key-0", "key-1"}, {"key-0", "key-1", "key-2"}
# the simulator's fault, its code inside a stream, the state, and whom it takes
CODES = [
    ("credit_balance_exhausted", "credit_balance_exhausted", MONEY, ORGANIZATION),
    ("organization_spend_limit_exceeded", "organization_spend_limit_exceeded", MONEY, ORGANIZATION),
    ("organization_usage_limit_exceeded", "organization_usage_limit_exceeded", MONEY, ORGANIZATION),
    ("billing_not_active", "billing_not_active", MONEY, ORGANIZATION),
    ("project_spend_limit_exceeded", "project_spend_limit_exceeded", MONEY, PROJECT),
    ("insufficient_quota", "insufficient_quota", MONEY, PROJECT),
    ("billing_hard_limit_reached", "billing_hard_limit_reached", MONEY, PROJECT),
    ("account_deactivated", "account_deactivated", DEAD, ORGANIZATION),
    ("access_terminated_403", "access_terminated", DEAD, ORGANIZATION),
    ("access_terminated_429", "access_terminated", DEAD, ORGANIZATION),
    ("invalid_api_key", "invalid_api_key", DEAD, KEY),
]
HELLO = [{"role": "user", "content": "hello"}]
PLAIN = ("/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO})
STREAMED = [
    ("/chat/completions", {"model": "gpt-4o-mini", "messages": HELLO, "stream": True}),
    ("/responses", {"model": "gpt-4o-mini", "input": "hello", "stream": True}),
]


@pytest.fixture(scope="module")
def valkey(tmp_path_factory):
    with running_valkey(tmp_path_factory.mktemp("valkey")) as url:
        yield url


@pytest.fixture(scope="module")
def simulator():
    with running_simulator(10, "--tpm", "10000000", "--rpm", "100000") as running:
        yield running


@pytest.fixture(scope="module")
def proxy(simulator, valkey, tmp_path_factory):
    """Ten keys, two workers, one client called backend and no traffic but ours."""
    config = pool_config(
        simulator,
        redis=valkey,
        workers=2,
        accounts={"acme-app": {"organization": "acme"}, "acme-lab": {"organization": "acme"}},
    )
    for index, account in ((0, "acme-app"), (1, "acme-app"), (2, "acme-lab")):
        config["keys"][index]["account"] = account
    with running_proxy(tmp_path_factory.mktemp("proxy"), config) as running:
        yield running


def in_store(valkey: str, work: Callable[[Ledger], Awaitable[T]]) -> T:
    async def run() -> T:
        store = connect(valkey)
        try:
            return await work(ledger_on(store, "default"))
        finally:
            await store.close()

    return asyncio.run(run())


def admin(proxy: RunningProxy, path: str, method: str = "GET") -> Any:
    token = (proxy.state_dir / "admin-token").read_text().strip()
    status, text = fetch(f"{proxy.admin_url}/admin{path}", method=method, headers={"Authorization": f"Bearer {token}"})
    assert status == 200, text
    return json.loads(text)


def out(proxy: RunningProxy) -> dict[str, str]:
    """Keys that are not active, and their state."""
    return {row["id"]: row["state"] for row in admin(proxy, "/keys")["keys"] if row["state"] != "active"}


def hit(simulator: Simulator) -> int:
    return sum(sum(key["faulted"].values()) for account in simulator.stats()["accounts"] for key in account["keys"])


def all_well(simulator: Simulator, proxy: RunningProxy) -> None:
    """Everything healed, and an operator has enabled what was out."""
    for index in range(10):
        simulator.heal(index)
    for name in out(proxy):
        admin(proxy, f"/keys/{name}/enable", "POST")
    assert out(proxy) == {}


def ask(proxy: RunningProxy, path: str, body: dict[str, Any]) -> None:
    """One request, which must succeed whatever happens to keys."""
    status, text = fetch(proxy.base_url + path, method="POST", body=body)
    assert status == 200, text
    assert '"error": {' not in text
    assert '"error":{' not in text
    assert "response.failed" not in text


def asked_until_hit(simulator: Simulator, proxy: RunningProxy, requests: list[tuple[str, dict[str, Any]]]) -> None:
    before = hit(simulator)
    for _, request in zip(range(200), cycle(requests), strict=False):
        ask(proxy, *request)
        if hit(simulator) > before:
            return
    raise AssertionError("no request met the fault")


@pytest.mark.parametrize("inside", ["as a body", "inside a stream"])
@pytest.mark.parametrize(("fault", "code", "state", "whom"), CODES, ids=[fault for fault, *_ in CODES])
def test_a_key_that_runs_dry_or_dies_leaves_with_those_it_speaks_for_and_no_client_notices(
    simulator, proxy, fault, code, state, whom, inside
):
    if inside == "as a body":
        simulator.fault(0, fault)
        asked_until_hit(simulator, proxy, [PLAIN])
    else:
        simulator.fault(0, "stream_error", code=code)
        asked_until_hit(simulator, proxy, STREAMED)
    wait_until(lambda: out(proxy), "the store knows", 15)
    assert out(proxy) == dict.fromkeys(whom, state)
    for _ in range(5):
        ask(proxy, *PLAIN)
    all_well(simulator, proxy)


def test_topped_up_accounts_come_back_without_traffic_and_cheaply(simulator, proxy, valkey):
    """Given three accounts without money, if they are topped up, I expect them back at their next try, unasked."""
    fetch(f"{simulator.url}/_sim/reset", method="POST")
    for index, fault in ((0, "credit_balance_exhausted"), (4, "insufficient_quota"), (5, "billing_not_active")):
        simulator.fault(index, fault)
    for _ in range(200):
        ask(proxy, *PLAIN)
        if len(out(proxy)) == 5:
            break
    assert out(proxy) == dict.fromkeys(("key-0", "key-1", "key-2", "key-4", "key-5"), MONEY)
    for index in (0, 4, 5):
        simulator.heal(index)
    served = simulator.stats()
    in_store(valkey, lambda ledger: move_time(ledger, 80))
    wait_until(lambda: out(proxy) == {}, "all are back", 10)
    # Three calls in all, one a purse, each an embedding of one token.
    log = json.loads(fetch(f"{simulator.url}/_sim/log?n=10")[1])["requests"]
    completed = sum(account["completed"] for account in simulator.stats()["accounts"])
    assert completed - sum(account["completed"] for account in served["accounts"]) == 3
    assert [entry["path"] for entry in log[-3:]] == ["/v1/embeddings"] * 3
    assert proxy.total("quotapool_probes_total", purpose="credit", result="well") == 3
    spent = in_store(valkey, lambda ledger: ledger.store.client.get(f"{ledger.prefix}:probes:{datetime.now(UTC):%F}"))
    assert 0 < int(spent) / 1e12 < 0.05 / 1000
    events = in_store(valkey, lambda ledger: ledger.store.client.xrevrange(f"{ledger.prefix}:events", count=3))
    assert {entry[b"to"] for _, entry in events} == {b"active"}


@pytest.mark.parametrize("fault", ["html_403", "country"])
def test_a_network_that_is_refused_for_all_keys_removes_none_alarms_once_and_recovers(simulator, proxy, valkey, fault):
    def alarms() -> list[bytes]:
        entries = in_store(valkey, lambda ledger: ledger.store.client.xrange(f"{ledger.prefix}:events"))
        return [entry[b"to"] for _, entry in entries if entry[b"kind"] == b"egress"]

    def lines(words: str) -> int:
        return sum(words in line for line in proxy.log().splitlines())

    before, told = len(alarms()), lines("does not serve our network")
    for index in range(10):
        simulator.fault(index, fault)
    for _ in range(20):
        status, text = fetch(proxy.base_url + PLAIN[0], method="POST", body=PLAIN[1])
        expected = (502, "egress_refused") if fault == "html_403" else (403, "unsupported_country_region_territory")
        assert (status, json.loads(text)["error"]["code"]) == expected
    wait_until(lambda: proxy.total("quotapool_egress_trouble") == 1, "the gauge shows it", 15)
    assert out(proxy) == {}
    assert alarms()[before:] == [b"trouble"]
    assert lines("does not serve our network") == told + 1
    for index in range(10):
        simulator.heal(index)
    for _ in range(20):
        ask(proxy, *PLAIN)
    wait_until(lambda: proxy.total("quotapool_egress_trouble") == 0, "it is over in all workers", 15)
    assert alarms()[before:] == [b"trouble", b"well"]
    assert out(proxy) == {}


def test_a_suspended_client_is_refused_within_a_second_and_served_again_when_resumed(simulator, tmp_path, valkey):
    key = "a-client-key-of-our-own"
    config = pool_config(simulator, redis=valkey, pool="clients", clients=[{"id": "backend", "key": key}])
    with running_proxy(tmp_path, config) as proxy:

        def status() -> int:
            return fetch(f"{proxy.base_url}/models", headers={"Authorization": f"Bearer {key}"})[0]

        assert status() == 200
        in_store(valkey, lambda ledger: ClientStore(ledger.store, "clients").suspend("backend", "bio_policy"))
        wait_until(lambda: status() == 403, "backend is refused", 15)
        listed = json.loads(proxy.command("clients", "list", "--json").stdout)["clients"]
        assert [(row["id"], row["suspended"]) for row in listed] == [("backend", "bio_policy")]
        assert proxy.command("clients", "resume", "backend").returncode == 0
        wait_until(lambda: status() == 200, "backend is served", 15)
        assert proxy.command("clients", "resume", "backend").returncode == 2
