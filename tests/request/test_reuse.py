"""Requests that need not be made: one call for all who ask the same later, and never for anybody else."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest
from quotapool.ledger.clients import ClientStore, digest

from tests.fakes.connect import connect
from tests.fakes.edge import (
    DONE,
    Client,
    Reply,
    chat_answer,
    chat_body,
    error,
    failure,
    says,
    stream,
)
from tests.fakes.reuse import END, EVENTS, FORMS, ROLE, TWO, UNKEPT, WORDS, result, text_of, together

# ---- what was asked before


async def test_the_second_of_two_equal_requests_takes_nothing_of_the_pool(open_cached):
    pool = await open_cached()
    first = await pool.asks()
    await pool.kept()
    taken = len(pool.house.grants.asks)
    second = await pool.asks()
    assert (result(first), result(second)) == ("miss", "hit")
    assert second.got == first.got
    assert (second.status, second.header("age"), second.header("x-quotapool-source")) == (200, "0", "cache")
    assert pool.calls == 1
    assert len(pool.house.grants.asks) == taken == 1
    record = pool.records[1]
    assert (record.cache, record.source, record.status, record.attempts) == ("hit", "cache", 200, [])
    assert record.saved is not None
    assert (record.saved.requests, record.saved.prompt, record.saved.completion) == (1, 10, 20)


async def test_age_is_counted_and_nothing_is_served_beyond_its_time(open_cached):
    pool = await open_cached(cache={"ttl": 60})
    await pool.asks()
    await asyncio.sleep(40)
    assert (await pool.asks()).header("age") == "40"
    await asyncio.sleep(20)
    assert result(await pool.asks()) == "miss"
    assert pool.calls == 2


@pytest.mark.parametrize(("first", "second"), list(itertools.product(FORMS, FORMS)))
async def test_an_answer_serves_each_form(open_cached, first, second):
    pool = await open_cached()
    pool.upstream.next(chat_answer() if first == "plain" else stream(*EVENTS))
    one = await pool.asks(**FORMS[first])
    await pool.kept()
    other = await pool.asks(**FORMS[second])
    assert (result(one), result(other), pool.calls) == ("miss", "hit", 1)
    assert text_of(other) == text_of(one) != ""
    assert (b'"prompt_tokens"' in other.got) is (second != "stream")
    assert (b'"prompt_tokens"' in one.got) is (first != "stream")
    assert other.got.endswith(DONE) is (second != "plain")


@pytest.mark.parametrize(
    ("scope", "client", "expected"),
    [
        ("client", "app", "hit"),
        ("client", "web", "miss"),
        ("client", "out", "miss"),
        ("team", "web", "hit"),
        ("team", "out", "miss"),  # of no team: alone
        ("pool", "out", "hit"),
    ],
)
async def test_who_shares_an_answer(open_cached, scope, client, expected):
    keys = {name: f"key-of-{name}-0000000001" for name in ("app", "web", "out")}
    clients = [{"id": name, "key": key, "team": None if name == "out" else "red"} for name, key in keys.items()]
    pool = await open_cached(cache={"scope": scope}, clients=clients, teams={"red": {}})
    await pool.ask(Client(chat_body(), key=keys["app"]))
    await pool.kept()
    assert result(await pool.ask(Client(chat_body(), key=keys[client]))) == expected


async def test_the_next_client_of_a_name_is_not_served_what_the_earlier_one_asked(open_cached):
    pool = await open_cached()
    clients = ClientStore(pool.house.store, pool.house.settings.pool)
    results = []
    for key in ("key-of-the-first-one", "key-of-the-next-one"):
        await clients.add("search", digest(key))
        await pool.house.sync.refresh()
        for _ in range(2):
            results.append(result(await pool.ask(Client(chat_body(), key=key))))
            await pool.kept()
        await clients.revoke("search")
    assert results == ["miss", "hit"] * 2


async def test_a_client_that_may_not_use_a_model_gets_no_kept_answer_of_it(open_cached):
    clients = [{**TWO[0]}, {**TWO[1], "models": ["gpt-4o-mini"]}]
    pool = await open_cached(cache={"scope": "pool"}, clients=clients)
    await pool.ask(Client(chat_body(), key="key-of-the-app-0001"))
    await pool.kept()
    refused = await pool.ask(Client(chat_body(), key="key-of-the-web-0001"))
    assert (refused.status, refused.error["code"]) == (403, "model_not_allowed")


@pytest.mark.parametrize(
    ("own", "default", "expected"), [(True, "named", "hit"), (None, "named", None), (False, "all", None)]
)
async def test_clients_that_are_not_served_from_it(open_cached, own, default, expected):
    pool = await open_cached(cache={"clients": default}, clients=[{**TWO[0], "cache": own}])
    for _ in range(2):
        answer = await pool.ask(Client(chat_body(), key="key-of-the-app-0001"))
        await pool.kept()
    assert result(answer) == expected


async def test_models_that_are_not_kept(open_cached):
    pool = await open_cached(cache={"models": ["gpt-4o-mini", "o*"]})
    for model, expected in (("gpt-4o", None), ("gpt-4o-mini", "hit"), ("o3", "hit")):
        await pool.asks(model=model)
        await pool.kept()
        assert result(await pool.asks(model=model)) == expected


CONTROLS = [
    ("no-store", "bypass", "no_store", 2, "miss"),
    ("no-cache", "bypass", "no_cache", 2, "hit"),
    ("max-age=0", "bypass", "no_cache", 2, "hit"),
    ("max-age=5", "miss", "", 2, "hit"),
    ("max-age=20", "hit", "", 1, "hit"),
    ("only-if-cached", "hit", "", 1, "hit"),
    ("no-transform, private", "hit", "", 1, "hit"),
]


@pytest.mark.parametrize(("said", "expected", "word", "calls", "afterwards"), CONTROLS)
async def test_a_client_says_what_it_accepts(open_cached, said, expected, word, calls, afterwards):
    pool = await open_cached()
    if said != "no-store":
        await pool.asks()
    await asyncio.sleep(10)
    control = [("Content-Type", "application/json"), ("Cache-Control", said)]
    answer = await pool.ask(Client(chat_body(), more_headers=control))
    assert (result(answer), pool.records[-1].kept) == (expected, word)
    await pool.kept()
    assert result(await pool.asks()) == afterwards
    assert pool.calls == calls


async def test_only_what_is_kept_and_there_is_nothing(open_cached):
    pool = await open_cached()
    answer = await pool.ask(Client(chat_body(), more_headers=[("Cache-Control", "only-if-cached")]))
    assert (answer.status, answer.error["code"], answer.header("x-should-retry")) == (504, "not_cached", "false")
    assert pool.calls == 0


async def test_above_the_temperature_only_who_asks_for_it_is_served(open_cached):
    pool = await open_cached(cache={"max_temperature": 0.5})
    for _ in range(2):
        assert result(await pool.asks(temperature=0.9)) == "bypass"
        await pool.kept()
    assert pool.records[-1].kept == "temperature"
    asks = [("Cache-Control", "max-age=60")]
    for expected in ("miss", "hit"):
        assert result(await pool.ask(Client(chat_body(temperature=0.9), more_headers=asks))) == expected
        await pool.kept()


@pytest.mark.parametrize("word", UNKEPT)
async def test_answers_that_are_not_kept(open_cached, word):
    pool = await open_cached(cache={"max_entry": 1024})
    pool.upstream.otherwise = UNKEPT[word]
    for _ in range(2):
        answer = await pool.asks()
        await pool.kept()
        assert (answer.status, result(answer), pool.records[-1].kept) == (200, "miss", word)


async def test_with_the_option_calls_of_tools_are_kept(open_cached):
    pool = await open_cached(cache={"tools": True})
    pool.upstream.otherwise = UNKEPT["tool_calls"]
    await pool.asks()
    await pool.kept()
    assert result(await pool.asks()) == "hit"


@pytest.mark.parametrize(
    ("pieces", "word"),
    [
        ((ROLE, *WORDS), "cut"),
        ((ROLE, *WORDS, END), "cut"),
        ((ROLE, *WORDS, failure()), "cut"),
        ((*EVENTS[:-2], DONE), "no_usage"),
    ],
)
async def test_streams_that_do_not_end_well_are_not_kept(open_cached, pieces, word):
    pool = await open_cached()
    pool.upstream.next(stream(*pieces))
    await pool.asks(stream=True)
    assert pool.records[-1].kept == word
    await pool.kept()
    assert result(await pool.asks(stream=True)) == "miss"


async def test_errors_are_not_kept(open_cached):
    pool = await open_cached()
    pool.upstream.next(error(400, "context_length_exceeded"))
    refused = await pool.asks()
    assert (refused.status, result(refused), pool.records[-1].kept) == (400, "miss", "error")
    await pool.kept()
    assert (await pool.asks()).status == 200


async def test_without_the_store_all_is_as_if_there_were_no_cache(open_cached):
    pool = await open_cached()
    await pool.asks()
    await pool.kept()
    pool.cache._calls._store = connect("redis://127.0.0.1:9/0")  # nobody listens on the discard port
    again = await pool.asks()
    assert (again.status, result(again), pool.calls) == (200, "miss", 2)


# ---- who pays


@pytest.mark.parametrize(("part", "left"), [(0, 8), (0.5, 7), (1, 6)])
async def test_what_a_hit_and_a_shared_answer_cost_their_client(open_cached, part, left):
    clients = [{**TWO[0], "budgets": [{"requests": 10, "per": "day"}]}]
    pool, opens = await open_cached(cache={"client_pays": part}, clients=clients), asyncio.Event()
    key = clients[0]["key"]
    await pool.ask(Client(chat_body(), key=key))
    await pool.kept()
    assert result(await pool.ask(Client(chat_body(), key=key))) == "hit"
    pool.upstream.next(Reply(**{**vars(chat_answer()), "before": opens}))
    tasks = await together(pool, [Client(chat_body(seed=1), key=key) for _ in range(2)])
    opens.set()
    await asyncio.gather(*tasks)
    await pool.house.quiet()
    standing = pool.house.paths.charging.standings("app")[0]
    assert 10 - standing.used - standing.held == left


# ---- embeddings


def vectors(body: bytes) -> Reply:
    given = json.loads(body)["input"]
    given = given if isinstance(given, list) else [given]
    data = [{"object": "embedding", "index": n, "embedding": [len(text) + 0.5]} for n, text in enumerate(given)]
    usage = {"prompt_tokens": len(given), "total_tokens": len(given)}
    return says(200, {"object": "list", "data": data, "model": "text-embedding-3-small", "usage": usage})


def embedding(*texts: str) -> Client:
    body = json.dumps({"model": "text-embedding-3-small", "input": texts}).encode()
    return Client(body, target="/v1/embeddings")


async def test_only_those_inputs_go_upstream_that_nobody_asked_for_before(open_cached):
    pool = await open_cached()
    pool.upstream.next(vectors(embedding("a", "bb").body))
    first = await pool.ask(embedding("a", "bb"))
    await pool.kept()
    pool.upstream.next(vectors(embedding("ccc").body))
    second = await pool.ask(embedding("bb", "ccc", "a"))
    await pool.kept()
    third = await pool.ask(embedding("ccc", "ccc"))
    assert [result(answer) for answer in (first, second, third)] == ["miss", "miss", "hit"]
    assert second.header("x-quotapool-cache-items") == "hit=2, miss=1"
    assert json.loads(pool.upstream.sent[1].body)["input"] == ["ccc"]
    assert [row["embedding"] for row in json.loads(second.got)["data"]] == [[2.5], [3.5], [1.5]]
    assert [row["index"] for row in json.loads(second.got)["data"]] == [0, 1, 2]
    assert json.loads(second.got)["usage"] == {"prompt_tokens": 1, "total_tokens": 1}
    assert [row["embedding"] for row in json.loads(third.got)["data"]] == [[3.5], [3.5]]
    assert pool.calls == 2
    assert (pool.records[2].source, pool.records[2].saved.requests) == ("cache", 1)


async def test_an_error_for_the_rest_is_the_clients(open_cached):
    pool = await open_cached()
    pool.upstream.next(vectors(embedding("a").body), error(400, "invalid_input"))
    await pool.ask(embedding("a"))
    await pool.kept()
    refused = await pool.ask(embedding("a", "b"))
    assert (refused.status, refused.error["code"]) == (400, "invalid_input")


async def test_what_is_reserved_is_for_what_is_asked(open_cached):
    pool = await open_cached()
    long = "x" * 4000
    pool.upstream.next(vectors(embedding(long).body), vectors(embedding("a").body))
    await pool.ask(embedding(long))
    await pool.kept()
    await pool.ask(embedding(long, "a"))
    assert [cost.tokens for cost in pool.house.grants.asks] == [1000, 1]  # a token for four characters


async def test_embeddings_that_are_kept_are_enough_or_a_504(open_cached):
    pool = await open_cached()
    pool.upstream.next(vectors(embedding("a").body))
    await pool.ask(embedding("a"))
    await pool.kept()
    for texts, status in ((("a",), 200), (("a", "b"), 504)):
        client = embedding(*texts)
        only = Client(client.body, target=client.target, more_headers=[("Cache-Control", "only-if-cached")])
        assert (await pool.ask(only)).status == status
    assert pool.calls == 1
