"""What a request waited for, or was refused by, stays with its record: which budget of whom, or which rules."""

from __future__ import annotations

import asyncio

import pytest
from quotapool.domain.request_record import RequestRecord
from quotapool.domain.waited_for import RuleAtLimit, WaitedFor
from quotapool.ledger.grants import Refused
from quotapool.pool.waits import waited_for
from quotapool.pool.want import Never, NoRoom

from tests.fakes.edge import Client, chat_answer, chat_body

SLOW = {"limits": {"default": {"rpm": 1_000_000, "tpm": 60_000}}}  # 1000 tokens a second
KEY = "a-client-key-of-our-own"


async def asked(pool, **client) -> RequestRecord:
    record = RequestRecord("qp_1", 0.0)
    record.status = (await pool.ask(Client(chat_body(), **client), record)).status
    return record


async def test_who_finds_room_at_once_waited_for_nothing(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    pool.upstream.next(chat_answer())
    record = await asked(pool)
    assert (record.status, record.waited_for) == (200, None)


async def test_who_waited_and_was_served_knows_for_which_budget(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    await pool.drain("a", -500)
    pool.upstream.next(chat_answer())
    record = await asked(pool)
    assert record.status == 200
    assert record.queued_s > 0.4
    assert record.waited_for is not None
    assert (record.waited_for.group, record.waited_for.dimension, record.waited_for.reason) == ("gpt-4o", "tpm", "")


async def test_who_is_refused_at_once_knows_the_budget_and_until_when(open_pool):
    pool = await open_pool({"a": 1}, queue={"max_wait": 0}, **SLOW)
    await pool.drain("a", -9_000)
    record = await asked(pool)
    assert record.status == 429
    assert record.waited_for is not None
    assert (record.waited_for.dimension, record.waited_for.reason) == ("tpm", "rate_limit")
    assert record.waited_for.wait_s == pytest.approx(10, abs=0.5)  # 9,000 tokens of debt, and a thousand for this one


async def test_who_finds_a_full_queue_knows_what_those_in_it_wait_for(open_pool):
    pool = await open_pool({"a": 1}, queue={"max_waiting": 1}, **SLOW)
    await pool.drain("a", -500)
    waiting = asyncio.create_task(pool.admission.admit(pool.want(1000)))
    async with asyncio.timeout(2):
        while pool.admission._queues.get("gpt-4o") is None or pool.admission._queues["gpt-4o"].short is None:
            await asyncio.sleep(0.000_1)
    record = await asked(pool)
    assert record.waited_for is not None
    assert (record.waited_for.dimension, record.waited_for.reason) == ("tpm", "queue_full")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_who_is_at_its_own_limit_knows_the_rule_and_what_is_used_of_it(open_pool):
    client = {"id": "app", "key": KEY, "limits": {"rpm": 1}}
    pool = await open_pool({"a": 1}, clients=[client], queue={"max_wait": 0}, **SLOW)
    pool.upstream.next(chat_answer())
    assert (await asked(pool, key=KEY)).status == 200
    record = await asked(pool, key=KEY)
    assert record.status == 429
    assert record.waited_for is not None
    (rule,) = record.waited_for.rules
    assert (rule.subject, rule.rule, rule.limit, rule.needed) == ("c/app", "rpm", 1, 1)
    assert rule.wait_s == pytest.approx(60, abs=1)
    assert record.waited_for.words == "rules rpm"


RULE = RuleAtLimit("c/app", "usd/day", 5.0, 5.0, 0.0, 1.0, 60.0)


@pytest.mark.parametrize(
    ("waited", "words"),
    [
        (WaitedFor("gpt-4o", "tpm"), "tpm of gpt-4o"),
        (WaitedFor("gpt-4o", "rpd", "acme"), "rpd of gpt-4o, account acme"),
        (WaitedFor("gpt-4o"), "room of gpt-4o"),
        (WaitedFor("gpt-4o", reason="money", wait_s=None), "a key for gpt-4o: money"),
        (WaitedFor("gpt-4o", rules=(RULE,), wait_s=None), "rules usd/day"),
    ],
)
def test_it_has_words_for_the_log(waited, words):
    assert waited.words == words


async def test_what_is_not_known_is_not_claimed(open_pool):
    pool = await open_pool({"a": 1}, **SLOW)
    want = pool.want()
    assert waited_for(want, None) is None
    assert waited_for(want, NoRoom(1.0, "draining", None)) == WaitedFor(want.group, reason="draining", wait_s=1.0)
    assert waited_for(want, Never("money")) == WaitedFor(want.group, reason="money", wait_s=None)
    want.waited_for = Refused(2.0, None, ("acme", "other"))
    assert waited_for(want, None) == WaitedFor(want.group, "", "acme", "", 2.0)
