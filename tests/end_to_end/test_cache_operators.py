"""The cache as operators have it: what it keeps, did and saved, by command, admin API and metrics; and deleting it."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
from quotapool.domain.observer import Observer
from quotapool.domain.request_record import RequestRecord, Saved
from quotapool.domain.wallet import PICO
from quotapool.money.spend_counter import SpendCounter
from quotapool.money.spend_store import SpendStore

from tests.fakes.connect import connect
from tests.fakes.kept_answers import keep
from tests.fakes.processes import fetch, pool_config, wait_until

KEPT = (("app", "gpt-4o"), ("app", "gpt-4o-mini"), ("web", "gpt-4o"))


def fill(url: str) -> None:
    """Three kept answers, and what a day's requests did: 2 hits, 1 miss, 1 that was not looked up."""

    async def main() -> None:
        store = connect(url)
        await keep(store, "default", *KEPT)
        counter = SpendCounter(SpendStore(store, "default"), Observer())
        hit = Saved(1, 1_000, 200, PICO // 4)
        for result, saved in (("hit", hit), ("hit", hit), ("miss", None), ("bypass", None)):
            counter.cached(RequestRecord("qp_1", 0.0, client="app", model="gpt-4o", cache=result, saved=saved))
        assert await counter.flush()
        await store.close()

    asyncio.run(main())


@pytest.fixture
def proxy(start_simulator, start_proxy, empty_valkey):
    fill(empty_valkey)
    config = pool_config(
        start_simulator(1),
        redis=empty_valkey,
        cache={"models": ["gpt-4o*"], "max_size": "1MiB"},
        master_key="${POOL_MASTER_KEY}",
        clients=[{"id": "app", "key": "a-client-key-of-the-app", "cache": True}],
    )
    return start_proxy(config, env={"POOL_MASTER_KEY": "0123456789abcdef" * 2})


def admin(proxy, path: str, method: str = "GET"):
    token = (proxy.state_dir / "admin-token").read_text().strip()
    status, text = fetch(f"{proxy.admin_url}/admin/{path}", method=method, headers={"Authorization": f"Bearer {token}"})
    assert status == 200, text
    return json.loads(text)


def ask(proxy, words: str, cache_control: str = "") -> int:
    headers = {"Authorization": "Bearer a-client-key-of-the-app"}
    headers |= {"Cache-Control": cache_control} if cache_control else {}
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": words}]}
    return fetch(f"{proxy.base_url}/chat/completions", method="POST", body=body, headers=headers)[0]


def ran(proxy, *words: str) -> str:
    done = proxy.command(*words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def metric(proxy, name: str) -> float:
    found = re.search(rf"^quotapool_{name} (\S+)$", fetch(f"{proxy.admin_url}/metrics")[1], re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def test_commands_admin_api_and_metrics_tell_the_same_and_can_delete_it(proxy):
    state = json.loads(ran(proxy, "cache", "stats", "--json"))
    assert (state["patterns"], state["entries"], state["max_bytes"]) == (["gpt-4o*"], 3, 2**20)
    assert [(one["name"], one["entries"]) for one in state["clients"]] == [("app", 2), ("web", 1)]
    today = state["today"]
    assert [today[name] for name in ("hit", "coalesced", "miss", "bypass")] == [2, 0, 1, 1]
    assert (today["saved_requests"], today["prompt_tokens"], today["usd"]) == (2, 2_000, 0.5)
    assert admin(proxy, "cache") == state
    savings = admin(proxy, "savings")
    assert (savings["pool_cache_today"], savings["pool_cache"]) == (today, state["month"])
    assert "2 requests were served by the pool's own cache, which saved 2,400 tokens and $0.50" in ran(proxy, "savings")
    told = ran(proxy, "cache", "stats")
    assert "kept: answers of gpt-4o*" in told
    assert f"3 entries, {state['bytes'] / 1024:.1f} KiB of 1.0 MiB" in told
    assert re.search(r"^ app +gpt-4o +2 +2,400 +\$0\.50 *$", told, re.MULTILINE)
    assert (metric(proxy, "cache_entries"), metric(proxy, "cache_limit_bytes")) == (3, 2**20)
    assert metric(proxy, "cache_bytes") == state["bytes"]

    assert ran(proxy, "cache", "clear", "--client", "app", "--model", "gpt-4o") == "1 entry deleted\n"
    assert admin(proxy, "cache?client=web", "DELETE") == {"entries": 1}
    assert [(one["name"], one["entries"]) for one in admin(proxy, "cache")["models"]] == [("gpt-4o-mini", 1)]
    assert ran(proxy, "cache", "clear") == "1 entry deleted\n"
    assert ran(proxy, "cache", "clear") == "0 entries deleted\n"
    # What was saved is not forgotten with it.
    assert admin(proxy, "cache")["today"] == today
    # Each is recorded: who, and what.
    events = [one["data"] for one in admin(proxy, "events?kind=operator")["events"]]
    assert [event["action"] for event in events] == ["clear_cache"] * 4
    assert [json.loads(event["changes"]) for event in events[::-1]] == [
        {"entries": [1, 0], "client": ["app", None], "model": ["gpt-4o", None]},
        {"entries": [1, 0], "client": ["web", None]},
        {"entries": [1, 0]},
        {"entries": [0, 0]},
    ]


def test_requests_that_were_served_from_it_say_so_and_what_that_saved(proxy):
    for number in range(3):
        assert ask(proxy, "hello") == 200
        # the next one finds it once it is in the store
        wait_until(lambda: admin(proxy, "cache")["entries"] == len(KEPT) + 1, "the answer is kept", 10)
        wait_until(lambda n=number: len(admin(proxy, "requests")["requests"]) == n + 1, "the request is known", 10)
    assert ask(proxy, "hello", "no-store") == 200
    wait_until(lambda: len(admin(proxy, "requests")["requests"]) == 4, "the last request is known", 10)
    bypass, *hits, miss = admin(proxy, "requests")["requests"]
    assert [(row["source"], row["cache"], row["kept"]) for row in (miss, *hits, bypass)] == [
        ("upstream", "miss", ""),
        *[("cache", "hit", "")] * 2,
        ("upstream", "bypass", "no_store"),
    ]
    used = {name: miss[name] for name in ("prompt_tokens", "completion_tokens", "usd")}
    assert used["completion_tokens"] > 0
    for hit in hits:
        assert hit["saved"] == {"requests": 1, **used}
        assert (hit["attempts"], hit["prompt_tokens"], hit["usd"]) == ([], 0, 0)
    shown = ran(proxy, "logs", "--cache", "hit").splitlines()
    assert len(shown) == 3
    assert f"hit ${used['usd']:.6f}" in shown[1]
    tokens = used["prompt_tokens"] + used["completion_tokens"]
    told = ran(proxy, "explain", hits[0]["id"])
    assert told.startswith("Served with 200 from the cache.\n")
    assert f"which saved 1 call upstream, {tokens} tokens and ${used['usd']:.6f}." in told
    assert "it says `Cache-Control: no-store`" in ran(proxy, "explain", bypass["id"])
    assert "did not have the answer; it keeps this one." in ran(proxy, "explain", miss["id"])
    # The figures rise by these.
    wait_until(lambda: admin(proxy, "cache")["today"]["hit"] == 4, "savings are booked", 10)
    today = admin(proxy, "cache")["today"]
    assert (today["miss"], today["bypass"], today["saved_requests"]) == (2, 2, 4)
    assert today["usd"] == pytest.approx(0.5 + 2 * used["usd"], abs=1e-6)
    lines = [line for line in proxy.request_lines() if line.get("cache") == "hit"]
    assert [(line["source"], line["saved"]["usd"]) for line in lines] == [("cache", used["usd"])] * 2


def test_a_client_is_served_from_the_cache_or_not_by_command(proxy):
    ran(proxy, "clients", "add", "batch", "--cache", "off")
    assert admin(proxy, "clients/batch")["cache"] is False
    assert ran(proxy, "clients", "set", "batch", "--cache", "on") == "client batch: cache on\n"
    assert admin(proxy, "clients/batch")["cache"] is True
    assert re.search(r"^ cache +on *$", ran(proxy, "clients", "show", "batch"), re.MULTILINE)
    assert ran(proxy, "clients", "set", "batch", "--cache", "default") == "client batch: all as by default\n"
    assert admin(proxy, "clients/batch")["cache"] is None
    assert admin(proxy, "clients/app")["cache"] is True


@pytest.mark.parametrize("words", [("--client", ""), ("--model", "m" * 201)])
def test_a_name_that_cannot_be_is_told_in_one_line(proxy, words):
    failed = proxy.command("cache", "clear", *words)
    assert (failed.returncode, failed.stderr) == (2, f"quotapool: {words[0]} must have 1 to 200 characters\n")
    assert proxy.command("logs", "--cache", "hits").returncode == 2
