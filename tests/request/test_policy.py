"""Refusals for policy are the caller's: counted by client, told, never sent to another key; by option they suspend."""

from __future__ import annotations

import json

import pytest
from quotapool.ledger.clients import ClientDirectory, ClientStore, digest

from tests.fakes.edge import Client, chat_answer, chat_body, delta, error, event, stream

KEY = "a-client-key-of-our-own"
HEADERS = (("Content-Type", "application/json"), ("Authorization", f"Bearer {KEY}"))
FLAGGED = error(400, "invalid_prompt", "Invalid prompt: your prompt was flagged")


async def with_client(open_pool, **safety):
    """A pool whose one client is called backend."""
    pool = await open_pool({"a": 1, "b": 1}, safety=safety)

    def configure(suspended=()) -> None:
        clients = {digest(KEY): "backend"}
        pool.auth.configure(clients=clients, hosts=(), origins=(), allow_anonymous=False, suspended=suspended)

    configure()
    book = ClientDirectory(ClientStore(pool.store, pool.settings.pool), lambda: configure(book.suspended))
    return pool, book


def asking(body: bytes | None = None, **headers: str) -> Client:
    more = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Client(body or chat_body(), more_headers=(*HEADERS, *more))


async def events(pool) -> list[tuple[bytes, bytes]]:
    entries = await pool.store.client.xrange(f"{pool.ledger.prefix}:events")
    return [(entry[b"field"], entry[b"reason"]) for _, entry in entries if entry[b"kind"] == b"policy"]


async def test_each_is_counted_for_its_client_and_told_once_a_minute(open_pool):
    pool, _ = await with_client(open_pool)
    pool.upstream.next(FLAGGED, error(400, "bio_policy"), error(400, "moderation_blocked"))
    pool.upstream.next(error(400, "invalid_value", "Invalid value: 'temperature'"))
    for _ in range(4):
        assert (await pool.ask(asking())).status == 400
    assert pool.recorder.policy == [("backend", c) for c in ("invalid_prompt", "bio_policy", "moderation_blocked")]
    assert await events(pool) == [(b"backend", b"invalid_prompt")]
    assert len(pool.upstream.sent) == 4
    assert await pool.states() == {}


async def test_one_inside_a_stream_counts_as_well(open_pool):
    pool, _ = await with_client(open_pool)
    flagged = event({"error": {"message": "flagged", "type": "invalid_request_error", "code": "cyber_policy"}})
    pool.upstream.next(stream(delta(content="Hello"), flagged))
    await pool.ask(asking(chat_body(stream=True)))
    assert pool.recorder.policy == [("backend", "cyber_policy")]


async def test_a_client_that_goes_on_is_suspended_until_an_operator_resumes_it(open_pool):
    pool, book = await with_client(open_pool, suspend_after=3)
    pool.upstream.next(FLAGGED, FLAGGED, chat_answer(), FLAGGED)
    assert [(await pool.ask(asking())).status for _ in range(4)] == [400, 400, 200, 400]
    assert pool.recorder.suspended == ["backend"]
    await book.refresh()
    client = await pool.ask(asking())
    assert (client.status, client.error["code"]) == (403, "client_suspended")
    assert client.header("x-should-retry") == "false"
    assert len(pool.upstream.sent) == 4
    assert await ClientStore(pool.store, pool.settings.pool).resume("backend")
    await book.refresh()
    pool.upstream.next(FLAGGED)  # what was before is forgotten
    assert [(await pool.ask(asking())).status for _ in range(2)] == [400, 200]
    await book.refresh()
    assert book.suspended == {}


async def test_without_the_option_nobody_is_suspended(open_pool):
    pool, book = await with_client(open_pool)
    pool.upstream.otherwise = FLAGGED
    for _ in range(5):
        await pool.ask(asking())
    await book.refresh()
    assert book.suspended == {}


# ---- safety_identifier


def sent_bodies(pool) -> list[dict]:
    return [json.loads(sent.body) for sent in pool.upstream.sent]


async def test_by_option_a_missing_identifier_is_the_hashed_client(open_pool):
    pool, _ = await with_client(open_pool, identifier=True)
    body = chat_body()
    await pool.ask(asking(body))
    await pool.ask(asking(body))
    first, second = sent_bodies(pool)
    identifier = first["safety_identifier"]
    assert identifier == second["safety_identifier"]
    assert "backend" not in identifier
    assert 16 <= len(identifier) <= 64
    del first["safety_identifier"]
    assert first == json.loads(body)


@pytest.mark.parametrize("own", ['"user-7"', "null", '""'])
async def test_one_that_is_there_is_never_touched(open_pool, own):
    pool, _ = await with_client(open_pool, identifier=True)
    for name in ("safety_identifier", "safety\\u005fidentifier"):
        body = chat_body()[:-1] + f',"{name}":{own}}}'.encode()
        await pool.ask(asking(body))
        assert pool.upstream.sent[-1].body == body


async def test_one_in_the_header_is_enough(open_pool):
    pool, _ = await with_client(open_pool, identifier=True)
    await pool.ask(asking(OpenAI_Safety_Identifier="user-7"))
    assert "safety_identifier" not in sent_bodies(pool)[0]


async def test_other_endpoints_and_other_pools_are_left_alone(open_pool):
    pool, _ = await with_client(open_pool, identifier=True)
    embedding = Client(b'{"model":"m","input":"x"}', target="/v1/embeddings", more_headers=HEADERS)
    await pool.ask(embedding)
    assert "safety_identifier" not in sent_bodies(pool)[0]
    plain, _ = await with_client(open_pool)
    await plain.ask(asking())
    assert "safety_identifier" not in sent_bodies(plain)[0]
