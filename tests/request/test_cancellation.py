"""A client that leaves, at every single point where its request waits for something.

Each story is run again and again, cancelled at its 1st, 2nd, 3rd ... suspension until it comes to its end uncancelled;
once while what it waits for is still open, and once in the very turn in which that has arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import types
from functools import partial

import pytest

from tests.fakes.edge import DONE, Client, chat_answer, chat_body, delta, error, event, fails, stream, usage_chunk

HELLO = delta(content="Hello")


@types.coroutine
def cancelled_at(coroutine, step: int, *, arrived: bool):
    """Run `coroutine`, and cancel its task at its `step`-th suspension. Returns whether it came that far."""
    advance, steps, task = partial(coroutine.send, None), 0, asyncio.current_task()
    while True:
        try:
            waits_for = advance()
        except StopIteration:
            return steps > step
        if steps == step:
            if arrived and waits_for is not None:
                waits_for.add_done_callback(lambda _: task.cancel())
            else:
                task.cancel()
        steps += 1
        try:
            yield waits_for
            advance = partial(coroutine.send, None)
        except BaseException as thrown:  # noqa: BLE001 - passed on to the coroutine
            advance = partial(coroutine.throw, thrown)


def plain(pool) -> Client:
    pool.upstream.next(chat_answer())
    return Client(chat_body())


def streamed(pool) -> Client:
    pool.upstream.next(stream(HELLO, HELLO, usage_chunk(10, 20), DONE))
    return Client(chat_body(stream=True))


def moved_on(pool) -> Client:
    pool.upstream.next(error(429, "rate_limit_exceeded", retry_after_ms="1"), chat_answer())
    return Client(chat_body())


def early_error(pool) -> Client:
    said = {"error": {"message": "Rate limit reached. Please try again in 1ms.", "code": "rate_limit_exceeded"}}
    pool.upstream.next(stream(event(said)), stream(HELLO, DONE))
    return Client(chat_body("gpt-4o-mini", stream=True))


def retried(pool) -> Client:
    pool.upstream.next(error(500, None, kind="server_error"), fails("reset"), chat_answer())
    return Client(chat_body())


def unsent(pool) -> Client:
    pool.upstream.next(fails("connect", sent=False), chat_answer())
    return Client(chat_body())


def uploaded(pool) -> Client:
    form = (("Content-Type", "multipart/form-data; boundary=x"),)
    return Client([b"--x\r\n", b"data", b"\r\n--x--"], target="/v1/files", more_headers=form)


def answered_with_an_error(pool) -> Client:
    pool.upstream.next(error(400, "invalid_value"))
    return Client(chat_body())


@pytest.mark.parametrize("arrived", [False, True], ids=["while waiting", "in the turn of arrival"])
@pytest.mark.parametrize(
    "story", [plain, streamed, moved_on, early_error, retried, unsent, uploaded, answered_with_an_error]
)
async def test_whoever_leaves_is_settled_once_and_leaves_nothing_behind(open_pool, story, arrived):
    pool = await open_pool({"a": 1, "b": 1})
    for step in itertools.count():
        client = story(pool)
        task = asyncio.create_task(_runs(pool, client, step, arrived=arrived))
        reached = True
        try:
            reached = await task
        except asyncio.CancelledError:
            assert task.cancelled()
        await pool.quiet()
        assert pool.is_idle(), f"cancelled at step {step}"
        pool.upstream._next.clear()
        if not reached:
            break
    assert step >= 5  # the story has that many points at least, or this test tests nothing
    if story is uploaded:  # it names no model, and so uses no limit
        return
    groups = {"gpt-4o", "gpt-4o-mini"}
    requests = sum([(await pool.taken(account, group))[0] for account in "ab" for group in groups])
    assert requests == len(pool.upstream.sent)  # what upstream heard of is charged, and nothing else


async def _runs(pool, client, step, *, arrived):
    from quotapool.domain.request_record import RequestRecord

    return await cancelled_at(pool.serve(client, RequestRecord("t", 0.0)), step, arrived=arrived)


@pytest.mark.parametrize("arrived", [False, True], ids=["while waiting", "in the turn of arrival"])
async def test_whoever_leaves_the_line_takes_nothing_along(open_pool, arrived):
    """Given a budget that is empty for some milliseconds, so that each run waits in line for it."""
    small = {"rpm": 100_000, "tpm": 6_000_000, "rpd": 1000}  # 100 tokens a millisecond
    pool = await open_pool({"a": 1}, limits={"default": small})
    fillers = 0
    for step in itertools.count():
        await pool.drain("a", 0)
        fillers += 1
        pool.upstream.next(chat_answer(prompt=1000, completion=0))
        reached = True
        with contextlib.suppress(asyncio.CancelledError):
            reached = await asyncio.create_task(_runs(pool, Client(chat_body()), step, arrived=arrived))
        await pool.quiet()
        assert pool.is_idle(), f"cancelled at step {step}"
        pool.upstream._next.clear()
        if not reached:
            break
    assert pool.recorder.results["refused"] > 0
    assert step >= 5
    bucket = await pool.bucket("a")
    assert round(1000 - bucket.corrected[2]) == fillers + len(pool.upstream.sent)


async def test_a_dead_key_is_reported_even_if_its_client_left_at_that_moment(open_pool):
    told_after_leaving = 0
    for step in itertools.count():
        pool = await open_pool({"a": 1, "b": 1}, pool=f"p{step}")
        pool.upstream.next(error(401, "invalid_api_key"))
        reached = True
        with contextlib.suppress(asyncio.CancelledError):
            reached = await asyncio.create_task(_runs(pool, Client(chat_body()), step, arrived=False))
        told_after_leaving += bool(pool.sync._tasks)
        await pool.quiet()
        understood = any(leg.outcome == "dead" for leg in pool.recorder.legs)
        assert (await pool.states() != {}) == understood, f"cancelled at step {step}"
        if not reached:
            break
    assert told_after_leaving  # it did happen


async def test_a_key_that_a_reload_took_away_meanwhile_is_not_used(open_pool):
    """Given a request whose key leaves the configuration while the store is asked, I expect another key."""
    pool = await open_pool({"a": 1, "b": 1})
    both = pool.settings
    written = [{"id": k.id, "account": k.account, "secret": k.secret} for k in pool.settings.keys if k.account == "b"]
    fewer = pool.settings.model_validate({"keys": written})
    for _ in range(8):
        pool.configure(both)
        asked = asyncio.create_task(pool.ask())
        while pool.grants.asks == []:
            await asyncio.sleep(0.000_02)
        pool.grants.asks.clear()
        pool.configure(fewer)
        assert (await asked).status == 200
    assert set(pool.accounts_asked) == {"b"}
    assert await pool.taken("a") == (0, 0)
    assert pool.is_idle()
    assert json.loads(pool.upstream.sent[0].body)["model"] == "gpt-4o"
