"""A request that names a stored object goes to the account that made it: it waits for that one, and for no other."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from quotapool.domain.states import Record, State
from quotapool.openai.ids import CONVERSATION, ENCRYPTED, FILE, RESPONSE, encrypted_id

from tests.fakes.edge import Client, Reply, error, says

REASONING = "gAAAAAB" + "x" * 120


@pytest.fixture
async def placed(open_pool):
    """`await placed({"a": 1, "b": 1})`: a pool that searches for no unknown ids; `pool.book` knows who owns what."""

    async def opened(accounts, **options):
        pool = await open_pool(accounts, objects={"search": False}, **options)
        pool.book = pool.paths.owners
        return pool

    return opened


async def owns(pool, account: str, *refs) -> None:
    await pool.book.remember(refs, account, "")


def response_body(**more: Any) -> bytes:
    return json.dumps({"model": "gpt-4o", "input": "hi", "max_output_tokens": 1000, **more}).encode()


def asks(**more: Any) -> Client:
    return Client(response_body(**more), target="/v1/responses")


def answers(object_id: str = "resp_new", **more: Any) -> Reply:
    usage = {"input_tokens": 1, "output_tokens": 1, "total_tokens": 2}
    return says(200, {"id": object_id, "object": "response", "output": [], "usage": usage, **more})


async def test_what_names_a_response_goes_to_its_account(placed):
    pool = await placed(dict.fromkeys("abcdefgh", 1))
    pool.upstream.otherwise = answers()
    await owns(pool, "e", (RESPONSE, "resp_1"))
    for _ in range(8):
        await pool.ask(asks(previous_response_id="resp_1"))
    assert pool.accounts_asked == ["e"] * 8


async def test_it_waits_for_its_account_and_holds_up_nobody_else(placed):
    pool = await placed({"a": 1, "b": 1}, limits={"default": {"rpm": 60_000, "tpm": 60_000}})
    pool.upstream.otherwise = answers()
    await owns(pool, "a", (RESPONSE, "resp_1"))
    await pool.drain("a", 800)  # 1,000 tokens a second come in, so 1,000 are there in 0.2 s
    pinned = asyncio.ensure_future(pool.ask(asks(previous_response_id="resp_1")))
    await asyncio.sleep(0)
    for _ in range(3):
        await pool.ask(asks())
    assert not pinned.done() or pool.accounts_asked[-1] == "a"
    assert (await pinned).status == 200
    assert pool.accounts_asked.count("a") >= 1
    assert pool.accounts_asked[-1] == "a"
    assert pool.is_idle()


async def test_a_refusal_tells_the_wait_of_its_own_account(placed):
    """Account a gains 1,000 tokens a second and owes 4,000 for this: 5 s; b would have room at once."""
    pool = await placed({"a": 1, "b": 1}, limits={"default": {"rpm": 60_000, "tpm": 60_000}}, queue={"max_wait": 0})
    await owns(pool, "a", (RESPONSE, "resp_1"))
    await pool.drain("a", -4000)
    client = await pool.ask(asks(previous_response_id="resp_1"))
    assert client.status == 429
    assert float(client.header("retry-after-ms")) == pytest.approx(5000, abs=300)
    assert pool.upstream.sent == []
    pool.upstream.otherwise = answers()
    assert (await pool.ask(asks())).status == 200


async def test_a_refusal_upstream_moves_it_to_no_other_account(placed):
    pool = await placed({"a": 1, "b": 1, "c": 1}, queue={"max_wait": 0})
    await owns(pool, "b", (CONVERSATION, "conv_1"))
    said = "Rate limit reached for gpt-4o in organization org-x on tokens per min (TPM): Limit 30000, Used 30000."
    pool.upstream.otherwise = error(429, "rate_limit_exceeded", said, "tokens", retry_after="7")
    client = await pool.ask(asks(conversation="conv_1"))
    assert client.status == 429
    assert set(pool.accounts_asked) == {"b"}


async def test_another_key_of_the_account_takes_over(placed):
    pool = await placed({"a": 2, "b": 1})
    await owns(pool, "a", (FILE, "file-1"))
    pool.upstream.next(error(401, "invalid_api_key", "Incorrect API key provided: sk-test."), answers())
    part = {"role": "user", "content": [{"type": "input_file", "file_id": "file-1"}]}
    client = await pool.ask(asks(input=[part]))
    assert client.status == 200
    assert {sent.key for sent in pool.upstream.sent} == {"a1", "a2"}


async def test_an_account_out_of_money_is_named_and_not_replaced(placed):
    pool = await placed({"a": 1, "b": 1})
    await owns(pool, "a", (RESPONSE, "resp_1"))
    pool.upstream.next(error(429, "insufficient_quota", kind="insufficient_quota"))
    first = await pool.ask(asks(previous_response_id="resp_1"))
    second = await pool.ask(asks(previous_response_id="resp_1"))
    assert pool.accounts_asked == ["a"]
    for client in (first, second):
        assert client.status == 503
        assert client.error["code"] == "object_account_unavailable"
        assert client.header("x-should-retry") == "false"


async def test_ids_that_live_apart_are_named(placed):
    pool = await placed({"a": 1, "b": 1})
    await owns(pool, "a", (RESPONSE, "resp_1"))
    await owns(pool, "b", (CONVERSATION, "conv_1"))
    client = await pool.ask(asks(previous_response_id="resp_1", conversation="conv_1"))
    assert client.status == 400
    assert client.error["code"] == "objects_apart"
    assert "resp_1; conv_1" in client.error["message"]
    assert pool.upstream.sent == []


async def test_a_response_is_known_before_its_client_is(placed):
    pool = await placed(dict.fromkeys("abcd", 1))
    pool.upstream.next(answers("resp_7"))
    await pool.ask(asks())
    (maker,) = pool.accounts_asked
    pool.upstream.otherwise = answers()
    await pool.ask(asks(previous_response_id="resp_7"))
    assert pool.accounts_asked == [maker, maker]


async def test_store_false_leaves_no_record(placed):
    pool = await placed({"a": 1})
    pool.upstream.otherwise = answers("resp_7")
    await pool.ask(asks(store=False))
    assert await pool.store.client.keys("qp:{default:obj*") == []
    await pool.ask(asks())
    assert len(await pool.store.client.keys("qp:{default:obj*")) == 1


async def test_encrypted_reasoning_goes_back_to_where_it_was_encrypted(placed):
    """Codex's way: nothing is stored, the reasoning comes back encrypted, and only its organisation can read it."""
    pool = await placed(dict.fromkeys("abcdefgh", 1))
    reasoning = {"type": "reasoning", "id": "rs_1", "encrypted_content": REASONING}
    pool.upstream.next(answers(output=[reasoning]))
    await pool.ask(asks(store=False, include=["reasoning.encrypted_content"]))
    (maker,) = pool.accounts_asked
    pool.upstream.otherwise = answers()
    for _ in range(6):
        await pool.ask(asks(store=False, input=[reasoning, {"role": "user", "content": "go on"}]))
    assert pool.accounts_asked == [maker] * 7
    assert await pool.book.find([(ENCRYPTED, encrypted_id(REASONING))], "") != [None]


async def test_a_store_that_is_away_makes_nobody_believe_that_an_object_is_gone(placed):
    pool = await placed({"a": 1, "b": 1})
    pool.lose_the_store()
    client = await pool.ask(asks(previous_response_id="resp_1"))
    assert client.status == 503
    assert client.error["code"] == "store_unavailable"
    assert pool.upstream.sent == []


async def test_a_client_that_makes_things_has_one_home(placed):
    pool = await placed(dict.fromkeys("abcdefgh", 1))
    for n in range(6):
        pool.upstream.next(says(200, {"id": f"vs_{n}", "object": "vector_store"}))
        await pool.ask(Client(b"{}", target="/v1/vector_stores"))
    assert len(set(pool.accounts_asked)) == 1


async def test_a_home_that_is_out_moves_with_the_next_object_and_lists_wait_until_then(placed):
    pool = await placed(dict.fromkeys("abcd", 1))

    async def makes(n: int) -> Client:
        pool.upstream.otherwise = says(200, {"id": f"vs_{n}", "object": "vector_store"})
        return await pool.ask(Client(b"{}", target="/v1/vector_stores"))

    async def lists() -> Client:
        pool.upstream.otherwise = says(200, {"object": "list", "data": [], "has_more": False})
        return await pool.ask(Client(method="GET", target="/v1/vector_stores"))

    await makes(1)
    home = pool.accounts_asked[-1]
    await pool.ledger.registry.change_state(
        f"a/{home}", Record(State.QUARANTINED, "money", 0.0, fingerprint=""), rest_s=3600, fingerprint=""
    )
    await pool.sync.refresh()
    refused = await lists()
    assert (refused.status, refused.error["code"]) == (503, "object_account_unavailable")
    assert (await makes(2)).status == 200
    moved = pool.accounts_asked[-1]
    assert moved != home
    assert (await lists()).status == 200
    await pool.ledger.registry.change_state(f"a/{home}", None, rest_s=0, fingerprint="")
    await pool.sync.refresh()
    await makes(3)
    await lists()
    assert pool.accounts_asked[-2:] == [moved, moved]  # for good
    await pool.ask(Client(method="GET", target="/v1/vector_stores/vs_1"))
    assert pool.accounts_asked[-1] == home  # what was made there is found there


async def test_a_new_account_moves_nobody(placed):
    few = await placed(dict.fromkeys("ab", 1))
    await few.ask(Client(b"{}", target="/v1/vector_stores"))
    many = await placed(dict.fromkeys("abcdefghijklmnop", 1))
    for _ in range(3):
        await many.ask(Client(b"{}", target="/v1/vector_stores"))
    assert set(many.accounts_asked) == set(few.accounts_asked)
