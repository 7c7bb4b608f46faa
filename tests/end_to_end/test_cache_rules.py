"""Whose answers are served to whom, what is not kept, and what a client pays for what upstream was not asked for."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import openai
import pytest
from openai import OpenAI

from tests.fakes.cached import Got, got_by_sync
from tests.fakes.processes import RunningProxy, Simulator, fetch, pool_config, wait_until
from tests.fakes.running import reset, running_proxy, running_simulator

CHAT, RESPONSES = "chat.completions.create", "responses.create"
KEYS: Final = {name: f"{name}-client-key-0123456789" for name in ("ann", "bob", "cid", "payer", "poor", "outside")}
CHAT_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
_serial = itertools.count()

Ask = Callable[..., Got]


def clients() -> list[dict[str, Any]]:
    return [
        {"id": "ann", "key": KEYS["ann"], "team": "red"},
        {"id": "bob", "key": KEYS["bob"], "team": "red"},
        {"id": "cid", "key": KEYS["cid"], "models": ["gpt-4o-mini"]},
        {"id": "payer", "key": KEYS["payer"], "budgets": [{"tokens": 1000, "per": "total"}]},
        {"id": "poor", "key": KEYS["poor"], "budgets": [{"tokens": 60, "per": "total"}]},
        {"id": "outside", "key": KEYS["outside"], "cache": False},
    ]


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with running_simulator(2, "--answers", "by_call") as running:
        yield running


@pytest.fixture(autouse=True)
def healed(simulator: Simulator) -> Iterator[None]:
    reset(simulator)
    yield
    reset(simulator)


@pytest.fixture(scope="module")
def start(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """A proxy with such a cache, and clients."""

    def started(**cache: Any) -> Any:
        config = pool_config(
            simulator, clients=clients(), teams={"red": {}}, cache={"models": ["*"], **cache}, queue={"max_wait": 0}
        )
        return running_proxy(tmp_path_factory.mktemp("rules"), config)

    return started


@pytest.fixture(scope="module")
def alone(start: Callable[..., Any]) -> Iterator[RunningProxy]:
    """Each client by itself, as it is by default."""
    with start() as running:
        yield running


@pytest.fixture(scope="module")
def shared(start: Callable[..., Any]) -> Iterator[RunningProxy]:
    """All clients of the pool, who pay a half."""
    with start(scope="pool", client_pays=0.5) as running:
        yield running


def ask(proxy: RunningProxy, client: str, body: dict[str, Any], path: str = CHAT, **headers: str) -> Got:
    with OpenAI(base_url=proxy.base_url, api_key=KEYS[client], max_retries=0) as sdk:
        return got_by_sync(sdk, path, body, headers)


def fresh(**more: Any) -> dict[str, Any]:
    """A chat that nobody has had before; its prompt is 3 tokens, its answer 32."""
    return {"model": "gpt-4o", "messages": [{"role": "user", "content": f"question {next(_serial)}"}], **more}


def calls(simulator: Simulator) -> int:
    return sum(count for path, count in simulator.stats()["calls"].items() if path.startswith("POST"))


def used_tokens(proxy: RunningProxy, client: str) -> float:
    """Of its budget, as the client itself sees it, up to a second later."""
    url = proxy.base_url.removesuffix("/v1")
    status, text = fetch(f"{url}/quotapool/me", headers={"Authorization": f"Bearer {KEYS[client]}"})
    assert status == 200, text
    (budget,) = json.loads(text)["rules"]
    return float(budget["used"])


# ---- who is served another's answer


def test_by_default_nobody_is_served_anothers_answer(alone, simulator):
    body = fresh()
    assert [ask(alone, client, body).result for client in ("ann", "bob", "ann")] == ["miss", "miss", "hit"]
    assert calls(simulator) == 2


def test_a_team_shares_what_its_clients_asked_and_nobody_else_does(start, simulator):
    body = fresh(model="gpt-4o-mini")
    with start(scope="team") as proxy:
        results = [ask(proxy, client, body).result for client in ("ann", "bob", "cid", "cid")]
    assert results == ["miss", "hit", "miss", "hit"]


def test_a_client_gets_no_answer_of_a_model_that_it_may_not_use(shared, simulator):
    body = fresh(model="gpt-4o")
    assert ask(shared, "ann", body).result == "miss"
    assert ask(shared, "bob", body).result == "hit"
    with pytest.raises(openai.PermissionDeniedError) as refused:
        ask(shared, "cid", body)
    assert refused.value.code == "model_not_allowed"
    assert calls(simulator) == 1


def test_a_client_that_is_not_served_from_the_cache_has_no_part_in_it(shared, simulator):
    body = fresh()
    assert [ask(shared, client, body).result for client in ("outside", "ann", "outside")] == ["", "miss", ""]
    assert calls(simulator) == 3


# ---- what is not kept


@pytest.mark.parametrize("fault", ["refusal", "content_filter"])
@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_a_refusal_and_a_filtered_answer_are_not_kept(fault, streams, path, alone, simulator):
    body = fresh(stream=streams)
    if path == RESPONSES:
        body = {"model": "gpt-4o", "input": body["messages"][0]["content"], "store": False, "stream": streams}
    before = len(alone.request_lines())
    for key in range(2):
        simulator.fault(key, fault)
    assert ask(alone, "ann", body, path).result == "miss"
    for key in range(2):
        simulator.heal(key)
    assert [ask(alone, "ann", body, path).source for _ in range(2)] == ["upstream", "cache"]
    wait_until(lambda: len(alone.request_lines()) == before + 3, "all three are in the log", 15)
    assert alone.request_lines()[before]["kept"] == fault


def test_a_stream_that_broke_off_is_not_kept(alone, simulator):
    body = fresh(stream=True)
    for key in range(2):
        simulator.fault(key, "reset_mid_stream", events=6)
    with pytest.raises(Exception, match=r"(?i)peer closed|connection|incomplete|reset"):
        ask(alone, "ann", body)
    for key in range(2):
        simulator.heal(key)
    assert [ask(alone, "ann", body).source for _ in range(2)] == ["upstream", "cache"]


def test_calls_of_tools_are_kept_only_where_that_is_wanted(alone, start):
    body = fresh(tools=[CHAT_TOOL])
    assert [ask(alone, "ann", body).result for _ in range(2)] == ["miss", "miss"]
    with start(tools=True) as proxy:
        assert [ask(proxy, "ann", body).result for _ in range(2)] == ["miss", "hit"]


def test_a_request_that_wants_variety_is_not_looked_up_unless_it_asks_for_that(alone):
    body = fresh(temperature=1.5)
    assert [ask(alone, "ann", body).result for _ in range(2)] == ["bypass", "bypass"]
    allowed = {"Cache-Control": "max-age=600"}
    assert [ask(alone, "ann", body, **allowed).result for _ in range(2)] == ["miss", "hit"]


@pytest.mark.parametrize("more", [{}, {"store": True}])
def test_what_upstream_stores_is_not_kept_here(more, alone, simulator):
    body = {"model": "gpt-4o", "input": f"question {next(_serial)}", **more}
    first, again = (ask(alone, "ann", body, RESPONSES) for _ in range(2))
    assert (first.result, again.result) == ("bypass", "bypass")
    assert first.said.id != again.said.id


def test_a_pool_without_a_cache_says_nothing_of_one(start, simulator):
    with start(models=[]) as proxy:
        assert [ask(proxy, "ann", fresh()).result for _ in range(2)] == ["", ""]


# ---- what it costs the client


def test_an_answer_from_the_cache_pays_its_part_of_the_clients_budget(shared, simulator):
    body = fresh()
    assert ask(shared, "ann", body).result == "miss"
    assert ask(shared, "payer", body).result == "hit"
    # Half of 3 and 32 tokens
    wait_until(lambda: used_tokens(shared, "payer") == 17.5, "it is charged", 15)


def test_a_budget_without_room_refuses_an_answer_from_the_cache(shared, simulator):
    bodies = [fresh() for _ in range(4)]
    for body in bodies:
        ask(shared, "ann", body)
    for body in bodies[:3]:
        assert ask(shared, "poor", body).result == "hit"  # 17.5 tokens each, of 60
    wait_until(lambda: used_tokens(shared, "poor") == 52.5, "they are charged", 15)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(shared, "poor", bodies[3])
    assert refused.value.code == "client_budget_exhausted"
    assert "60 tokens in total: 53 used, this request needs up to 18 tokens" in refused.value.body["message"]
    assert calls(simulator) == 4
    wait_until(lambda: refusals(shared), "the refusal is in the log", 15)
    (line,) = refusals(shared)
    assert (line["rules"], line["waited_for"]) == (["tokens/total"], "rules tokens/total")


def refusals(proxy: RunningProxy) -> list[dict[str, Any]]:
    return [line for line in proxy.request_lines() if line.get("code") == "client_budget_exhausted"]


def test_by_default_an_answer_from_the_cache_costs_nothing_even_where_too_little_is_left(alone):
    bodies = [fresh(max_completion_tokens=20) for _ in range(2)]
    for body in bodies:
        assert ask(alone, "poor", body).result == "miss"
    wait_until(lambda: used_tokens(alone, "poor") == 46, "3 and 20 tokens are charged, twice", 15)
    with pytest.raises(openai.RateLimitError) as refused:
        ask(alone, "poor", fresh(max_completion_tokens=20))  # of 60
    assert refused.value.code == "client_budget_exhausted"
    for body in bodies:
        assert ask(alone, "poor", body).result == "hit"
    time.sleep(1.1)  # in which it would be charged, and for which the client's figures are kept
    assert used_tokens(alone, "poor") == 46
