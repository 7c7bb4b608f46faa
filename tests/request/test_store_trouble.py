"""The queue while the store is slow or away: it moves as fast as budgets allow, and no waiter learns late of a loss."""

from __future__ import annotations

import asyncio

from quotapool.ledger.budgets import Granted, StoreUnavailable

FAST = {"limits": {"default": {"rpm": 1_000_000, "tpm": 6_000_000}}}  # 100 tokens a millisecond
SLOW = {"limits": {"default": {"rpm": 1_000_000, "tpm": 60_000}}}  # 1000 tokens a second


async def queued(pool, count: int, tokens: int) -> list[asyncio.Task]:
    waiting = [asyncio.create_task(pool.admission.admit(pool.want(tokens))) for _ in range(count)]
    async with asyncio.timeout(2):
        while pool.recorder.waiting != count:
            await asyncio.sleep(0.000_1)
    return waiting


async def test_a_queue_moves_by_more_than_one_request_in_the_time_of_one_answer(open_pool, virtual_time):
    pool = await open_pool({"a": 1}, **FAST)
    await pool.drain("a", -6_000)
    waiting = await queued(pool, 64, 100)
    # If the store is slow once, so that there is room for all 64 when it answers
    answers: list[int] = []
    pool.recorder.store_answered = lambda _seconds, items: answers.append(items)
    virtual_time.pause_store(0.15)
    for granted in await asyncio.gather(*waiting):
        pool.ledger.give_back(granted)
    # I expect it to be asked for 1, 2, 4, 8, 16, 32 and the rest, not 64 times
    assert len(answers) <= 16, answers
    await pool.quiet()
    assert pool.is_idle()


async def test_a_store_given_up_on_is_reported_to_the_whole_queue_at_once(open_pool, virtual_time):
    pool = await open_pool({"a": 1}, store_patience=0.1, **SLOW)
    await pool.drain("a", -300)
    waiting = await queued(pool, 20, 1)
    virtual_time.pause_store(1.2)
    done, pending = await asyncio.wait(waiting, timeout=1.1)
    assert not pending
    assert {type(task.exception()) for task in done} == {StoreUnavailable}
    assert pool.recorder.waiting == 0
    await pool.quiet()
    assert isinstance(await pool.admission.admit(pool.want(1)), Granted)
