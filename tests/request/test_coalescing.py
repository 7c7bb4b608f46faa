"""One call for all who ask the same at the same time, in this process and in others."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from tests.fakes.edge import (
    Client,
    Reply,
    chat_answer,
    chat_body,
    error,
    failure,
    stream,
)
from tests.fakes.reuse import EVENTS, FORMS, ROLE, TWO, UNKEPT, WORDS, result, text_of, together
from tests.request.test_cancellation import cancelled_at

# ---- what is asked at the same time


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
