"""A client's own limits and budgets on the request path: what a request holds, what it used, how it is refused.

Prices here are whole picodollars a token: 2 for the prompt, 5 for the answer, 1 for cached tokens.
"""

from __future__ import annotations

import asyncio
import json
import time

import msgspec
import pytest
from quotapool.domain.request_record import RequestRecord
from quotapool.money.price_list import PriceList
from quotapool.money.rate_cards import CardSet, RateCard, Rule
from quotapool.settings import Settings

from tests.fakes.edge import (
    DONE,
    Client,
    chat_answer,
    chat_body,
    delta,
    error,
    event,
    fails,
    says,
    stream,
    usage_chunk,
)

KEY = "a-client-key-of-our-own"
PICO = 1e-12
CARD = RateCard(input=2, cached_input=1, output=5)
PRICES = PriceList(CardSet("test", "", {}, (Rule("equals", "gpt-4o", "gpt-4o"),), {"gpt-4o": {"default": CARD}}))


async def pool_with(open_pool, *budgets, limits=None, prices=PRICES, accounts=None, **options):
    client = {"id": "app", "key": KEY, "budgets": list(budgets), "limits": limits or {}}
    pool = await open_pool(accounts or {"a": 1}, clients=[client, {"id": "free", "key": KEY + "2"}], **options)
    pool.prices = prices
    return pool


def usd(picodollars: float, per: str = "total", **more) -> dict[str, object]:
    return {"usd": picodollars * PICO, "per": per, **more}


async def ask(pool, tokens: int | None = 10, *, prompt: str = "x" * 40, **more) -> Client:
    """A prompt of 10 tokens by its characters, and an answer of at most `tokens`."""
    body = chat_body(messages=[{"role": "user", "content": prompt}], **more)
    document = json.loads(body)
    document.pop("max_tokens", None)
    if tokens is not None:
        document["max_completion_tokens"] = tokens
    return await pool.ask(Client(json.dumps(document).encode(), key=KEY))


def standing(pool, rule: str):
    return next(s for s in pool.paths.charging.standings("app") if s.rule.id == rule)


async def used(pool, rule: str) -> tuple[float, float]:
    """(used, held) as the store has them."""
    stored = await pool.store.client.get(f"{pool.ledger.prefix}:rules:c/app")
    counters, held = msgspec.msgpack.decode(stored)
    held_now = sum(worker[2].get(rule, 0) for worker in held.values()) if held else 0
    return (counters or {}).get(rule, [0])[0], held_now


# ---- what it costs


async def test_a_budget_pays_what_an_answer_used_and_holds_nothing_afterwards(open_pool):
    pool = await pool_with(open_pool, usd(1000))
    pool.upstream.next(chat_answer(prompt=10, completion=7))
    assert (await ask(pool)).status == 200
    assert await used(pool, "usd/total") == (10 * 2 + 7 * 5, 0)


async def test_cached_tokens_are_paid_once_and_at_their_rate(open_pool):
    pool = await pool_with(open_pool, usd(1000), {"tokens": 1000, "per": "day"})
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 6},
        "completion_tokens_details": {"reasoning_tokens": 5},
    }
    pool.upstream.next(says(200, {"object": "chat.completion", "choices": [], "usage": usage}))
    await ask(pool)
    assert await used(pool, "usd/total") == (4 * 2 + 6 * 1 + 7 * 5, 0)
    assert await used(pool, "tokens/day") == (17, 0)


async def test_money_is_held_at_the_most_a_request_can_cost(open_pool):
    # A prompt of 10 tokens and 8 around it, an answer of 20 twice: 18 * 2 + 40 * 5.
    for limit, status in ((236, 200), (235, 429)):
        pool = await pool_with(open_pool, usd(limit), pool=f"p{limit}")
        assert (await ask(pool, 20, n=2)).status == status
        assert len(pool.upstream.sent) == (1 if status == 200 else 0)


async def test_an_answer_without_a_maximum_holds_what_others_took(open_pool):
    pool = await pool_with(open_pool, {"tokens": 10_000, "per": "total"})
    # 4,096 tokens are held until some answers were seen: with two under way there is no room for a third.
    wait = asyncio.Event()
    pool.upstream.next(*(stream(delta(content="x"), wait, usage_chunk(10, 20), DONE) for _ in range(2)))
    asking = [asyncio.create_task(ask(pool, None, stream=True)) for _ in range(2)]
    await asyncio.sleep(0.1)
    assert await used(pool, "tokens/total") == (0, 2 * (18 + 4096))
    wait.set()
    await asyncio.gather(*asking)
    assert await used(pool, "tokens/total") == (60, 0)
    for _ in range(20):
        await ask(pool, None)
    wait.clear()
    pool.upstream.next(stream(delta(content="x"), wait, usage_chunk(10, 20), DONE))
    last = asyncio.create_task(ask(pool, None, stream=True))
    await asyncio.sleep(0.1)
    assert (await used(pool, "tokens/total"))[1] == 18 + 20
    wait.set()
    await last


async def test_prompts_that_are_larger_than_their_characters_tell_are_held_as_such(open_pool):
    pool = await pool_with(open_pool, {"tokens": 100_000, "per": "total"})
    pool.upstream.next(chat_answer(prompt=36, completion=1))  # twice the 18 of 40 characters
    await ask(pool)
    wait = asyncio.Event()
    pool.upstream.next(stream(delta(content="x"), wait, usage_chunk(36, 1), DONE))
    asking = asyncio.create_task(ask(pool, stream=True))
    await asyncio.sleep(0.1)
    assert (await used(pool, "tokens/total"))[1] == 36 + 10
    wait.set()
    await asking


@pytest.mark.parametrize(
    ("reply", "requests", "tokens"),
    [
        pytest.param(chat_answer(10, 7), 1, 17, id="answered"),
        pytest.param(error(400, "invalid_value"), 1, 0, id="the client's mistake"),
        pytest.param(error(429, "insufficient_quota", kind="insufficient_quota"), 0, 0, id="refused by upstream"),
        pytest.param(error(500, None, kind="server_error"), 0, 0, id="upstream failed"),
        pytest.param(fails("connect", sent=False), 0, 0, id="not reached"),
        pytest.param(fails("reset"), 0, 0, id="broken off before an answer"),
    ],
)
async def test_what_upstream_did_not_charge_costs_its_client_nothing(open_pool, reply, requests, tokens):
    pool = await pool_with(
        open_pool,
        {"requests": 100, "per": "day"},
        {"tokens": 1000, "per": "day"},
        limits={"rpm": 100, "tpm": 1000, "concurrent": 5},
        retry={"max_attempts": 1},
    )
    pool.upstream.next(reply)
    pool.upstream.always["a1"] = reply
    await ask(pool)
    assert await used(pool, "requests/day") == (requests, 0)
    assert await used(pool, "tokens/day") == (tokens, 0)
    assert await used(pool, "concurrent") == (0, 0)
    assert standing(pool, "rpm").left_at(time.time()) == pytest.approx(100 - requests, abs=0.1)
    assert standing(pool, "tpm").left_at(time.time()) == pytest.approx(1000 - tokens, abs=2)


async def test_retries_of_the_proxy_are_one_request_of_the_client(open_pool):
    pool = await pool_with(open_pool, {"requests": 100, "per": "day"}, accounts={"a": 1, "b": 1, "c": 1})
    out = error(429, "insufficient_quota", kind="insufficient_quota")
    pool.upstream.next(out, out, chat_answer())
    assert (await ask(pool)).status == 200
    assert len(pool.upstream.sent) == 3
    assert await used(pool, "requests/day") == (1, 0)


async def test_a_client_that_leaves_pays_for_what_was_seen(open_pool):
    pool = await pool_with(open_pool, usd(10_000))
    pool.upstream.next(stream(delta(content="x" * 40), delta(content="y"), asyncio.Event()))
    body = chat_body(messages=[{"role": "user", "content": "x" * 40}], stream=True, max_tokens=100)
    with pytest.raises(ConnectionError):
        await pool.ask(Client(body, key=KEY, leaves_at=1))
    await pool.quiet()
    spent, held = await used(pool, "usd/total")
    assert held == 0
    assert 10 * 2 <= spent <= 18 * 2 + 100 * 5


async def test_models_that_a_rule_is_not_about_take_nothing_of_it(open_pool):
    pool = await pool_with(open_pool, {"tokens": 50, "per": "total", "models": "gpt-5*"}, {"tokens": 100, "per": "day"})
    await ask(pool, 10)
    assert await used(pool, "tokens/day") == (30, 0)
    assert await used(pool, "tokens/total/gpt-5*") == (0, 0)
    refused = await ask(pool, 60, model="gpt-5.5")
    assert (refused.status, refused.error["code"]) == (429, "client_budget_exhausted")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses"])
async def test_a_stream_that_uses_up_a_budget_is_cut_where_that_is_wanted(open_pool, path):
    chat = path.endswith("completions")
    piece = delta(content="x") if chat else event({"type": "response.output_text.delta", "delta": "x"})
    asked = {"messages": [{"role": "user", "content": "hi"}]} if chat else {"input": "hi"}
    body = json.dumps({"model": "gpt-4o", "stream": True, **asked}).encode()
    cut = {"id": "app", "key": KEY, "budgets": [{"tokens": 5000, "per": "day"}], "on_stream_overrun": "cut"}
    pool = await open_pool(
        {"a": 1}, clients=[cut, {**cut, "id": "other", "key": KEY + "2", "on_stream_overrun": "finish"}]
    )
    pool.upstream.next(stream(*([piece] * 6000), DONE))
    record = RequestRecord("r", time.monotonic(), "POST")
    client = Client(body, target=path, key=KEY)
    await pool.ask(client, record)
    # 4,096 were held of 5,000, so some 900 more may come, and are looked at every 64.
    assert 4_900 <= client.got.count(b'"x"') <= 5_100
    last = json.loads(client.got.strip().rpartition(b"data: ")[2])
    assert (last["error"] if chat else last)["code"] == "client_budget_exhausted"
    assert client.finished
    assert (record.code, record.rules, record.cut) == ("client_budget_exhausted", ("tokens/day",), True)
    assert pool.is_idle()
    # By default it is finished, and the budget is passed by it.
    pool.upstream.next(stream(*([piece] * 6000), DONE))
    client = await pool.ask(Client(body, target=path, key=KEY + "2"))
    assert client.got.count(b'"x"') == 6000


# ---- refusals


async def test_every_rule_that_refuses_is_named_with_what_is_used_and_when_it_resets(open_pool):
    pool = await pool_with(open_pool, usd(400, per="month"), {"tokens": 100, "per": "total"}, queue={"max_wait": 0})
    await ask(pool, 10)  # uses 10 * 2 + 20 * 5 = 120, more than it held
    record = RequestRecord("r", time.monotonic(), "POST")
    client = Client(chat_body(max_tokens=62), key=KEY)
    await pool.ask(client, record)
    assert (client.status, client.error["code"], client.error["type"]) == (
        429,
        "client_budget_exhausted",
        "insufficient_quota",
    )
    assert set(record.rules) == {"usd/month", "tokens/total"}
    message = client.error["message"]
    assert "client app may use $0.00 a month: $0.00 used, this request needs up to $0.00" in message  # 400e-12
    assert "it resets at" in message
    assert "client app may use 100 tokens in total: 30 used" in message
    assert client.header("x-should-retry") == "false"


async def test_a_budget_without_end_names_no_time_to_try_again(open_pool):
    pool = await pool_with(open_pool, {"requests": 2, "per": "total"}, queue={"max_wait": 0})
    await ask(pool)
    await ask(pool)
    record = RequestRecord("r", time.monotonic(), "POST")
    client = Client(chat_body(), key=KEY)
    await pool.ask(client, record)
    assert client.error["code"] == "client_budget_exhausted"
    assert client.error["message"] == "The client app may use 2 requests in total: 2 used."
    assert (client.header("x-should-retry"), client.header("retry-after")) == ("false", None)
    assert record.waited_for.wait_s is None


async def test_a_rate_of_its_own_refuses_until_it_has_refilled(open_pool, virtual_time):
    pool = await pool_with(open_pool, limits={"rpm": 2}, queue={"max_wait": 0})
    assert [(await ask(pool)).status for _ in range(2)] == [200, 200]
    refused, another = await ask(pool), await ask(pool)
    assert (refused.error["code"], refused.error["type"]) == ("client_rate_limited", "requests")
    assert refused.error["message"].startswith("The client app may use 2 requests a minute: 2 used.")
    assert (refused.header("retry-after"), another.header("retry-after")) == ("30", "60")  # not both at once
    assert refused.header("x-should-retry") == "true"
    assert (refused.header("x-ratelimit-limit-requests"), refused.header("x-ratelimit-remaining-requests")) == (
        "2",
        "0",
    )
    virtual_time.advance(30)
    assert (await ask(pool)).status == 200


async def test_who_may_wait_is_served_once_there_is_room(open_pool, virtual_time):
    pool = await pool_with(open_pool, limits={"rpm": 12}, queue={"max_wait": 8})
    began = virtual_time.monotonic()
    assert {(await ask(pool)).status for _ in range(13)} == {200}
    assert virtual_time.monotonic() - began == pytest.approx(5, abs=0.5)
    assert pool.is_idle()


async def test_requests_at_the_same_time_are_bounded_and_wait_for_each_other(open_pool):
    pool = await pool_with(open_pool, limits={"concurrent": 2}, queue={"max_wait": 5})
    wait = asyncio.Event()
    pool.upstream.next(*(stream(delta(content="x"), wait, DONE) for _ in range(2)))
    open_ones = [asyncio.create_task(ask(pool, stream=True)) for _ in range(2)]
    await asyncio.sleep(0.1)
    third = asyncio.create_task(ask(pool))
    await asyncio.sleep(1)
    assert len(pool.upstream.sent) == 2
    wait.set()
    assert (await third).status == 200
    await asyncio.gather(*open_ones)
    assert await used(pool, "concurrent") == (0, 0)
    assert pool.is_idle()


async def test_too_many_at_the_same_time_are_told_so(open_pool):
    pool = await pool_with(open_pool, limits={"concurrent": 1}, queue={"max_wait": 1})
    wait = asyncio.Event()
    pool.upstream.next(stream(delta(content="x"), wait, DONE))
    open_one = asyncio.create_task(ask(pool, stream=True))
    await asyncio.sleep(0.1)
    refused = await ask(pool)
    assert (refused.status, refused.error["code"]) == (429, "client_concurrency")
    assert "1 requests at once: 1 used" in refused.error["message"]
    wait.set()
    await open_one


async def test_a_client_that_waits_for_itself_holds_up_nobody(open_pool):
    pool = await pool_with(open_pool, limits={"rpm": 1}, queue={"max_wait": 50})
    await ask(pool)
    waiting = [asyncio.create_task(ask(pool)) for _ in range(5)]
    await asyncio.sleep(0.1)
    free = Client(chat_body(), key=KEY + "2")
    await asyncio.wait_for(pool.serve(free, RequestRecord("f", time.monotonic(), "POST")), 1)
    assert free.status == 200
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await pool.quiet()
    assert pool.is_idle()


async def test_a_model_without_a_price_is_refused_where_a_budget_in_dollars_must_hold(open_pool):
    pool = await pool_with(open_pool, usd(1000))
    refused = await ask(pool, model="gpt-made-up")
    assert (refused.status, refused.error["code"], refused.error["param"]) == (403, "client_model_unpriced", "model")
    soft = await pool_with(open_pool, usd(1000, mode="soft"), pool="soft")
    assert (await ask(soft, model="gpt-made-up")).status == 200


@pytest.mark.parametrize("path", ["batches", "fine_tuning/jobs", "videos", "realtime/client_secrets"])
async def test_what_is_charged_out_of_sight_is_refused_where_a_budget_must_hold(open_pool, path):
    body = json.dumps({"model": "gpt-4o", "input_file_id": "file-1"}).encode()
    for budget in (usd(1000), {"tokens": 1000, "per": "day", "models": "gpt-5*"}):  # a job does not say which it uses
        pool = await pool_with(open_pool, budget, pool=f"hard{len(budget)}")
        refused = await pool.ask(Client(body, target=f"/v1/{path}", key=KEY))
        assert (refused.status, refused.error["code"]) == (403, "client_cost_unseen")
        assert pool.upstream.sent == []
    for number, budget in enumerate((usd(1000, mode="soft"), {"requests": 10, "per": "day"})):
        other = await pool_with(open_pool, budget, pool=f"other{number}")
        answer = await other.ask(Client(body, target=f"/v1/{path}", key=KEY))
        assert answer.status != 403 or answer.error["code"] != "client_cost_unseen"


async def test_a_response_in_the_background_is_charged_at_the_most_it_may_use(open_pool):
    pool = await pool_with(open_pool, usd(1000))
    pool.upstream.next(says(200, {"id": "resp_1", "object": "response", "status": "queued", "usage": None}))
    body = {"model": "gpt-4o", "input": "x" * 40, "background": True, "max_output_tokens": 100}
    await pool.ask(Client(json.dumps(body).encode(), target="/v1/responses", key=KEY))
    assert await used(pool, "usd/total") == (18 * 2 + 100 * 5, 0)


async def test_before_prices_are_known_a_budget_in_dollars_asks_for_patience(open_pool):
    pool = await pool_with(open_pool, usd(1000), prices=None)
    refused = await ask(pool)
    assert (refused.status, refused.error["code"], refused.header("retry-after")) == (503, "prices_not_loaded", "1")


async def test_soft_and_shadow_budgets_count_and_serve(open_pool):
    for mode in ("soft", "shadow"):
        pool = await pool_with(open_pool, {"tokens": 20, "per": "total", "mode": mode}, pool=mode)
        beyond = []
        for _ in range(2):
            record, client = RequestRecord("r", time.monotonic(), "POST"), Client(chat_body(max_tokens=1), key=KEY)
            await pool.ask(client, record)
            assert client.status == 200
            beyond.append(record.beyond)
        # 10 were held at most by the first; the second came to 30 that were used, and is the first beyond 20.
        assert beyond == [(), ("tokens/total",)]
        assert await used(pool, "tokens/total") == (60, 0)


async def test_a_client_without_rules_has_nothing_in_the_store(open_pool):
    pool = await pool_with(open_pool, usd(1000))
    await pool.ask(Client(chat_body(), key=KEY + "2"))
    assert await pool.store.client.keys(f"{pool.ledger.prefix}:rules:*") == []


# ---- headers and reloads


async def test_headers_tell_the_tighter_of_the_clients_own_and_the_pools(open_pool):
    pool = await pool_with(open_pool, {"tokens": 500, "per": "hour"}, limits={"rpm": 1_000_000})
    answer = await ask(pool)
    assert answer.header("x-ratelimit-limit-tokens") == "500"
    assert answer.header("x-ratelimit-remaining-tokens") == str(500 - 28)  # as held: 18 and 10
    assert int(answer.header("x-ratelimit-limit-requests")) < 1_000_000


async def test_another_limit_takes_force_with_what_was_used(open_pool):
    pool = await pool_with(open_pool, {"tokens": 1000, "per": "day"})
    await ask(pool)
    document = pool.settings.model_dump(mode="json", context={"reveal secrets": True}, exclude_defaults=True)
    document["clients"][0]["budgets"] = [{"tokens": 50, "per": "day"}]
    pool.configure(Settings.model_validate(document))
    refused = await ask(pool, 10)
    assert refused.status == 429
    assert "50 tokens a day: 30 used" in refused.error["message"]
