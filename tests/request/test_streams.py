"""Streams: what is held before the point of no return, what passes after it, and what each end costs."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest
from quotapool.domain.states import State

from tests.fakes.edge import DONE, Client, chat_body, delta, event, stream, usage_chunk

ROLE = delta(role="assistant", content="")
HELLO = delta(content="Hello")
END = event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
COMMENT = b": keep-alive\n\n"
CREATED = event({"type": "response.created", "response": {"id": "resp_1", "status": "in_progress"}})
QUOTA = {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}


def streaming(**more) -> Client:
    return Client(chat_body(stream=True, **more))


def responding() -> Client:
    body = {"model": "gpt-4o", "input": "hi", "max_output_tokens": 1000, "stream": True}
    return Client(json.dumps(body).encode(), target="/v1/responses")


async def test_a_stream_reaches_the_client_without_what_only_we_asked_for(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(stream(ROLE, HELLO, END, usage_chunk(400, 100), DONE))
    client = await pool.ask(streaming())
    assert json.loads(pool.upstream.sent[0].body)["stream_options"] == {"include_usage": True}
    assert (client.got, client.finished) == (ROLE + HELLO + END + DONE, True)
    assert await pool.taken("a") == (1, 500)


async def test_who_asked_for_usage_gets_it(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(stream(ROLE, HELLO, END, usage_chunk(400, 100), DONE))
    client = await pool.ask(streaming(stream_options={"include_usage": True}))
    assert client.got == ROLE + HELLO + END + usage_chunk(400, 100) + DONE


EARLY_ERRORS = [
    pytest.param(streaming, [event({"error": QUOTA})], id="chat, at once"),
    pytest.param(streaming, [COMMENT, ROLE, event({"error": QUOTA})], id="chat, after the preamble"),
    pytest.param(streaming, [COMMENT + ROLE + event({"error": QUOTA})], id="chat, in one piece"),
    pytest.param(responding, [CREATED, event({**QUOTA, "type": "error"})], id="responses, an error event"),
    pytest.param(
        responding,
        [CREATED, event({"type": "response.failed", "response": {"status": "failed", "error": QUOTA}})],
        id="responses, failed",
    ),
]


@pytest.mark.parametrize(("client", "pieces"), EARLY_ERRORS)
async def test_an_error_under_http_200_before_anything_was_said_moves_to_another_key(open_pool, client, pieces):
    pool = await open_pool({"a": 1, "b": 1})
    good = [ROLE, HELLO, DONE] if client is streaming else [CREATED, event({"type": "response.completed"})]
    pool.upstream.next(stream(*pieces), stream(*good))
    got = await pool.ask(client())
    assert (got.status, got.got, got.finished) == (200, b"".join(good), True)
    bad = pool.accounts_asked[0]
    assert (await pool.states())[f"a/{bad}"].state is State.QUARANTINED
    assert await pool.taken(bad) == (1, 0)
    assert pool.is_idle()


@pytest.mark.parametrize(
    ("client", "said"),
    [
        pytest.param(streaming, {"error": {"message": "Flagged.", "code": "invalid_prompt"}}, id="chat"),
        pytest.param(responding, {"type": "error", "message": "Flagged.", "code": "invalid_prompt"}, id="responses"),
        pytest.param(
            responding,
            {"type": "response.failed", "response": {"error": {"message": "Flagged.", "code": "invalid_prompt"}}},
            id="responses, failed",
        ),
    ],
)
async def test_a_stream_that_begins_with_the_callers_own_mistake_is_an_ordinary_error(open_pool, client, said):
    pool = await open_pool({"a": 1, "b": 1})
    pool.upstream.next(stream(CREATED if client is responding else ROLE, event(said)))
    got = await pool.ask(client())
    assert (got.status, got.error["message"], got.error["code"]) == (400, "Flagged.", "invalid_prompt")
    assert got.header("content-type") == "application/json"
    assert len(pool.upstream.sent) == 1


@pytest.mark.parametrize("leaves", [False, True], ids=["client stays", "client leaves on the error"])
async def test_an_error_after_the_first_words_is_passed_on_and_still_scored(open_pool, leaves):
    pool = await open_pool({"a": 1, "b": 1})
    late = event({"error": QUOTA})
    pool.upstream.next(stream(HELLO, late, DONE))
    client = streaming()
    client.leaves_at = 2 if leaves else -1
    if leaves:
        with pytest.raises(ConnectionResetError):
            await pool.ask(client)
        await pool.quiet()
    else:
        await pool.ask(client)
    assert client.got == HELLO + late + (b"" if leaves else DONE)
    asked = pool.accounts_asked
    assert len(asked) == 1
    assert (await pool.states())[f"a/{asked[0]}"].state is State.QUARANTINED
    assert pool.is_idle()


async def test_the_preamble_is_held_no_longer_than_stream_hold(open_pool):
    pool = await open_pool({"a": 1}, stream_hold=0.02)
    goes_on = asyncio.Event()
    pool.upstream.next(stream(ROLE, goes_on, HELLO, DONE))
    asked = asyncio.create_task(pool.ask(client := streaming()))
    while not client.got:
        assert not asked.done()
        await asyncio.sleep(0.002)
    assert client.got == ROLE  # upstream is silent, the client has what there is
    goes_on.set()
    await asked
    assert client.got == ROLE + HELLO + DONE


async def test_a_late_first_byte_is_not_a_reason_to_begin_the_answer(open_pool):
    """Until upstream says anything, another key can still be asked."""
    pool = await open_pool({"a": 1, "b": 1}, stream_hold=0.001)
    thinks = asyncio.Event()
    pool.upstream.next(stream(thinks, event({"error": QUOTA})), stream(HELLO, DONE))
    asked = asyncio.create_task(pool.ask(client := streaming()))
    await asyncio.sleep(0.01)
    assert not client.started
    thinks.set()
    await asked
    assert (client.status, client.got) == (200, HELLO + DONE)


async def test_the_words_are_not_held(open_pool):
    pool = await open_pool({"a": 1}, stream_hold=60)
    goes_on = asyncio.Event()
    pool.upstream.next(stream(ROLE, HELLO, goes_on, DONE))
    asked = asyncio.create_task(pool.ask(client := streaming()))
    while not client.got:
        await asyncio.sleep(0.001)
    assert client.got == ROLE + HELLO
    goes_on.set()
    await asked


async def test_a_stream_cut_by_its_client_stays_charged_at_least_as_reserved(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(stream(HELLO, HELLO, HELLO, DONE))
    client = streaming()
    client.leaves_at = 2
    with pytest.raises(ConnectionResetError):
        await pool.ask(client)
    await pool.quiet()
    assert await pool.taken("a") == (1, 1000)
    assert pool.upstream.open == 0
    assert pool.is_idle()


async def test_more_seen_than_reserved_is_charged_even_if_the_stream_was_cut(open_pool):
    pool = await open_pool({"a": 1})
    pool.upstream.next(stream(*[HELLO] * 200))
    client = Client(chat_body(max_tokens=100, stream=True))
    client.leaves_at = 150
    with pytest.raises(ConnectionResetError):
        await pool.ask(client)
    await pool.quiet()
    _, tokens = await pool.taken("a")
    assert 140 <= tokens <= 160  # one token a delta, at least


async def test_a_slow_client_slows_upstream_down(open_pool):
    """Given a client that stops reading, I expect the proxy to stop reading too, instead of filling its memory."""
    pool = await open_pool({"a": 1})
    pool.upstream.next(stream(*[HELLO] * 1000, DONE))
    client = streaming()
    client.stalls = asyncio.Event()
    asked = asyncio.create_task(pool.ask(client))
    while not client.got:
        await asyncio.sleep(0.001)
    await asyncio.sleep(0.01)
    assert pool.upstream.answers[0].given <= 2
    client.stalls.set()
    await asked
    assert client.got == HELLO * 1000 + DONE


@pytest.mark.parametrize("target", ["/v1/chat/completions", "/v1/assistants/asst_1/unknown"])
@pytest.mark.parametrize("said", [[], [("X-Accel-Buffering", "yes")]])
async def test_a_proxy_before_this_one_is_asked_not_to_collect_an_event_stream(open_pool, target, said):
    pool = await open_pool({"a": 1})
    reply = stream(delta(content="Hi"), DONE)
    pool.upstream.next(replace(reply, headers=[*reply.headers, *said]))
    client = await pool.ask(Client(chat_body(stream=True), target=target))
    assert [value for name, value in client.answered if name.lower() == "x-accel-buffering"] == ["no"]


async def test_other_answers_say_nothing_about_buffering(open_pool):
    pool = await open_pool({"a": 1})
    assert (await pool.ask()).header("x-accel-buffering") is None
