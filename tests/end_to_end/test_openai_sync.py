"""What OpenAI itself says: our books beside its costs, its limits as ours, when keys expire and what credit is left."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from decimal import Decimal

import yaml
from quotapool.simulator import simulated_admin_secret, simulated_session_secret

from tests.fakes.processes import fetch, pool_config, wait_until

MICRO = Decimal("0.000001")
ADMIN = {"organization": "acme", "secret": simulated_admin_secret("acme")}
ACCOUNTS = {
    "key-0": {"organization": "acme", "project": "proj_sim_account-00"},
    "key-1": {"organization": "acme", "project": "proj_sim_account-01"},
}


def in_one_organisation(simulator, **limits):
    for n in range(len(simulator.secrets)):
        put(f"{simulator.url}/_sim/accounts", {"id": f"account-{n:02d}", "organization": "acme", **limits})


def put(url, body):
    status, text = fetch(url, method="POST", body=body)
    assert status == 200, text


def post(proxy, path, **body):
    return fetch(f"{proxy.base_url}/{path}", method="POST", body=body)


def costs_of(simulator) -> Decimal:
    """The costs API's own total since yesterday, in USD."""
    url = f"{simulator.url}/v1/organization/costs?start_time={int(time.time()) - 86_400}"
    _, text = fetch(url, headers={"Authorization": f"Bearer {ADMIN['secret']}"})
    days = json.loads(text, parse_float=Decimal)["data"]
    return sum((result["amount"]["value"] for day in days for result in day["results"]), Decimal(0))


def test_our_books_and_openais_costs_agree_to_the_micro_dollar(start_simulator, start_proxy):
    simulator = start_simulator(2, "--completion-tokens", "40")
    in_one_organisation(simulator, rpm=500, tpm=200_000)
    proxy = start_proxy(pool_config(simulator, accounts=ACCOUNTS, admin_keys=[ADMIN]))
    # Given a mix: plain, a cached prompt, streamed with and without being asked for usage, priority, flex, embeddings
    hello = [{"role": "user", "content": "hello"}]
    long = [{"role": "user", "content": "x" * 8000}]
    mix = [
        ("chat/completions", {"model": "gpt-4o", "messages": hello}),
        ("chat/completions", {"model": "gpt-4o-mini", "messages": long}),
        ("chat/completions", {"model": "gpt-4.1", "messages": long, "stream": True}),
        ("chat/completions", {"model": "gpt-5.5", "messages": hello, "service_tier": "priority"}),
        (
            "chat/completions",
            {"model": "gpt-5.5", "messages": hello, "service_tier": "flex", "reasoning_effort": "high"},
        ),
        ("responses", {"model": "gpt-5.5", "input": "hello", "stream": True}),
        ("embeddings", {"model": "text-embedding-3-small", "input": "x" * 4000}),
    ]
    for path, body in mix * 3:
        status, text = post(proxy, path, **body)
        assert status == 200, text
    theirs = costs_of(simulator)
    assert theirs > Decimal("0.01")
    wait_until(lambda: recorded(proxy) == len(mix) * 3, "all is in the books")
    # When the books are compared
    ran = proxy.command("openai", "reconcile", "--since", "2d", "--json")
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout, parse_float=Decimal)
    # I expect one sum, day by day and key by key
    total = told["total"]
    assert total["ours_usd"].quantize(MICRO) == total["theirs_usd"].quantize(MICRO) == theirs.quantize(MICRO)
    assert abs(total["difference_usd"]) < MICRO
    assert told["problems"] == told["reasons"] == []
    assert {(line["account"], line["key"]) for line in told["lines"]} == {("key-0", "key-0"), ("key-1", "key-1")}
    assert all(abs(line["difference_usd"]) < MICRO for line in told["lines"])
    assert [line["their_requests"] for line in told["lines"]] == [line["our_requests"] for line in told["lines"]]
    assert sum(line["their_requests"] for line in told["lines"]) == len(mix) * 3
    # and somebody else's use of a key is seen as such
    elsewhere = {"Authorization": f"Bearer {simulator.secrets[0]}"}
    body = {"model": "gpt-4o", "messages": long}
    for _ in range(4):
        fetch(f"{simulator.url}/v1/chat/completions", method="POST", body=body, headers=elsewhere)
    ran = proxy.command("openai", "reconcile", "--since", "2d", "--json")
    told = json.loads(ran.stdout, parse_float=Decimal)
    # 2,000 tokens, 1,920 of them cached: 80 x $2.50 + 1,920 x $1.25 + 40 x $10 a million = $0.0030, four times
    assert -told["total"]["difference_usd"].quantize(MICRO) == Decimal("0.012")
    assert any("today is in it" in reason for reason in told["reasons"])
    shown = proxy.command("openai", "reconcile").stdout
    assert "total" in shown
    assert "-0.012" in shown
    rows = proxy.command("openai", "reconcile", "--csv").stdout.splitlines()
    assert rows[0].startswith("day,account,key,ours_usd")
    assert rows[1].startswith(f"{datetime.now(UTC):%Y-%m-%d},key-0,key-0,")


def recorded(proxy):
    return json.loads(proxy.command("usage", "--json").stdout)["total"]["requests"]


def test_limits_of_a_project_are_imported_and_hold(start_simulator, start_proxy):
    # Given an upstream that allows 500 a minute, and an admin API that says 4
    simulator, says = start_simulator(1), start_simulator(1)
    in_one_organisation(says, rpm=4, tpm=200_000)
    config = pool_config(
        simulator,
        accounts={"key-0": ACCOUNTS["key-0"]},
        admin_keys=[ADMIN],
        admin_upstream=says.url,
        import_limits=True,
        queue={"max_wait": 0},
    )
    proxy = start_proxy(config)
    wait_until(lambda: "limits imported from OpenAI" in proxy.log(), "limits are imported")
    # When ten requests for a model that nobody used before come at once (workers may hear of it a moment later)
    fresh = iter(["gpt-4o", "gpt-4.1", "gpt-4o-mini", "gpt-5.5", "gpt-4.1-mini"])
    wait_until(lambda: 0 < served(proxy, next(fresh)) <= 4, "workers hold to it")
    # and as a fragment for the configuration
    ran = proxy.command("openai", "limits", "--write")
    assert ran.returncode == 0, ran.stderr
    written = yaml.safe_load(ran.stdout)["accounts"]["key-0"]
    assert written["project"] == "proj_sim_account-00"
    assert written["models"]["gpt-4o"] == {"rpm": 4, "tpm": 200_000}
    assert "gpt-4o" in proxy.command("openai", "limits").stdout


def served(proxy, model):
    """How many of ten requests at once are served."""
    statuses = [post(proxy, "chat/completions", model=model, messages=[])[0] for _ in range(10)]
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


def test_check_shows_when_a_key_expires_and_what_credit_is_left(start_simulator, start_proxy):
    simulator = start_simulator(2)
    in_one_organisation(simulator)
    expires = int(time.time()) + 10 * 86_400 + 3600
    put(f"{simulator.url}/_sim/keys/0/facts", {"name": "backend", "expires_at": expires})
    put(f"{simulator.url}/_sim/accounts/account-01/money", {"granted_usd": 42, "project_limit_cents": 0})
    accounts = {**ACCOUNTS, "key-1": {**ACCOUNTS["key-1"], "session_key": simulated_session_secret("account-01")}}
    proxy = start_proxy(pool_config(simulator, accounts=accounts, admin_keys=[ADMIN]), env={"COLUMNS": "200"})
    ran = proxy.command("check", "--json")
    assert ran.returncode == 0, ran.stderr
    rows = {row["id"]: row for row in json.loads(ran.stdout)["keys"]}
    assert (rows["key-0"]["openai"]["name"], rows["key-0"]["openai"]["expires_at"]) == ("backend", expires)
    assert rows["key-1"]["openai"]["expires_at"] is None
    account = rows["key-1"]["openai_account"]
    assert (account["available_usd"], account["project_limit_usd"], account["project_stopped"]) == (42, 0, True)
    shown = " ".join(proxy.command("check").stdout.split())
    assert "in 10 days" in shown
    # An expired login is said to be renewed, and does not make the keys unusable.
    put(f"{simulator.url}/_sim/accounts/account-01/money", {"session_expired": True})
    ran = proxy.command("check", "--json")
    assert ran.returncode == 0
    assert any("the session key has expired; renew it" in problem for problem in json.loads(ran.stdout)["problems"])


def test_a_wrong_admin_key_is_explained_once_while_serving(start_simulator, start_proxy):
    simulator = start_simulator(1)
    wrong = {"organization": "acme", "secret": simulated_admin_secret("nobody")}
    proxy = start_proxy(pool_config(simulator, admin_keys=[wrong]))
    wait_until(lambda: "OpenAI does not accept this admin key" in proxy.log(), "it is said")
    ran = proxy.command("openai", "reconcile")
    assert ran.returncode == 1
    assert "make a new one" in ran.stderr
    assert wrong["secret"] not in ran.stderr + ran.stdout + proxy.log()
    assert post(proxy, "chat/completions", model="gpt-4o", messages=[])[0] == 200


def test_without_an_admin_key_the_command_says_how_to_get_one(start_simulator, start_proxy):
    simulator = start_simulator(1)
    proxy = start_proxy(pool_config(simulator))
    ran = proxy.command("openai", "limits")
    assert ran.returncode == 2
    assert "platform.openai.com/settings/organization/admin-keys" in ran.stderr


def test_a_client_reaches_neither_the_admin_api_nor_the_billing_pages(start_simulator, start_proxy):
    simulator = start_simulator(1)
    proxy = start_proxy(pool_config(simulator))
    for path in ("organization/costs?start_time=0", "organization/projects", "dashboard/billing/credit_grants"):
        status, text = fetch(f"{proxy.base_url}/{path}", headers={"Authorization": f"Bearer {ADMIN['secret']}"})
        assert status == 403, text
    seen = json.loads(fetch(f"{simulator.url}/_sim/log")[1])["requests"]
    assert [entry for entry in seen if "organization" in entry["path"] or "dashboard" in entry["path"]] == []
