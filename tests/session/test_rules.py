"""Sessions and their client's own limits and budgets: a slot while one is open, and what its responses use."""

from __future__ import annotations

import json

import msgspec
import pytest
from quotapool.money.price_list import PriceList
from quotapool.money.rate_cards import CardSet, RateCard, Rule
from quotapool.store.store import StoreLost

from tests.fakes.sessions import Hall, Refused, heard, say

KEY = "a-client-key-of-our-own"
AUTH = f"Authorization: Bearer {KEY}"
REALTIME = "/v1/realtime?model=gpt-realtime"
CARD = RateCard(input=2, output=5)
RULES = (Rule("equals", "gpt-4o", "gpt-4o"), Rule("starts", "gpt-realtime", "gpt-4o"))
PRICES = PriceList(CardSet("test", "", {}, RULES, {"gpt-4o": {"default": CARD}}))


async def hall_with(open_hall, *budgets, limits=None, **options) -> Hall:
    client = {"id": "app", "key": KEY, "budgets": list(budgets), "limits": limits or {}}
    hall = await open_hall({"a": 1}, clients=[client], queue={"max_wait": 0}, **options)
    hall.house.prices = PRICES
    return hall


async def used(hall: Hall, rule: str) -> tuple[float, float]:
    """(used, held) as the store has them."""
    await hall.settled()
    stored = await hall.house.store.client.get(f"{hall.house.ledger.prefix}:rules:c/app")
    counters, held = msgspec.msgpack.decode(stored)
    held_now = sum(worker[2].get(rule, 0) for worker in held.values()) if held else 0
    return (counters or {}).get(rule, [0])[0], held_now


def create(tokens: int) -> dict[str, object]:
    return {"type": "response.create", "model": "gpt-4o", "input": "x" * 40, "max_output_tokens": tokens}


def done(name: str, prompt: int, completion: int) -> dict[str, object]:
    usage = {"input_tokens": prompt, "output_tokens": completion, "total_tokens": prompt + completion}
    return {"type": "response.done", "response": {"id": name, "status": "completed", "usage": usage}}


async def test_a_session_has_a_slot_for_as_long_as_it_is_open(open_hall):
    hall = await hall_with(open_hall, limits={"concurrent": 1})
    client, upstream = await hall.pair(REALTIME, AUTH)
    assert await used(hall, "concurrent") == (0, 1)
    with pytest.raises(Refused) as refused:
        await hall.connect(REALTIME, AUTH)
    assert refused.value.status == 429
    assert json.loads(refused.value.body)["error"]["code"] == "client_concurrency"
    await hall.over_with(client, upstream)
    assert await used(hall, "concurrent") == (0, 0)
    await hall.pair(REALTIME, AUTH)


async def test_a_response_that_says_what_it_wants_holds_the_most_it_may_use(open_hall):
    hall = await hall_with(open_hall, {"usd": 1000e-12, "per": "total"})
    client, upstream = await hall.pair("/v1/responses", AUTH)
    await say(client, **create(100))
    await upstream.receive()
    assert await used(hall, "usd/total") == (0, 18 * 2 + 100 * 5)
    # A second one of the same size would go beyond it: the client is told, in the session's own words.
    await say(client, **create(100))
    told = await heard(client)
    assert (told["type"], told["status"], told["error"]["code"]) == ("error", 429, "client_budget_exhausted")
    await say(upstream, type="response.created", response={"id": "resp_1", "model": "gpt-4o"})
    usage = {"input_tokens": 10, "output_tokens": 7, "total_tokens": 17}
    await say(upstream, type="response.completed", response={"id": "resp_1", "model": "gpt-4o", "usage": usage})
    assert [(await heard(client))["type"] for _ in range(2)] == ["response.created", "response.completed"]
    assert await used(hall, "usd/total") == (10 * 2 + 7 * 5, 0)
    await hall.over_with(client, upstream)
    assert await used(hall, "usd/total") == (55, 0)


async def test_what_realtime_used_is_charged_and_no_more_is_begun_when_nothing_is_left(open_hall):
    hall = await hall_with(open_hall, {"tokens": 100, "per": "day"}, {"requests": 10, "per": "day"})
    client, upstream = await hall.pair(REALTIME, AUTH)
    await say(client, type="response.create")
    assert json.loads((await upstream.receive())[1])["type"] == "response.create"
    await say(upstream, type="response.created", response={"id": "resp_1"})
    await say(upstream, **done("resp_1", 60, 30))
    assert [(await heard(client))["type"] for _ in range(2)] == ["response.created", "response.done"]
    assert await used(hall, "tokens/day") == (90, 0)
    assert await used(hall, "requests/day") == (1, 0)
    await say(client, type="response.create")
    await upstream.receive()
    await say(upstream, type="response.created", response={"id": "resp_2"})
    await say(upstream, **done("resp_2", 60, 30))
    assert [(await heard(client))["type"] for _ in range(2)] == ["response.created", "response.done"]
    assert (await used(hall, "tokens/day"))[0] == 180
    await say(client, type="response.create")
    told = await heard(client)
    assert (told["type"], told["error"]["code"]) == ("error", "client_budget_exhausted")
    assert hall.house.recorder.refused_events == [("client_budget_exhausted", ("tokens/day",))]


async def test_without_the_store_a_response_is_refused_and_the_session_goes_on(open_hall):
    hall = await hall_with(open_hall, {"tokens": 100, "per": "day"}, on_redis_loss="refuse", store_patience=0.1)
    client, upstream = await hall.pair(REALTIME, AUTH)
    hall.house.ledger.store.evalsha_batch = gone
    await say(client, type="response.create")
    told = await heard(client)
    assert (told["type"], told["error"]["code"]) == ("error", "store_unavailable")
    await say(client, type="input_audio_buffer.clear")
    assert json.loads((await upstream.receive())[1])["type"] == "input_audio_buffer.clear"


async def gone(*_args: object, **_more: object) -> bytes:
    raise StoreLost("connect", sent=False)


async def test_a_session_ends_when_its_clients_budget_is_used_up(open_hall, virtual_time):
    hall = await hall_with(open_hall, {"usd": 300e-12, "per": "month"})
    client, upstream = await hall.pair(REALTIME, AUTH)
    await say(upstream, type="session.created", session={"model": "gpt-realtime"})
    await say(upstream, type="response.created", response={"id": "resp_1"})  # begun by what was heard, not asked for
    await say(upstream, **done("resp_1", 60, 50))  # 370
    assert [(await heard(client))["type"] for _ in range(3)] == ["session.created", "response.created", "response.done"]
    await used(hall, "usd/month")
    virtual_time.advance(1.1)
    assert await client.closed() == (1008, "the client's budget usd/month is used up")
