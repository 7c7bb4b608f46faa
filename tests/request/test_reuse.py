"""Requests that need not be made: one call for all who ask the same, now or later, and never for anybody else."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import time
from typing import Any

import pytest
from quotapool.cache.secrets import CacheSecrets
from quotapool.cache.store import CacheStore
from quotapool.domain.request_record import RequestRecord
from quotapool.ledger.clients import ClientStore, digest
from quotapool.store.store import connect

from tests.fakes.edge import (
    DONE,
    Client,
    Reply,
    chat_answer,
    chat_body,
    delta,
    error,
    event,
    failure,
    says,
    stream,
    usage_chunk,
)
from tests.fakes.house import House
from tests.request.test_cancellation import cancelled_at

ALL = {"models": ["*"], "clients": "all"}
END = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
ROLE = event({"id": "chatcmpl-1", "choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})
WORDS = delta(content="Hel"), delta(content="lo")
EVENTS = ROLE, *WORDS, END, usage_chunk(10, 20), DONE
TWO = [{"id": "app", "key": "key-of-the-app-0001"}, {"id": "web", "key": "key-of-the-web-0001"}]


class Pool:
    """A house with a cache, as each process has one."""

    def __init__(self, house: House, url: str) -> None:
        self.house = house
        self.upstream = house.upstream
        self.store = connect(url)
        self.cache = CacheStore(self.store, house.settings.pool, CacheSecrets(bytes(32), house.settings.pool), 2**20)
        house.paths.reuse.store = self.cache
        self.running = asyncio.create_task(self.cache.run())
        self.records: list[RequestRecord] = []

    @property
    def calls(self) -> int:
        return len(self.upstream.sent)

    async def ask(self, client: Client) -> Client:
        record = RequestRecord(f"test-{len(self.records)}", time.monotonic(), client.method)
        self.records.append(record)
        await self.house.serve(client, record)
        return client

    async def asks(self, **more: Any) -> Client:
        return await self.ask(Client(chat_body(**more)))

    async def kept(self) -> None:
        """Until what was put is in the store."""
        await asyncio.sleep(0.5)

    async def close(self) -> None:
        self.running.cancel()
        await self.cache.close()
        await self.store.close()


@pytest.fixture
async def open_cached(open_pool, valkey_url):
    async with contextlib.AsyncExitStack() as stack:

        async def opened(accounts=None, *, cache=None, **options) -> Pool:
            house = await open_pool(accounts or {"a": 1, "b": 1}, cache={**ALL, **(cache or {})}, **options)
            pool = Pool(house, valkey_url)
            stack.push_async_callback(pool.close)
            return pool

        yield opened


def result(client: Client) -> str | None:
    return client.header("x-quotapool-cache")


def text_of(client: Client) -> str:
    """What the model said, in whichever form."""
    if client.header("content-type") == "application/json":
        return str(json.loads(client.got)["choices"][0]["message"]["content"])
    found = [json.loads(line[6:]) for line in client.got.split(b"\n\n") if line.startswith(b"data: {")]
    return "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in found if chunk["choices"])


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


FORMS = {"plain": {}, "stream": {"stream": True}, "usage": {"stream": True, "stream_options": {"include_usage": True}}}


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


def choice(**more: Any) -> Reply:
    message = {"role": "assistant", "content": "Hi", **more.pop("message", {})}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    chosen = {"index": 0, "message": message, "finish_reason": "stop", **more.pop("choice", {})}
    return says(200, {"id": "chatcmpl-1", "choices": [chosen], "usage": usage, **more})


CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
UNKEPT = {
    "refusal": choice(message={"content": None, "refusal": "No."}),
    "tool_calls": choice(message={"content": None, "tool_calls": [CALL]}, choice={"finish_reason": "tool_calls"}),
    "content_filter": choice(choice={"finish_reason": "content_filter"}),
    "no_usage": choice(usage=None),
    "too_large": choice(message={"content": "x" * 2000}),
    "encoded": choice().named(Content_Encoding="identity"),
}


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


# ---- what is asked at the same time


async def together(pool: Pool, clients: list[Client]) -> list[asyncio.Task[Client]]:
    """All wait for the first one's answer."""
    tasks = []
    for client in clients:
        tasks.append(asyncio.create_task(pool.ask(client)))
        await asyncio.sleep(0.01)
    return tasks


@pytest.mark.parametrize("form", FORMS)
async def test_equal_requests_make_one_call(open_cached, form):
    pool, opens = await open_cached(), asyncio.Event()
    pool.upstream.next(Reply(**{**vars(chat_answer()), "before": opens}) if form == "plain" else stream(opens, *EVENTS))
    clients = [Client(chat_body(**FORMS[form])) for _ in range(50)]
    tasks = await together(pool, clients)
    opens.set()
    await asyncio.gather(*tasks)
    assert pool.calls == 1
    assert [result(client) for client in clients] == ["miss"] + ["coalesced"] * 49
    assert {client.got for client in clients} == {clients[0].got}
    assert all(client.finished for client in clients)
    await pool.house.quiet()
    assert pool.house.is_idle()
    assert pool.house.paths.reuse.under_way == {}


async def test_a_late_joiner_gets_a_stream_from_its_beginning_and_then_as_it_comes(open_cached):
    pool, more = await open_cached(), asyncio.Event()
    pool.upstream.next(stream(ROLE, WORDS[0], more, WORDS[1], *EVENTS[3:]))
    one, other = Client(chat_body(stream=True)), Client(chat_body(stream=True))
    tasks = await together(pool, [one, other])
    assert b"".join(other.pieces) == ROLE + WORDS[0] == one.got
    more.set()
    await asyncio.gather(*tasks)
    assert other.got == one.got


@pytest.mark.parametrize(("leads", "follows"), list(itertools.product(FORMS, FORMS)))
async def test_those_who_wait_get_the_form_they_asked_for(open_cached, leads, follows):
    pool, opens = await open_cached(), asyncio.Event()
    pool.upstream.next(
        Reply(**{**vars(chat_answer()), "before": opens}) if leads == "plain" else stream(opens, *EVENTS)
    )
    one, other = Client(chat_body(**FORMS[leads])), Client(chat_body(**FORMS[follows]))
    tasks = await together(pool, [one, other])
    opens.set()
    await asyncio.gather(*tasks)
    assert (pool.calls, result(other), text_of(other)) == (1, "coalesced", text_of(one))
    assert (b'"prompt_tokens"' in other.got) is (follows != "stream")


async def leaves(asks, step: int, *, arrived: bool) -> Any:
    return await cancelled_at(asks, step, arrived=arrived)


@pytest.mark.parametrize("arrived", [False, True])
@pytest.mark.parametrize("form", FORMS)
async def test_the_leader_leaves_at_any_moment_and_the_others_get_their_answer(open_cached, form, arrived):
    pool = await open_cached()
    for step in itertools.count():
        body = chat_body(**FORMS[form], seed=step)
        pool.upstream.otherwise = chat_answer() if form == "plain" else stream(*EVENTS)
        before = pool.calls
        leading = asyncio.create_task(leaves(pool.ask(Client(body)), step, arrived=arrived))
        await asyncio.sleep(0)
        follower = Client(body)
        await pool.ask(follower)
        ended = (await asyncio.gather(leading, return_exceptions=True))[0]
        assert (follower.status, follower.finished, follower.was_cut) == (200, True, False)
        assert text_of(follower) in {"Hello", "Hello!"}
        assert pool.calls - before <= 2  # one that nobody waited for yet may have been given up
        await pool.house.quiet()
        assert pool.house.is_idle()
        if ended is False:
            break
    assert step > 2  # look-up, lease, answer


async def test_a_call_that_others_wait_for_is_not_made_again_when_its_leader_leaves(open_cached):
    pool, more = await open_cached(), asyncio.Event()
    pool.upstream.next(stream(ROLE, WORDS[0], more, WORDS[1], *EVENTS[3:]))
    leader, follower = Client(chat_body(stream=True)), Client(chat_body(stream=True))
    tasks = await together(pool, [leader, follower])
    tasks[0].cancel()
    await asyncio.sleep(0.01)
    more.set()
    await tasks[1]
    assert (text_of(follower), pool.calls) == ("Hello", 1)
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    record = pool.records[0]
    assert record.attempts[0].usage is not None
    assert record.attempts[0].usage.completion == 20  # what it used is booked


async def test_a_call_that_nobody_waits_for_any_more_ends(open_cached):
    pool, never = await open_cached(), asyncio.Event()
    pool.upstream.next(stream(ROLE, never))
    tasks = await together(pool, [Client(chat_body(stream=True)) for _ in range(3)])
    for task in tasks:
        assert pool.upstream.open == 1
        task.cancel()
        await asyncio.sleep(0.01)
    await asyncio.gather(*tasks, return_exceptions=True)
    await pool.house.quiet()
    assert pool.house.is_idle()
    assert pool.house.paths.reuse.under_way == {}


async def test_a_slow_leader_holds_up_nobody(open_cached):
    pool, never = await open_cached(), asyncio.Event()
    pool.upstream.next(stream(*EVENTS))
    tasks = await together(pool, [Client(chat_body(stream=True), stalls=never)])
    follower = await pool.asks(stream=True)
    assert (text_of(follower), result(follower)) == ("Hello", "coalesced")
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_error_of_upstream_is_for_those_who_wait_and_for_nobody_later(open_cached):
    pool, opens = await open_cached(), asyncio.Event()
    said = error(400, "context_length_exceeded")
    pool.upstream.next(Reply(**{**vars(said), "before": opens}))
    clients = [Client(chat_body()) for _ in range(3)]
    tasks = await together(pool, clients)
    opens.set()
    await asyncio.gather(*tasks)
    assert [(c.status, c.error["code"]) for c in clients] == [(400, "context_length_exceeded")] * 3
    assert pool.calls == 1
    assert (await pool.asks()).status == 200


async def test_a_refusal_of_the_proxy_is_the_leaders_alone(open_cached):
    clients = [{**TWO[0], "budgets": [{"requests": 1, "per": "day"}]}, TWO[1]]
    pool = await open_cached(cache={"scope": "pool"}, clients=clients)
    await pool.ask(Client(chat_body(seed=1), key="key-of-the-app-0001"))
    one, other = Client(chat_body(), key="key-of-the-app-0001"), Client(chat_body(), key="key-of-the-web-0001")
    await asyncio.gather(pool.ask(one), pool.ask(other))
    assert (one.status, one.error["code"]) == (429, "client_budget_exhausted")
    assert (other.status, result(other)) == (200, "miss")


async def test_a_stream_that_breaks_off_is_cut_for_those_who_saw_of_it_and_made_again_for_the_others(open_cached):
    pool, opens = await open_cached(), asyncio.Event()
    pool.upstream.next(stream(ROLE, *WORDS, opens, failure()))
    clients = [Client(chat_body(stream=True)), Client(chat_body(stream=True)), Client(chat_body())]
    tasks = await together(pool, clients)
    opens.set()
    await asyncio.gather(*tasks)
    assert [client.was_cut for client in clients] == [True, True, False]
    assert (clients[2].status, result(clients[2]), text_of(clients[2])) == (200, "miss", "Hello!")
    assert pool.calls == 2


async def test_clients_whose_streams_may_be_cut_for_their_budget_lead_nobody(open_cached):
    clients = [{**TWO[0], "on_stream_overrun": "cut"}, TWO[1]]
    pool, opens = await open_cached(cache={"scope": "pool"}, clients=clients), asyncio.Event()
    pool.upstream.next(stream(opens, *EVENTS))
    pool.upstream.otherwise = stream(*EVENTS)
    bodies = [Client(chat_body(stream=True), key=c["key"]) for c in clients]
    tasks = await together(pool, bodies)
    assert result(bodies[1]) == "miss"
    opens.set()
    await asyncio.gather(*tasks)
    assert pool.calls == 2


async def test_turned_off_each_makes_its_own_call(open_cached):
    pool, opens = await open_cached(cache={"coalesce": False}), asyncio.Event()
    pool.upstream.next(*[Reply(**{**vars(chat_answer()), "before": opens}) for _ in range(3)])
    tasks = await together(pool, [Client(chat_body()) for _ in range(3)])
    opens.set()
    await asyncio.gather(*tasks)
    assert pool.calls == 3


# ---- other processes


async def test_another_process_waits_for_the_entry(open_cached):
    here, there, opens = await open_cached(), await open_cached(), asyncio.Event()
    here.upstream.next(Reply(**{**vars(chat_answer()), "before": opens}))
    tasks = [
        *await together(here, [Client(chat_body())]),
        *await together(there, [Client(chat_body()) for _ in range(3)]),
    ]
    await asyncio.sleep(60)  # as long as a reasoning model thinks: the lease is prolonged
    opens.set()
    answers = await asyncio.gather(*tasks)
    assert (here.calls, there.calls) == (1, 0)
    assert [result(answer) for answer in answers] == ["miss", "hit", "hit", "hit"]


async def test_one_that_dies_is_replaced_by_one_of_those_who_wait(open_cached):
    dies, there, opens = await open_cached(), await open_cached(), asyncio.Event()
    dies.upstream.next(Reply(**{**vars(chat_answer()), "before": opens}))
    lost = await together(dies, [Client(chat_body())])
    waiting = await together(there, [Client(chat_body()) for _ in range(3)])
    dies.running.cancel()  # it says nothing more
    answers = await asyncio.gather(*waiting)  # when its lease has run out
    assert (there.calls, [answer.status for answer in answers]) == (1, [200] * 3)
    opens.set()
    await asyncio.gather(*lost)


async def test_an_answer_that_may_not_be_kept_is_asked_for_by_each_process(open_cached):
    here, there, opens = await open_cached(), await open_cached(), asyncio.Event()
    here.upstream.next(Reply(**{**vars(UNKEPT["refusal"]), "before": opens}))
    tasks = [*await together(here, [Client(chat_body())]), *await together(there, [Client(chat_body())])]
    opens.set()
    answers = await asyncio.gather(*tasks)
    assert [answer.status for answer in answers] == [200, 200]
    assert (here.calls, there.calls) == (1, 1)


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
