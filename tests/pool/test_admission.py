"""The fair queue: who waits, who is refused at once and with which time, who goes first, and what a leaver frees.

A real store in virtual time: a wait lasts as long as the arithmetic says, and no test waits for it.
"""

from __future__ import annotations

import asyncio
import time

import pytest
from quotapool.domain.access import Access, Use
from quotapool.domain.quantities import Cost, Dimension
from quotapool.domain.request_record import RequestRecord
from quotapool.ledger import messages
from quotapool.ledger.budgets import Granted, Refused
from quotapool.pool.admission import _Queue
from quotapool.pool.want import Never, NoRoom

from tests.fakes.edge import Client, chat_body, error
from tests.fakes.house import GROUP

FAST = {"limits": {"default": {"rpm": 1_000_000, "tpm": 6_000_000}}}  # 100 tokens a millisecond
SLOW = {"limits": {"default": {"rpm": 1_000_000, "tpm": 60_000}}}  # 1000 tokens a second


async def no_room(waiting) -> NoRoom:
    answer = await waiting
    assert isinstance(answer, NoRoom)
    return answer


def ask(pool, tokens: int = 1000, **more) -> asyncio.Task:
    return asyncio.create_task(pool.admission.admit(pool.want(tokens, **more)))


async def queued(pool, count: int) -> None:
    async with asyncio.timeout(2):
        while pool.recorder.waiting != count:
            await asyncio.sleep(0.000_1)


async def test_those_who_wait_are_served_in_order(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, **FAST)
    await pool.drain("a", -2000)
    await pool.drain("b", -2000)
    order: list[int] = []

    async def wait(n: int) -> None:
        pool.ledger.give_back(await pool.admission.admit(pool.want(1000 + n)))
        order.append(n)

    await asyncio.gather(*(wait(n) for n in range(20)))
    assert order == sorted(order)
    await pool.quiet()
    assert pool.is_idle()


async def test_who_waits_and_for_what_is_told_without_looking_at_each_of_them(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    assert pool.admission.waiting() == []
    await pool.drain("a", -2000)
    wants = [pool.want(1000) for _ in range(5)]
    for want in wants[1:]:
        want.client = "bulk"
    waiting = [asyncio.create_task(pool.admission.admit(want)) for want in wants]
    await queued(pool, 5)
    await asyncio.sleep(1)
    rows = {row.client: row for row in pool.admission.waiting()}
    assert {name: (row.model, row.dimension, row.rule, row.waiting) for name, row in rows.items()} == {
        "bulk": (GROUP, "tpm", "", 4),
        "": (GROUP, "tpm", "", 1),
    }
    assert rows["bulk"].longest_s == pytest.approx(1, abs=0.05)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert pool.admission.waiting() == []


async def test_a_large_one_at_the_head_is_not_overtaken_by_small_ones(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", 0)
    large = ask(pool, 200)  # 0.2 s
    await queued(pool, 1)
    small = ask(pool, 1)
    await queued(pool, 2)
    pool.ledger.give_back(await small)
    assert large.done()


async def test_groups_have_queues_of_their_own(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", -500)
    waiting = ask(pool, max_wait_s=5)
    await queued(pool, 1)
    other = await pool.admission.admit(pool.want(model="gpt-4o-mini"))
    assert isinstance(other, Granted)
    assert not waiting.done()
    waiting.cancel()


async def test_only_the_head_asks_the_store(open_pool):
    """A hundred who wait cost what one costs."""
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", -100)
    waiting = [ask(pool, 100 + n) for n in range(100)]
    await queued(pool, 100)
    pool.grants.asks.clear()
    await asyncio.sleep(0.3)  # 300 tokens: the first one or two are served
    asked = {cost.tokens for cost in pool.grants.asks}
    assert asked <= {100, 101, 102, 103}
    assert len(pool.grants.asks) <= 10
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await pool.quiet()


async def test_a_wait_longer_than_patience_is_refused_at_once_with_the_true_time(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", -9_000)
    started = time.monotonic()
    refused = await no_room(pool.admission.admit(pool.want(1000, max_wait_s=5)))
    assert time.monotonic() - started < 1
    assert (refused.reason, refused.dimension) == ("rate_limit", Dimension.TPM)
    assert refused.wait_s == pytest.approx(10, abs=0.3)


async def test_with_several_accounts_the_soonest_one_counts(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, **SLOW)
    await pool.drain("a", -9_000)
    await pool.drain("b", -19_000)
    refused = await no_room(pool.admission.admit(pool.want(1000, max_wait_s=0)))
    assert refused.wait_s == pytest.approx(10, abs=0.3)


async def test_the_client_receives_the_true_wait(open_pool):
    pool = await open_pool({"a": 1}, queue={"max_wait": "1s"}, **SLOW)
    await pool.drain("a", -9_000)
    client = await pool.ask()
    assert (client.status, client.error["code"], client.error["type"]) == (429, "rate_limit_exceeded", "requests")
    assert "tokens per min (TPM)" in client.error["message"]
    assert client.header("retry-after") == "10"
    assert 9_700 <= int(client.header("retry-after-ms")) <= 10_000
    assert client.header("x-should-retry") == "true"
    assert pool.upstream.sent == []


async def test_max_wait_zero_means_no_queue_at_all(open_pool):
    pool = await open_pool({"a": 1}, queue={"max_wait": 0}, **FAST)
    assert (await pool.ask()).status == 200
    await pool.drain("a", -2000)
    started = time.monotonic()
    assert (await pool.ask()).status == 429
    assert time.monotonic() - started < 0.5
    assert pool.is_idle()


async def test_a_full_queue_is_reported(open_pool):
    pool = await open_pool({"a": 1}, queue={"max_waiting": 2}, **SLOW)
    await pool.drain("a", -500)
    waiting = [ask(pool), ask(pool)]
    await queued(pool, 2)
    client = await pool.ask()
    assert (client.status, client.error["code"]) == (429, "queue_full")
    assert client.header("retry-after") is not None
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    await pool.quiet()
    assert pool.is_idle()


async def test_who_leaves_frees_the_place_at_once(open_pool):
    pool = await open_pool({"a": 1}, queue={"max_waiting": 2}, **SLOW)
    await pool.drain("a", -500)
    first, second = ask(pool), ask(pool)
    await queued(pool, 2)
    second.cancel()
    await queued(pool, 1)
    third = ask(pool)
    await queued(pool, 2)
    for task in (first, third):
        task.cancel()


async def test_leavers_leave_no_memory_behind(open_pool):
    """Given a head that waits long, and clients that come and go behind it, I expect the queue not to grow."""
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", -3000)
    head = ask(pool)
    await queued(pool, 1)
    for _ in range(50):
        passing = ask(pool)
        await queued(pool, 2)
        passing.cancel()
        await queued(pool, 1)
    assert len(pool.admission._queues[GROUP].waiting) == 1
    head.cancel()


async def test_a_large_head_that_leaves_does_not_keep_the_next_one_waiting(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", 50)
    large = ask(pool, 4000)
    await queued(pool, 1)
    small = ask(pool, 10)
    await queued(pool, 2)
    await asyncio.sleep(0.02)
    assert not small.done()
    large.cancel()
    async with asyncio.timeout(0.3):  # and not only with the head's next look, up to a second later
        assert isinstance(await small, Granted)


async def test_who_waited_in_vain_learns_when_to_come_back(open_pool):
    """Given two who need 100 ms each from one budget and wait 150 ms, I expect the second to be refused in time."""
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", 0)
    first, second = ask(pool, 100, max_wait_s=0.15), ask(pool, 100, max_wait_s=0.15)
    assert isinstance(await first, Granted)
    refused = await no_room(second)
    assert refused.reason in {"queue_timeout", "rate_limit"}
    assert refused.wait_s >= 0
    await pool.quiet()


async def test_patience_is_for_all_attempts_together(open_pool):
    """Each new attempt may wait in the queue only for what is left of max_wait."""
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", -50)
    want = pool.want(1, max_wait_s=0.5)
    await pool.admission.admit(want)
    stood = want.queued_s
    assert 0.03 < stood < 0.5
    await pool.drain("a", -480)
    refused = await no_room(pool.admission.admit(want))
    assert (refused.reason, want.queued_s) == ("rate_limit", stood)  # 0.48 s are more than the 0.45 that are left


async def test_a_grant_in_the_turn_of_the_deadline_is_not_lost(open_pool):
    """The deadline and the grant can fall into one turn of the loop; whoever wins, the budget is accounted for."""
    pool = await open_pool({"a": 1}, **FAST)
    for n in range(60):
        await pool.drain("a", 0)
        waiting = ask(pool, 500, max_wait_s=0.0045 + n * 0.00005)  # the budget is there after 5 ms
        answer = await waiting
        if isinstance(answer, Granted):
            pool.ledger.give_back(answer)
        await pool.quiet()
        assert pool.is_idle()


async def test_a_waiter_granted_and_timed_out_in_one_turn_returns_the_grant(open_pool):
    """The same without luck: the grant arrives, and before its waiter runs the deadline strikes."""
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", -500)
    waiting = ask(pool, 1, max_wait_s=5)
    await queued(pool, 1)
    line = pool.admission._queues[GROUP]
    name = f"{pool.ledger._name}-1000"
    candidate = pool.roster.candidate(pool.roster.pool.keys["a1"], GROUP)
    granted = messages.Granted(name, GROUP, Cost(1, 1), candidate, 0.0, 1.0, is_trial=False, moments={}, learned={})
    waiter = line.waiting.peek()
    assert waiter is not None
    line.waiting.served(waiter)
    waiter.future.set_result(granted)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert pool.grants.settled[name] == 1
    await pool.quiet()


async def test_there_is_one_pump_per_queue(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", -300)
    waiting = [ask(pool, 1)]
    await queued(pool, 1)
    serving = pool.admission._queues[GROUP].serving
    for n in range(2, 20):
        waiting.append(ask(pool, 1))
        await queued(pool, n)
        assert pool.admission._queues[GROUP].serving is serving
    await asyncio.gather(*waiting)
    await pool.quiet()
    assert serving.done()
    assert repr(pool.admission) == "<Admission queues=0 waiting=0>"


async def test_a_full_queue_of_invented_models_leaves_nothing_behind(open_pool):
    pool = await open_pool({"a": 1}, queue={"max_waiting": 0}, **SLOW)
    for n in range(5):
        model = f"gpt-{n}"
        await pool.admission.admit(pool.want(1, model=model))
        await pool.drain("a", -500, model)
        await no_room(pool.admission.admit(pool.want(1, model=model)))
    assert repr(pool.admission) == "<Admission queues=0 waiting=0>"


# ---- who is refused gets a time of its own


async def test_those_refused_at_one_moment_are_told_to_come_one_after_another(open_pool):
    """Given one account of 1000 tokens a second and four who want 1000 each, I expect one more second for each."""
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", 0)
    told = [(await no_room(pool.admission.admit(pool.want(1000, max_wait_s=0)))).wait_s for _ in range(4)]
    assert told == pytest.approx([1, 2, 3, 4], abs=0.1)


async def test_two_accounts_halve_the_time_between_the_slots(open_pool):
    pool = await open_pool({"a": 1, "b": 1}, **SLOW)
    await pool.drain("a", 0)
    await pool.drain("b", 0)
    told = [(await no_room(pool.admission.admit(pool.want(1000, max_wait_s=0)))).wait_s for _ in range(4)]
    assert told == pytest.approx([1, 1.5, 2, 2.5], abs=0.1)


async def test_with_two_replicas_each_hands_out_every_other_slot(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    pool.ledger.replicas = 2
    await pool.drain("a", 0)
    told = [(await no_room(pool.admission.admit(pool.want(1000, max_wait_s=0)))).wait_s for _ in range(3)]
    assert told == pytest.approx([1, 3, 5], abs=0.1)


async def test_groups_have_slots_of_their_own(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    for model in (GROUP, "gpt-4o-mini"):
        await pool.drain("a", 0, model)
        refused = await no_room(pool.admission.admit(pool.want(1000, max_wait_s=0, model=model)))
        assert refused.wait_s == pytest.approx(1, abs=0.1)


async def test_a_refusal_leaves_nothing_behind_for_invented_models(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    for n in range(2100):
        pool.admission._no_room(f"gpt-{n}", "rate_limit", 1.0, Refused(1.0, None), _Queue())
    assert len(pool.admission._return_times) <= 1_001


# ---- who is asked


async def test_the_few_who_can_serve_are_found_among_many_who_cannot(open_pool):
    """Given forty accounts of which one has the model, I expect every request to find it."""
    pool = await open_pool({f"a{n}": 1 for n in range(40)})
    for n in range(40):
        if n != 17:
            place = pool.roster.pool.accounts[f"a{n}"].place
            pool.roster.pool.missing.refused(Access.MODEL, "", place, f"a{n}1", Use(GROUP), time.time())
    for _ in range(20):
        granted = await pool.admission.admit(pool.want())
        assert granted.candidate.account == "a17"
        pool.ledger.give_back(granted)


async def test_accounts_that_said_no_do_not_count_as_ready(open_pool):
    """Given one account at its limit for ten seconds and one that this request must not go to, I expect those ten."""
    pool = await open_pool({"a": 1, "b": 1}, **SLOW)
    pool.ledger.give_back(await pool.admission.admit(pool.want(1)))
    await pool.drain("a", -9_000)
    await pool.drain("b", 30_000)
    want = pool.want(1000, max_wait_s=5)
    want.exclude.add("b")
    refused = await no_room(pool.admission.admit(want))
    assert (refused.reason, refused.wait_s) == ("rate_limit", pytest.approx(10, abs=0.3))


async def test_a_dead_account_does_not_count_as_ready(open_pool):
    """Else its forgotten bucket, always full, would have every refused client wait, and the store asked in a loop."""
    pool = await open_pool({"a": 1, "b": 1}, queue={"max_wait": "5s"}, **SLOW)
    for _ in range(4):
        await pool.ask(Client(chat_body(max_tokens=1)))
    pool.upstream.next(error(401, "account_deactivated"))
    await pool.ask(Client(chat_body(max_tokens=1)))
    alive = ({"a", "b"} - {field[2:] for field in await pool.states()}).pop()
    await pool.drain(alive, -9_000)
    started = time.monotonic()
    client = await pool.ask()
    assert (client.status, client.error["code"], client.header("retry-after")) == (429, "rate_limit_exceeded", "10")
    assert time.monotonic() - started < 1


async def test_too_large_for_one_account_is_not_too_large_for_another(open_pool):
    small, large = {"rpm": 1000, "tpm": 10_000}, {"rpm": 1000, "tpm": 100_000}
    pool = await open_pool({"a": 1, "b": 1}, accounts={"a": small, "b": large})
    for _ in range(4):
        assert (await pool.admission.admit(pool.want(20_000))).candidate.account == "b"
    assert await pool.admission.admit(pool.want(200_000)) == Never("too_large")


async def test_in_a_large_pool_the_one_account_that_is_large_enough_is_found_and_too_large_is_said_at_once(open_pool):
    """Given forty accounts, of which a reserve sees six at random."""
    small, large = {"rpm": 1000, "tpm": 10_000}, {"rpm": 1000, "tpm": 100_000}
    names = [f"a{n}" for n in range(40)]
    pool = await open_pool(dict.fromkeys(names, 1), accounts=dict.fromkeys(names, small) | {"a7": large})
    for _ in range(4):
        assert (await pool.admission.admit(pool.want(20_000))).candidate.account == "a7"
    asked = len(pool.grants.asks)
    assert await pool.admission.admit(pool.want(200_000)) == Never("too_large")
    assert len(pool.grants.asks) - asked <= 8  # two looks at most, whatever the size of the pool


async def test_a_request_that_only_a_busy_account_can_serve_waits_for_that_one(open_pool):
    small, large = {"rpm": 1000, "tpm": 10_000}, {"rpm": 1000, "tpm": 60_000}
    pool = await open_pool({"a": 1, "b": 1}, accounts={"a": small, "b": large})
    await pool.drain("b", 15_000)
    refused = await no_room(pool.admission.admit(pool.want(20_000, max_wait_s=1)))
    assert refused.wait_s == pytest.approx(5, abs=0.3)


async def test_all_excluded_is_not_an_empty_pool(open_pool):
    pool = await open_pool({"a": 1, "b": 1})
    want = pool.want()
    want.exclude.update({"a", "b"})
    assert await pool.admission.admit(want) == Never("excluded")


# ---- the store away


async def test_a_waiting_queue_survives_a_store_that_is_away_for_less_than_patience(open_pool, virtual_time):
    """Given a store that answers nothing for 350 ms, longer than one call may take, I expect nobody to notice more."""
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", -20)
    waiting = [ask(pool, 1 + n) for n in range(10)]
    await queued(pool, 10)
    virtual_time.pause_store(0.35)
    for n, task in enumerate(waiting):
        assert (await task).cost.tokens == 1 + n
    assert pool.recorder.store_losses
    for granted in list(pool.grants.granted):
        pool.ledger.give_back(granted)
    await pool.quiet()
    assert pool.is_idle()


async def test_a_store_away_for_longer_is_a_503_that_may_be_retried(open_pool, virtual_time):
    pool = await open_pool({"a": 1}, store_patience=0.1)
    virtual_time.pause_store(0.9)
    client = Client(chat_body())
    await pool.serve(client, RequestRecord("t", 0.0))
    assert (client.status, client.error["code"]) == (503, "store_unavailable")
    assert (client.header("retry-after"), client.header("x-should-retry")) == ("1", "true")
    assert pool.upstream.sent == []
    await pool.quiet()  # once the store is back, what was reserved in doubt is given back
    bucket = await pool.bucket("a")
    assert bucket is None or await pool.taken("a") == (0, 0)


async def test_who_waits_when_the_proxy_stops_is_told_so_at_once_and_whoever_finds_room_is_still_served(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", -5000)
    clients = [Client(chat_body()), Client(chat_body(stream=True)), Client(chat_body(model="gpt-4o-mini"))]
    trips = [RequestRecord("t", time.monotonic(), "POST") for _ in clients]
    await pool.drain("a", -5000, "gpt-4o-mini")
    served = [asyncio.create_task(pool.serve(*pair)) for pair in zip(clients, trips, strict=True)]
    await queued(pool, 3)
    pool.admission.drain()
    before = time.monotonic()
    await asyncio.gather(*served)
    assert time.monotonic() - before < 0.1
    late, unhurried = Client(chat_body()), Client(chat_body(model="gpt-4.1", max_tokens=10))
    await pool.serve(late, RequestRecord("t", time.monotonic(), "POST"))
    for client in [*clients, late]:
        assert (client.status, client.error["code"]) == (503, "draining")
        assert (client.header("retry-after"), client.header("x-should-retry")) == ("1", "true")
    await pool.serve(unhurried, RequestRecord("t", time.monotonic(), "POST"))
    assert unhurried.status == 200  # its model has room
    await pool.quiet()
    assert pool.is_idle()


async def test_a_grant_that_comes_in_the_turn_of_the_stop_is_given_back(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", -100)

    def reserved(result: str) -> None:
        if result == "granted":
            pool.admission.drain()  # while the one who asked does not know of it

    pool.recorder.reserved = reserved
    assert (await no_room(ask(pool, 100))).reason == "draining"
    await pool.quiet()
    assert pool.is_idle()
