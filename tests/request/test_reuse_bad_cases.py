"""Answers that are shared, and all that can go wrong with it: who leaves, who stalls, what breaks off, what is long."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from typing import Any

import pytest
from quotapool.openai.facts import Canonical
from quotapool.openai.replay import EVENT_STREAM, Form
from quotapool.request.conversion import Conversion
from quotapool.settings.cache import Cache

from tests.fakes.edge import Client, Reply, chat_answer, chat_body, error, event, stream
from tests.fakes.reuse import EVENTS, ROLE, TWO, UNKEPT, WORDS, result, text_of, together

FILLER = event({"choices": [{"index": 0, "delta": {"content": "x" * 500}, "finish_reason": None}]})


class Stalled(Client):
    """Takes nothing after its answer's end until its event is set: a connection that does not drain."""

    async def finish(self) -> None:
        assert self.stalls is not None
        await self.stalls.wait()
        await super().finish()


async def test_an_answer_that_cannot_be_converted_is_asked_for_again_while_its_leader_still_takes_it(open_cached):
    pool, opens, never = await open_cached(), asyncio.Event(), asyncio.Event()
    pool.upstream.next(stream(ROLE, *WORDS, opens))  # it ends, but not as a stream of OpenAI's does
    never.set()
    leader = Stalled(chat_body(stream=True), stalls=never)
    tasks = await together(pool, [leader])
    never.clear()
    followers = await together(pool, [Client(chat_body())])
    opens.set()
    async with asyncio.timeout(1):
        await asyncio.gather(*followers)
    assert (pool.calls, result(await followers[0])) == (2, "miss")
    never.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("leads", "follows", "calls"),
    [
        ({"metadata": {"a": "x" * 600}}, {}, 2),
        ({}, {}, 1),
    ],
)
async def test_an_error_is_shared_only_by_who_sent_the_very_same(open_cached, leads, follows, calls):
    pool, opens = await open_cached(), asyncio.Event()
    said = error(400, "string_above_max_length", "Invalid 'metadata.a': string too long.")
    pool.upstream.next(Reply(**{**vars(said), "before": opens}))
    if calls == 1:
        pool.upstream.otherwise = error(400, "asked_again")
    clients = [Client(chat_body(**leads)), Client(chat_body(**follows))]
    tasks = await together(pool, clients)
    opens.set()
    await asyncio.gather(*tasks)
    assert (pool.calls, clients[1].status) == (calls, 400 if calls == 1 else 200)
    assert clients[0].error["code"] == "string_above_max_length"


async def test_an_error_is_not_shared_with_another_client(open_cached):
    pool, opens = await open_cached(cache={"scope": "pool"}, clients=TWO), asyncio.Event()
    pool.upstream.next(Reply(**{**vars(error(400, "blocked_safety_identifier")), "before": opens}))
    clients = [Client(chat_body(), key=client["key"]) for client in TWO]
    tasks = await together(pool, clients)
    opens.set()
    await asyncio.gather(*tasks)
    assert [client.status for client in clients] == [400, 200]


async def test_who_does_not_lead_does_not_give_the_lease_of_another_back(open_cached):
    here, there, opens = await open_cached(), await open_cached(), asyncio.Event()
    here.upstream.next(Reply(**{**vars(chat_answer()), "before": opens}), UNKEPT["refusal"])
    tasks = await together(here, [Client(chat_body())])
    fresh = [("Content-Type", "application/json"), ("Cache-Control", "no-cache")]
    assert result(await here.ask(Client(chat_body(), more_headers=fresh))) == "bypass"
    tasks += await together(there, [Client(chat_body())])
    await asyncio.sleep(2)
    opens.set()
    await asyncio.gather(*tasks)
    assert (here.calls, there.calls) == (2, 0)


async def busy(open_cached, **options: Any) -> Any:
    """A pool whose client may have one request at a time, and has one that never ends."""
    clients = [{**TWO[0], "limits": {"concurrent": 1}}]
    pool = await open_cached({"a": 1}, clients=clients, queue={"max_wait": 5}, **options)
    pool.upstream.next(stream(ROLE, asyncio.Event()))
    (first,) = await together(pool, [Client(chat_body(stream=True, seed=1), key=TWO[0]["key"])])
    return pool, first


async def test_what_becomes_of_a_call_after_its_leader_left_is_retrieved(open_cached):
    unheard: list[Any] = []
    gc.collect()  # what other tests left
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    pool, first = await busy(open_cached)
    clients = [Client(chat_body(), key=TWO[0]["key"]) for _ in range(2)]
    tasks = await together(pool, clients)
    tasks[0].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert clients[1].status == 429
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    del tasks, first
    gc.collect()
    await asyncio.sleep(0)
    assert [context for context in unheard if "AsyncClient" not in repr(context)] == []  # others' clients, found now


async def test_who_waits_for_another_waits_no_longer_than_alone(open_cached):
    pool, first = await busy(open_cached)
    began = time.monotonic()
    clients = [Client(chat_body(), key=TWO[0]["key"]) for _ in range(20)]
    await asyncio.gather(*map(pool.ask, clients))
    assert {client.status for client in clients} == {429}
    assert time.monotonic() - began < 6
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_a_leader_that_takes_nothing_does_not_fill_the_memory(open_cached):
    pool, never, opens = await open_cached(cache={"max_entry": 1024}), asyncio.Event(), asyncio.Event()
    pool.upstream.next(stream(ROLE, opens, *[FILLER] * 100, *EVENTS[1:]))
    never.set()
    leader, follower = Client(chat_body(stream=True), stalls=never), Client(chat_body(stream=True))
    tasks = await together(pool, [leader, follower])
    never.clear()
    opens.set()
    await asyncio.sleep(1)
    assert len(leader.got) < 4 * 1024
    never.set()
    await asyncio.gather(*tasks)
    assert leader.got == follower.got
    assert leader.finished
    assert follower.finished


async def test_who_needs_all_of_a_long_answer_asks_for_itself(open_cached):
    pool, goes_on, ends = await open_cached(cache={"max_entry": 1024}), asyncio.Event(), asyncio.Event()
    pool.upstream.next(stream(ROLE, goes_on, *[FILLER] * 10, ends, *EVENTS[1:]))
    leader = Client(chat_body(stream=True))
    tasks = await together(pool, [leader, *[Client(chat_body()) for _ in range(3)]])
    goes_on.set()
    async with asyncio.timeout(5):
        others = await asyncio.gather(*tasks[1:])
    assert [(result(other), text_of(other)) for other in others] == [("miss", "Hello!")] * 3
    ends.set()
    await tasks[0]
    assert (pool.calls, leader.finished) == (4, True)


async def test_nobody_waits_for_an_answer_that_is_too_long_to_be_kept(open_cached):
    here, there, ends = await open_cached(cache={"max_entry": 1024}), await open_cached(), asyncio.Event()
    here.upstream.next(stream(ROLE, *[FILLER] * 10, ends, *EVENTS[1:]))
    tasks = await together(here, [Client(chat_body(stream=True))])
    async with asyncio.timeout(5):
        assert result(await there.asks()) == "miss"
        await there.kept()
        assert result(await here.asks()) == "hit"
    ends.set()
    await asyncio.gather(*tasks)


async def test_who_reads_along_and_leaves_pays_as_who_stays(open_cached):
    clients = [{**TWO[0], "budgets": [{"tokens": 100_000, "per": "day"}]}, TWO[1]]
    pool, opens = await open_cached(cache={"client_pays": 1, "scope": "pool"}, clients=clients), asyncio.Event()
    pool.upstream.next(stream(ROLE, *WORDS, opens, *EVENTS[3:]))
    leader, follower = (
        Client(chat_body(stream=True), key=TWO[1]["key"]),
        Client(chat_body(stream=True), key=TWO[0]["key"]),
    )
    tasks = await together(pool, [leader, follower])
    assert text_of(follower) == "Hello"
    tasks[1].cancel()
    await asyncio.sleep(0.1)
    opens.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pool.house.quiet()
    standing = pool.house.paths.charging.standings("app")[0]
    assert (standing.used, standing.held) == (30, 0)


async def test_each_line_of_a_beta_counts(open_cached):
    pool = await open_cached()
    for beta in (["one"], ["one", "two"], ["one", "three"], ["\udcff"]):
        lines = [("Content-Type", "application/json"), *[("OpenAI-Beta", line) for line in beta]]
        assert result(await pool.ask(Client(chat_body(), more_headers=lines))) == "miss"
        await pool.kept()


async def test_a_beta_that_is_not_sent_on_does_not_count(open_cached):
    pool = await open_cached()
    hidden = [("Content-Type", "application/json"), ("OpenAI-Beta", "one"), ("Connection", "openai-beta")]
    sent = hidden[:-1]
    assert result(await pool.ask(Client(chat_body(), more_headers=hidden))) == "miss"
    await pool.kept()
    assert result(await pool.ask(Client(chat_body(), more_headers=sent))) == "miss"


async def test_a_bug_in_keeping_an_answer_does_not_keep_its_lease(open_cached, monkeypatch):
    pool, there = await open_cached(), await open_cached()

    def fails(_: Cache) -> bool:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Cache, "tools", property(fails), raising=False)
    answer = await pool.asks()
    assert (answer.status, answer.finished, pool.records[-1].kept) == (200, True, "malformed")
    monkeypatch.undo()
    async with asyncio.timeout(1):
        assert result(await there.asks()) == "miss"


async def test_an_answer_that_cannot_be_sealed_does_not_keep_its_lease(open_cached, monkeypatch):
    pool, there = await open_cached(), await open_cached()
    pool.upstream.next(stream(ROLE, *[FILLER] * 100, *EVENTS[1:]))

    def fails(*_: Any) -> bytes:
        raise MemoryError

    monkeypatch.setattr("zlib.compress", fails)
    await pool.asks(stream=True)
    await pool.kept()
    monkeypatch.undo()
    async with asyncio.timeout(1):
        assert result(await there.asks()) == "miss"


async def test_a_leader_whose_connection_breaks_is_like_one_that_leaves(open_cached):
    """Nobody reads along any more: the call ends, whichever way its leader left."""
    pool = await open_cached()
    opens, more, never = asyncio.Event(), asyncio.Event(), asyncio.Event()
    pool.upstream.next(stream(ROLE, opens, WORDS[0], more, WORDS[1], never, *EVENTS[3:]))
    leader, follower = Client(chat_body(stream=True), leaves_at=1), Client(chat_body(stream=True))
    tasks = await together(pool, [leader, follower])
    opens.set()
    await asyncio.sleep(0.1)
    tasks[1].cancel()
    await asyncio.sleep(0.1)
    more.set()
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks, return_exceptions=True)
    await pool.house.quiet()
    assert pool.house.is_idle()


async def test_a_json_answer_to_a_stream_passes_as_it_is(open_cached):
    pool = await open_cached()
    long = b'{"id":"chatcmpl-1","choices":[{"message":{"content":"' + b"x" * (5 * 2**20) + b'"}}]}'
    pool.upstream.next(Reply(pieces=[long[i : i + 2**20] for i in range(0, len(long), 2**20)]))
    answer = await pool.asks(stream=True)
    assert answer.got == long


async def test_what_is_kept_is_served_when_the_days_money_is_spent(open_cached):
    pool = await open_cached()
    await pool.asks()
    await pool.kept()
    pool.house.paths.requests._daily_limit.spent_until = time.time() + 100
    assert result(await pool.asks()) == "hit"
    refused = await pool.asks(seed=1)
    assert (refused.status, refused.error["code"]) == (429, "pool_daily_limit_reached")
    assert pool.calls == 1


async def test_others_run_while_a_long_answer_is_converted():
    text = b"".join([ROLE, *[FILLER] * 10_000, *EVENTS[1:]])
    conversion = Conversion("chat", Canonical(b"", streamed=False), Form.EVENTS, EVENT_STREAM)
    turns, converting = 0, asyncio.create_task(conversion.all(text))
    while not converting.done():
        turns += 1
        await asyncio.sleep(0)
    assert len(json.loads(await converting)["choices"][0]["message"]["content"]) == 500 * 10_000 + len("Hello")
    assert turns > len(text) // 2**18


class Hasty(Client):
    """Closes its connection as soon as it has all of the answer."""

    def _end(self) -> None:
        super()._end()
        asyncio.get_running_loop().call_soon(self.task.cancel)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_client_that_leaves_with_the_whole_answer_was_not_cut_off(open_cached, streamed):
    pool = await open_cached()
    pool.upstream.next(stream(*EVENTS) if streamed else chat_answer())
    client = Hasty(chat_body(stream=streamed))
    client.task = asyncio.create_task(pool.ask(client))
    await client.task
    assert (client.finished, pool.records[0].cut, pool.records[0].kept) == (True, False, "")
    await pool.kept()
    assert result(await pool.asks(stream=streamed)) == "hit"
