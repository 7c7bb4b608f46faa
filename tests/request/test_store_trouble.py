"""The line while the store is slow or away: it moves as fast as budgets allow, and nobody waits to hear bad news."""

from __future__ import annotations

import asyncio

from quotapool.ledger.budgets import Granted, StoreUnavailable

FAST = {"limits": {"default": {"rpm": 1_000_000, "tpm": 6_000_000}}}  # 100 tokens a millisecond
SLOW = {"limits": {"default": {"rpm": 1_000_000, "tpm": 60_000}}}  # 1000 tokens a second


async def stand(pool, count: int, tokens: int) -> list[asyncio.Task]:
    waiting = [asyncio.create_task(pool.admission.admit(pool.want(tokens))) for _ in range(count)]
    async with asyncio.timeout(2):
        while pool.recorder.waiting != count:
            await asyncio.sleep(0)
    return waiting


async def pause(pool, ms: int) -> None:
    """The server hangs for so long."""
    await pool.store.client.execute_command("CLIENT", "PAUSE", ms, "ALL")


async def test_a_line_moves_by_more_than_one_request_in_the_time_of_one_answer(open_pool):
    pool = await open_pool({"a": 1}, **FAST)
    await pool.drain("a", -6_000)
    waiting = await stand(pool, 64, 100)
    # If the store is slow once, so that there is room for all 64 when it answers
    answers: list[int] = []
    pool.recorder.store_answered = lambda _seconds, items: answers.append(items)
    await pause(pool, 150)
    for granted in await asyncio.gather(*waiting):
        pool.ledger.give_back(granted)
    # I expect it to be asked for 1, 2, 4, 8, 16, 32 and the rest, not 64 times
    assert len(answers) <= 16, answers
    await pool.quiet()
    assert pool.is_idle()


async def test_a_store_given_up_on_is_told_to_the_whole_line_at_once(open_pool):
    pool = await open_pool({"a": 1}, store_patience=0.1, **SLOW)
    await pool.drain("a", -300)
    waiting = await stand(pool, 20, 1)
    await pause(pool, 1_200)
    done, pending = await asyncio.wait(waiting, timeout=1.1)
    assert not pending
    assert {type(task.exception()) for task in done} == {StoreUnavailable}
    assert pool.recorder.waiting == 0
    await pool.quiet()
    assert isinstance(await pool.admission.admit(pool.want(1)), Granted)
